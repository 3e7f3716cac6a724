"""A command writes into a new or empty folder or into one of its own; whatever else is in a folder stays as it is."""

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import SMALL, Outcome, alpaca_run

from alpaca import compare, evaluate, generate, inspect
from alpaca.errors import UserError
from alpaca.tracking.folders import (
    EVALUATION,
    GENERATION,
    GENERATOR,
    INSPECTION,
    KINDS,
    LOCK,
    REPORT,
    RUN,
    SWEEP,
    kind_of,
    refuse_foreign,
)
from alpaca.tracking.lock import hold
from alpaca.tracking.run_directory import RunDirectory


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


RECORDED = json.dumps({"signature": "0123456789", "settings": {"train.seed": 0}, "packages": {}})
GENERATED = json.dumps({"signature": "0123456789", "settings": {"generation.target": 3}, "packages": {}})
HOLDER = "process 7 on host"
OURS = {
    "a run": (RUN, {"env.json": RECORDED, "config.yaml": "", "metrics.jsonl": "", "model/template.json": ""}),
    "a copied run without its lock": (RUN, {"env.json": RECORDED, "notes.txt": "mine"}),
    "an inspection": (INSPECTION, {"env.json": RECORDED, "inspect.json": "{}"}),
    "a generation": (GENERATION, {"env.json": GENERATED, "requests.jsonl": ""}),
    "an evaluation": (EVALUATION, {"evaluation.json": '{"target": "x"}', "summary.json": '{"status": "evaluation"}'}),
    "a sweep": (SWEEP, {"sweep.yaml": "jobs:\n- {folder: a-0123456789, differs: []}\n", "report.md": ""}),
    "a sweep whose list is damaged": (SWEEP, {"sweep.yaml": "jobs: [", "a-0123456789/env.json": RECORDED}),
    "a multirun that Hydra has just begun": (SWEEP, {"multirun.yaml": "_target_: alpaca.sweeping.folder.X"}),
    "a report": (REPORT, {"report.html": f"<head>{GENERATOR}</head>", "report.md": ""}),
}
FOREIGN = {
    "names that runs use": {"data.json": '{"mine": 1}', "config.yaml": "name: run", "model/mine.txt": "precious"},
    "records of other programs": {"env.json": '{"PATH": "/bin"}', "summary.json": '{"status": "finished"}'},
    "an evaluation that is no mapping of ours": {"evaluation.json": '{"target": "accuracy"}'},
    "a sweep of another program": {"sweep.yaml": "method: grid", "multirun.yaml": "x: 1", "run.log": ""},
    "a report of the user's": {"report.html": "<p>mine", "report.md": "mine", "report.csv": "1"},
    "a lock of another program": {LOCK: "12345"},
    "files beside the lock of a run that never began": {LOCK: f"{HOLDER}\nrun\n", "data.json": "[]"},
    "a folder of runs": {"run/env.json": RECORDED},
}


@pytest.mark.parametrize("name", OURS)
def test_a_folder_is_known_by_what_a_command_wrote_into_it(tmp_path: Path, name: str):
    kind, files = OURS[name]
    write(tmp_path, files)
    refuse_foreign(tmp_path, kind)
    for other in {*KINDS} - {kind}:
        with pytest.raises(UserError, match=f"it holds no {other} .an? {kind}"):
            refuse_foreign(tmp_path, other)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_of_the_users_is_nobodys(tmp_path: Path, name: str, kind: str):
    write(tmp_path, FOREIGN[name])
    with pytest.raises(UserError, match=f"output_dir={tmp_path}: it holds no {kind} .other files: "):
        refuse_foreign(tmp_path, kind)


@pytest.mark.parametrize(
    "left",
    [{}, {LOCK: ""}, {LOCK: HOLDER}, {LOCK: f"{HOLDER}\nrun\n"}, {LOCK: HOLDER, "run.log": "", ".env.json.tmp": "{"}],
)
def test_a_run_killed_in_its_first_second_goes_on_in_its_folder(tmp_path: Path, left: dict[str, str]):
    write(tmp_path, left)
    directory = RunDirectory(tmp_path, "0123456789", {})
    assert kind_of(tmp_path, os.listdir(tmp_path)) == RUN
    directory.close()


def test_a_process_killed_in_its_first_second_leaves_what_it_began(tmp_path: Path):
    hold(tmp_path / LOCK, GENERATION).close()
    refuse_foreign(tmp_path, GENERATION)
    with pytest.raises(UserError, match=r"it holds no run .a generation"):
        refuse_foreign(tmp_path, RUN)


@pytest.mark.parametrize(
    ("command", "kind", "options"),
    [(generate.main, GENERATION, ("generation=local", "generation.target=1")), (inspect.main, INSPECTION, SMALL)],
)
def test_a_command_killed_as_it_writes_its_settings_goes_on_in_its_folder(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, command: Callable[[list[str]], int], kind: str, options: tuple
):
    def killed(self: RunDirectory, *_: object) -> None:
        (self.path / "config.yaml").write_text("")
        raise KeyboardInterrupt

    monkeypatch.setattr(RunDirectory, "write_settings", killed)
    assert in_folder(command, workplace, *options, "tracker=disabled", "output_dir=mine")[0] == 130
    refuse_foreign(workplace / "mine", kind)


def in_folder(command: Callable[[list[str]], int], folder: Path, *arguments: str) -> tuple[int, str]:
    err = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        return command(list(arguments)), err.getvalue()


def test_no_command_touches_a_folder_of_the_users(workplace: Path, finished: Outcome):
    user = write(workplace / "user", FOREIGN["names that runs use"] | {"report.md": "mine", "multirun.yaml": "a: 1"})
    before = content(workplace)
    run = str(finished.directory)
    for arguments in (
        ("output_dir=user",),
        ("hydra.run.dir=user",),
        ("train.resume=user",),
        ("-m", "train.seed=0,1", "output_dir=user"),
        ("-m", "train.seed=0,1", "hydra.sweep.dir=user"),
        ("-m", "train.seed=0", "name=x", "output_dir=."),
    ):
        refused = alpaca_run(workplace, *arguments, *SMALL)
        assert (refused.status, refused.err.count("\n")) == (2, 1), (arguments, refused.err)
        assert "choose a new or empty folder" in refused.err
    for command, options in (
        (generate.main, ("generation=local", "generation.target=1", "output_dir=user")),
        (inspect.main, (*SMALL, "output_dir=user")),
        (evaluate.main, (run, "evaluation=loss", "output_dir=user")),
        (compare.main, (run, "--output", "user")),
    ):
        status, err = in_folder(command, workplace, *options)
        assert (status, err.count("\n")) == (2, 1), (command, err)
        assert "choose a new or empty folder" in err
    assert content(workplace) == before
    assert {each.name for each in workplace.iterdir()} == {"rows.json", "user"}
    assert len(list(user.iterdir())) == 5


def test_a_report_goes_into_an_empty_folder_and_again_into_its_own(tmp_path: Path, finished: Outcome):
    (tmp_path / "mine").mkdir()
    for _ in range(2):
        assert in_folder(compare.main, tmp_path, str(finished.directory), "--output", "mine")[0] == 0
    assert (tmp_path / "mine" / "report.html").is_file()


def test_a_dry_run_leaves_no_folder(workplace: Path):
    for arguments in (("hydra.sweep.dir=dry/deep", "train.seed=0,1"), ("name=a,b",)):
        outcome = alpaca_run(workplace, "-m", *arguments, "sweep.dry_run=true", *SMALL)
        assert outcome.status == 0, outcome.err
        assert [each.name for each in workplace.iterdir()] == ["rows.json"]


def test_what_no_run_wrote_stays_in_a_run_directory(workplace: Path):
    """A run that keeps no checkpoint removes its own, and a result is not written over another folder."""
    bare = [part for part in SMALL if not part.startswith("evaluation")]
    bare += ["evaluation=none", "train.max_steps=2", "train.save_every_steps=1", "train.keep_checkpoints=0"]
    first = alpaca_run(workplace, *bare, "output_dir=other")
    assert first.status == 0, first.err
    assert not (workplace / "other" / "checkpoints").exists()
    (workplace / "other" / "summary.json").unlink()  # as if it had been killed before its end
    (workplace / "other" / "model" / "template.json").unlink()
    write(workplace / "other", {"model/mine.txt": "precious", "checkpoints/mine.txt": "precious"})
    outcome = alpaca_run(workplace, *bare, "output_dir=other")
    assert outcome.status == 0, outcome.err
    assert (workplace / "other" / "checkpoints" / "mine.txt").read_text() == "precious"
    assert (workplace / "other" / "model-not-of-this-run-1" / "mine.txt").read_text() == "precious"
    assert (workplace / "other" / "model" / "template.json").is_file()
    (workplace / "other" / "summary.json").unlink()
    write(workplace / "other", {"model/notes/mine.txt": "precious too"})  # in a result that is ours
    outcome = alpaca_run(workplace, *bare, "output_dir=other")
    assert outcome.status == 0, outcome.err
    aside = workplace / "other" / "model-not-of-this-run-2"
    assert [str(each.relative_to(aside)) for each in aside.rglob("*")] == ["notes", "notes/mine.txt"]
    assert (workplace / "other" / "model" / "template.json").is_file()
