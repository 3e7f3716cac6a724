"""A sweep worked off by real processes: one job is killed, the others finish, and the same command mends it."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import wandb
import yaml
from commands import SMALL, Outcome, alpaca_command, alpaca_run, command_environment, eventually, some_rows
from wandb_files import items, records_of

BY_NAME = ("base", "train.max_steps=3", "train.epochs=60")
GRID = (
    "-m",
    *SMALL,
    "tracker=offline",
    "train.save_every_epoch=false",
    "train.save_every_steps=50",
    "extra_tags=[trial]",
    "name=trial",
    "sweep.one_at_a_time=['train.max_steps=3','train.epochs=60']",
    "sweep.parallel_jobs=2",
)


@dataclass(frozen=True)
class Trial:
    """A sweep of three jobs whose last was killed, left alone, and run again."""

    folder: Path
    killed: Outcome
    statuses: dict[str, str]
    error: str
    wandb: list[Path]
    dry: Outcome
    left: Outcome
    again: Outcome


def place(folder: Path) -> Path:
    return folder / "outputs" / "sweeps" / "trial"


def directory(folder: Path, name: str) -> Path:
    (found,) = place(folder).glob(f"{name}-*")
    return found


def summaries(folder: Path) -> dict[str, dict[str, Any]]:
    return {name: json.loads((directory(folder, name) / "summary.json").read_text()) for name in BY_NAME}


def kill_when_it_trains(folder: Path, process: subprocess.Popen) -> None:
    def logs() -> list[Path]:
        return [file for file in place(folder).glob("train.epochs=60-*/metrics.jsonl") if "loss" in file.read_text()]

    eventually(logs, "the sweep ended before a job could be killed", process)
    pid = int((logs()[0].parent / ".lock").read_text().split()[1])
    os.kill(pid, signal.SIGKILL)


@pytest.fixture(scope="module")
def wandb_around() -> Iterator[None]:
    """W&B's service of a process around the sweep, such as a notebook's, which its environment names."""
    wandb.setup()
    assert "WANDB_SERVICE" in os.environ
    yield
    wandb.teardown()


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory, wandb_around: None) -> Trial:
    folder = tmp_path_factory.mktemp("trial")
    (folder / "rows.json").write_text(json.dumps(some_rows(48)))
    process = subprocess.Popen(
        [sys.executable, "-m", "alpaca.run", *GRID], cwd=folder, env=command_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    kill_when_it_trains(folder, process)
    out, err = process.communicate(timeout=240)
    found = summaries(folder)
    return Trial(
        folder,
        Outcome(process.returncode, out, err, folder),
        {name: summary["status"] for name, summary in found.items()},
        found[BY_NAME[2]]["error"],
        sorted(folder.rglob("*.wandb")),
        alpaca_run(folder, *GRID, "sweep.dry_run=true"),
        alpaca_run(folder, *GRID, "sweep.retry_failed=false", "tracker=disabled"),
        alpaca_command(folder, *GRID, "tracker=disabled"),
    )


def test_a_killed_job_stops_no_other_and_is_told_when_it_happens(trial: Trial):
    assert trial.killed.status == 1
    assert trial.statuses == {BY_NAME[0]: "finished", BY_NAME[1]: "finished", BY_NAME[2]: "failed"}
    assert f"job 2 was killed by SIGKILL: {directory(trial.folder, BY_NAME[2])}" in trial.killed.err
    assert trial.killed.err.splitlines()[-1] == (
        "alpaca: 1 of 3 runs did not finish; the same command runs what is missing"
    )
    assert "Traceback" not in trial.killed.err


def test_the_parent_says_for_a_killed_run_how_it_ended(trial: Trial):
    assert trial.error == "killed by SIGKILL; the system does that when memory runs out"


def test_the_sweep_is_on_disk_with_the_folder_and_signature_of_every_job(trial: Trial):
    found = yaml.safe_load((place(trial.folder) / "sweep.yaml").read_text())
    assert (found["name"], found["question"]) == ("trial", "")
    assert [job["differs"] for job in found["jobs"]] == [["base"], [BY_NAME[1]], [BY_NAME[2]]]
    for job, name in zip(found["jobs"], BY_NAME, strict=True):
        assert job["folder"] == directory(trial.folder, name).name == f"{name}-{job['signature']}"
        assert {"model=tiny", "name=trial"} < set(job["overrides"])
    assert not (place(trial.folder) / "multirun.yaml").exists()


def test_a_failed_run_is_left_alone_on_request_and_still_fails_the_sweep(trial: Trial):
    assert trial.left.status == 1
    assert trial.left.out.count("finished already, skipped") == 2
    assert trial.left.out.count("failed before, left as it is (sweep.retry_failed=false)") == 1


def test_a_dry_run_says_what_is_there_and_what_the_rest_costs(trial: Trial):
    assert trial.dry.status == 0, trial.dry.err
    assert [line.rsplit(" ", 1)[1] for line in trial.dry.out.splitlines() if line.startswith("  -> ")] == [
        "finished", "finished", "failed",
    ]  # fmt: skip
    assert trial.dry.out.count("5 steps of 8 examples on 1 device, 1.0 micro-batches") == 1
    assert trial.dry.out.count("300 steps of 8 examples") == 1
    assert trial.dry.out.splitlines()[-1].startswith("1 run to do")
    assert "\nmodel  tiny" not in trial.dry.out


def test_the_same_command_runs_only_the_failed_one_and_goes_on_with_it(trial: Trial):
    assert trial.again.status == 0, trial.again.err
    assert trial.again.out.count("finished already, skipped") == 2
    assert trial.again.out.count("\nmodel  tiny") == 1
    assert summaries(trial.folder)[BY_NAME[2]]["steps"] == 300


def test_every_end_of_a_sweep_writes_its_report(trial: Trial):
    assert (place(trial.folder) / "report.md").is_file()
    assert BY_NAME[1] in (place(trial.folder) / "report.md").read_text()


@dataclass(frozen=True)
class Logged:
    """What the W&B files of one run say."""

    group: str
    job_type: str
    tags: list[str]
    config: dict[str, Any]
    ended: list[int]
    summary: dict[str, Any]


def logged(files: list[Path]) -> dict[str, Logged]:
    """Runs by their name, from all their files: one that another process closed has two."""
    found: dict[str, Logged] = {}
    for file in files:
        name, summary, ended, run = "", {}, [], None
        for record in records_of(file):
            if record.HasField("run"):
                run = record.run
                name = f"{run.display_name} {run.run_id}"
            if record.HasField("summary"):
                summary |= items(record.summary.update)
            if record.HasField("exit"):
                ended.append(record.exit.exit_code)
        if run is None:  # what a killed run had not written yet is lost
            continue
        before = found.get(name)
        found[name] = Logged(
            run.run_group, run.job_type, list(run.tags), items(run.config.update),
            [*(before.ended if before else []), *ended], {**(before.summary if before else {}), **summary},
        )  # fmt: skip
    return found


def test_every_job_is_a_wandb_run_of_its_own_in_the_group_and_the_killed_one_is_failed(trial: Trial):
    found = {name: run for name, run in logged(trial.wandb).items() if run.job_type == "train"}
    assert len(found) == 3
    by_name = {next(known for known in BY_NAME if name.startswith(known)): run for name, run in found.items()}
    assert {run.group for run in by_name.values()} == {"trial"}
    for run in by_name.values():
        assert {"model=tiny", "adapter=full", "optimizer=adamw", "trial"} <= set(run.tags)
    assert {name: run.ended for name, run in by_name.items()} == {BY_NAME[0]: [0], BY_NAME[1]: [0], BY_NAME[2]: [1]}
    assert {name: run.summary["status"] for name, run in by_name.items()} == trial.statuses
    assert by_name[BY_NAME[2]].summary["error"] == trial.error
    found_signatures = {run.config["signature"] for run in by_name.values()}
    assert found_signatures == {json.loads((directory(trial.folder, name) / "env.json").read_text())["signature"]
                                for name in BY_NAME}  # fmt: skip


def test_a_sweep_says_once_how_its_offline_runs_are_sent(trial: Trial):
    folder = place(trial.folder).relative_to(trial.folder)
    assert trial.killed.out.count("wandb sync") == 1
    assert "python -m alpaca.chat" not in trial.killed.out, "no job says what is next"
    assert f"wandb sync {folder}/wandb/offline-run-* {folder}/*/wandb/offline-run-*\n" in trial.killed.out


def test_the_report_is_an_artifact_of_a_wandb_run_beside_them(trial: Trial):
    (report,) = [run for run in logged(trial.wandb).values() if run.job_type == "report"]
    assert (report.group, report.ended, report.summary["finished"]) == ("trial", [0], 2)
    assert report.config["runs"][directory(trial.folder, BY_NAME[2]).name] == "failed"


@pytest.mark.slow
def test_a_job_that_is_refused_before_it_has_a_directory_is_a_failed_run_too(workplace: Path):
    """Both jobs have one signature, sharing changes no result; and a CPU has nothing to offload from."""
    outcome = alpaca_command(
        workplace, "-m", *SMALL, "tracker=offline", "parallelism=single,fsdp_offload",
        environment={"CUDA_VISIBLE_DEVICES": ""},
    )  # fmt: skip
    assert outcome.status == 1
    found = {folder.name.split("-")[0]: json.loads((folder / "summary.json").read_text())
             for folder in outcome.directories}  # fmt: skip
    assert {name: summary["status"] for name, summary in found.items()} == {
        "parallelism=single": "finished", "parallelism=fsdp_offload": "failed",
    }  # fmt: skip
    assert "there is no accelerator here" in found["parallelism=fsdp_offload"]["error"]
    ended = {run.tags[4]: run.ended for run in logged(sorted(workplace.rglob("*.wandb"))).values() if run.tags}
    assert ended == {"parallelism=single": [0], "parallelism=fsdp_offload": [1]}


def test_a_job_that_can_never_run_is_named_and_none_at_all_is_a_mistake(workplace: Path):
    outcome = alpaca_run(workplace, "-m", *SMALL, "train.seed=-1,-2")
    assert outcome.status == 2
    assert [line.partition(":")[2].partition(":")[0] for line in outcome.err.splitlines()[:2]] == [
        " job 0 (train.seed=-1)", " job 1 (train.seed=-2)",
    ]  # fmt: skip
    one = alpaca_run(workplace, "-m", *SMALL, "adapter.rank=0", "train.seed=0,1")
    assert (one.status, one.err.count("\n")) == (2, 1), "the same fault of all is told once"
    assert not list(workplace.glob("outputs/sweeps/run/*"))


@pytest.mark.parametrize("typed", ["sweep=[lora_rank,recipe]", "sweep=lora_rank,recipe"])
def test_two_sweeps_at_once_are_refused(workplace: Path, typed: str):
    outcome = alpaca_run(workplace, "-m", *SMALL, typed)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert "one sweep at a time" in outcome.err


RANKS = ("-m", *SMALL, "adapter=lora", "adapter.rank=4,8", "train.seed=0,1")


@pytest.mark.parametrize(
    ("baseline", "why"),
    [("adapter.rank=16", "no run of this sweep has that; name one of adapter.rank=4; adapter.rank=8, or null"),
     ("adapter=lora", "several settings of this sweep have that; name one of adapter.rank=4; adapter.rank=8, or")],
)  # fmt: skip
def test_a_baseline_that_is_no_variant_of_the_sweep_is_refused_before_anything_trains(
    workplace: Path, baseline: str, why: str
):
    before = sorted(workplace.iterdir())
    outcome = alpaca_run(workplace, *RANKS, f"sweep.baseline='{baseline}'")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert f"sweep.baseline={baseline}: {why}" in outcome.err
    assert sorted(workplace.iterdir()) == before


def test_a_shipped_sweep_with_other_values_goes_without_its_baseline_and_says_so(workplace: Path):
    outcome = alpaca_run(workplace, *SMALL, "sweep=lora_rank", "adapter.rank=2,4", "train.seed=0", "sweep.dry_run=true")
    assert outcome.status == 0, outcome.err
    assert "no run has the sweep's baseline adapter.rank=8: the report compares with the first, adapter.rank=2" in (
        outcome.out
    )
    assert "baseline" not in alpaca_run(workplace, *SMALL, "sweep=lora_rank", "train.seed=0", "sweep.dry_run=true").out


def test_a_shipped_sweep_with_more_than_its_own_values_compares_with_the_first_of_its_baseline(workplace: Path):
    more = ("adapter.rank=4,8", "optimizer.lr=0.001,0.0001", "train.seed=0", "sweep.dry_run=true")
    outcome = alpaca_run(workplace, *SMALL, "sweep=lora_rank", *more)
    assert outcome.status == 0, outcome.err
    assert "several settings have the sweep's baseline adapter.rank=8: the report compares with adapter.rank=8," in (
        outcome.out
    )


@pytest.mark.parametrize("seeds", ["0", pytest.param("0,1,2", marks=pytest.mark.slow)])
def test_of_two_sweeps_begun_together_each_leaves_the_others_runs_alone(workplace: Path, seeds: str):
    """Whoever finds a folder locked writes nothing into it; both end well, and the last one writes the report."""
    command = [sys.executable, "-m", "alpaca.run", "-m", *SMALL, f"train.seed={seeds}", "output_dir=both"]
    sweeps = [
        subprocess.Popen(
            command,
            cwd=workplace,
            env=command_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for _ in range(2)
    ]
    said = [sweep.communicate(timeout=280)[0] for sweep in sweeps]
    assert [sweep.returncode for sweep in sweeps] == [0, 0], said
    runs = sorted(workplace.glob("both/*/summary.json"))
    assert len(runs) == len(seeds.split(","))
    assert all(json.loads(run.read_text())["status"] == "finished" for run in runs), said
    listed = yaml.safe_load((workplace / "both" / "sweep.yaml").read_text())["jobs"]
    assert sorted(job["folder"] for job in listed) == [run.parent.name for run in runs]
    report = (workplace / "both" / "report.md").read_text()
    assert "failed" not in report
    assert "interrupted" not in report
