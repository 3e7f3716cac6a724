"""Which runs a comparison reads, what it calls those that never began, and which is the baseline by default."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from commands import Outcome

from alpaca import compare
from alpaca.report.comparing import compare as comparison_of
from alpaca.report.reading import read_runs
from alpaca.report.records import DAMAGED, FAILED, MISSING, Comparison
from alpaca.report.rows import troubles
from alpaca.report.variants import fits_settings
from alpaca.sweeping import record

FIRST, SECOND = "optimizer.lr=0.03", "optimizer.lr=0.001"  # jobs of the sweep; by name the second comes first


def job(*differs: str, folder: str | None = None, error: str = "") -> dict[str, object]:
    entry = {"overrides": ["model=tiny", *differs], "differs": list(differs), "folder": folder, "signature": None}
    return {**entry, "variant": None, **({"error": error} if error else {})}


def add_run(sweep: Path, source: Path, setting: str, seed: int = 0) -> str:
    """A finished run with another rate, as `source` left it otherwise; returns its folder's name."""
    folder = sweep / f"{setting},train.seed={seed}-0123456789"
    shutil.copytree(source, folder)
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    settings["optimizer"]["lr"], settings["train"]["seed"] = float(setting.partition("=")[2]), seed
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    environment = json.loads((folder / "env.json").read_text())
    environment["settings"] |= {"optimizer.lr": settings["optimizer"]["lr"], "train.seed": seed}
    (folder / "env.json").write_text(json.dumps(environment))
    return folder.name


def add_sweep(place: Path, source: Path, *more: dict[str, object]) -> Path:
    """A sweep of two rates, and `more` jobs."""
    jobs = [job(setting, "train.seed=0", folder=add_run(place, source, setting)) for setting in (FIRST, SECOND)]
    record.write(place, place.name, record.Question("Which rate?", read="eval/loss"), [*jobs, *more])
    return place


@pytest.fixture
def sweep(tmp_path: Path, finished: Outcome, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A sweep in `outputs/sweeps/rates` of the current directory."""
    monkeypatch.chdir(tmp_path)
    return add_sweep(Path("outputs/sweeps/rates"), finished.directory)


def compared(*places: Path | str) -> Comparison:
    return comparison_of(read_runs([Path(place) for place in places]))


def labels(comparison: Comparison) -> list[str]:
    return [each.label for each in comparison.variants]


def test_however_the_runs_of_a_sweep_are_named_its_first_job_is_the_baseline(
    sweep: Path, monkeypatch: pytest.MonkeyPatch
):
    runs = sorted(folder for folder in sweep.iterdir() if folder.is_dir())
    note = f"Baseline: {FIRST}, of the first of these runs in the order of the sweep rates; --baseline names another."
    for places in ([sweep], ["outputs"], ["outputs/sweeps"], runs, runs[::-1], [runs[0], sweep], [sweep.resolve()]):
        comparison = compared(*places)
        assert labels(comparison) == [FIRST, SECOND], places
        assert note in comparison.notes, places
    assert (compared("outputs").title, compared("outputs").question) == ("rates", "Which rate?")
    monkeypatch.chdir(sweep)
    assert labels(compared(*(run.name for run in runs))) == [FIRST, SECOND]
    monkeypatch.chdir(runs[0].name)
    assert labels(compared(".", f"../{runs[1].name}")) == [FIRST, SECOND]


def test_runs_of_two_sweeps_are_compared_with_the_first_that_is_named(sweep: Path, finished: Outcome):
    other = Path("outputs/sweeps/more")
    name = add_run(other, finished.directory, "optimizer.lr=0.3")
    record.write(other, "more", record.Question(), [job("optimizer.lr=0.3", folder=name)])
    for places, first in (((other, sweep), "optimizer.lr=0.3"), ((sweep, other), FIRST)):
        comparison = compared(*places)
        assert labels(comparison)[0] == first
        assert f"Baseline: {first}, of the first of these runs as they were found; --baseline names another." in (
            comparison.notes
        )


def test_the_default_baseline_is_said_where_it_is_shown_and_a_named_one_is_not(
    sweep: Path, capsys: pytest.CaptureFixture[str]
):
    assert compare.main(["outputs"]) == 0
    assert f"Baseline: {FIRST}" in capsys.readouterr().out
    assert compare.main(["outputs", "--baseline", SECOND]) == 0
    assert "Baseline:" not in capsys.readouterr().out


def test_a_sweep_that_names_its_baseline_is_compared_with_that(sweep: Path, capsys: pytest.CaptureFixture[str]):
    jobs = record.read(sweep)["jobs"]
    record.write(sweep, "rates", record.Question(), jobs, baseline="optimizer.lr=1e-3")
    runs = sorted(folder for folder in sweep.iterdir() if folder.is_dir())
    note = f"Baseline: {SECOND}, as sweep.baseline says; --baseline names another."
    for places in ([sweep], ["outputs"], runs):
        comparison = compared(*places)
        assert labels(comparison) == [SECOND, FIRST], places
        assert note in comparison.notes, places
    assert compare.main(["outputs", "--baseline", FIRST]) == 0
    assert "Baseline:" not in capsys.readouterr().out
    (runs[[SECOND in run.name for run in runs].index(True)] / "summary.json").write_text('{"status": "failed"}')
    comparison = compared(sweep)
    assert f"The baseline optimizer.lr=1e-3 has no result, so {FIRST} is the baseline." in comparison.notes


@pytest.mark.parametrize(
    ("differs", "label", "seed"),
    [
        (["base"], "base", None),
        (["base", "train.seed=-1"], "base", -1),
        (["data_source.filter="], "data_source.filter=", None),
        (["data_source.filter='a, b=c'", "train.seed=0"], "data_source.filter='a, b=c'", 0),
        (["~adapter"], "~adapter", None),
        (["train.seed=-1"], "defaults", -1),
    ],
)
def test_a_job_that_never_began_is_called_what_the_sweep_calls_it(
    sweep: Path, finished: Outcome, differs: list[str], label: str, seed: int | None
):
    shutil.rmtree(sweep)
    add_sweep(sweep, finished.directory, job(*differs, error="it can never run"))
    for place in (sweep, "outputs"):
        comparison = compared(place)
        assert labels(comparison) == [FIRST, SECOND, label]
        shown = label if seed is None else f"{label}, seed {seed}"
        assert troubles(comparison) == [(shown, FAILED, "it can never run")]


def test_a_seed_that_never_began_is_a_row_of_its_variant(sweep: Path, finished: Outcome):
    shutil.rmtree(sweep)
    add_sweep(sweep, finished.directory, job(SECOND, "train.seed=-1", error="no such seed"), job(FIRST, "train.seed=7"))
    comparison = compared(sweep)
    assert labels(comparison) == [FIRST, SECOND]
    assert troubles(comparison) == [
        (f"{FIRST}, seed 7", MISSING, "it has not run yet"), (f"{SECOND}, seed -1", FAILED, "no such seed"),
    ]  # fmt: skip


def test_seeds_alone_are_one_variant_whether_they_began_or_not(tmp_path: Path, finished: Outcome):
    name = add_run(tmp_path / "seeds", finished.directory, FIRST)
    record.write(
        tmp_path / "seeds", "seeds", record.Question(), [job("train.seed=0", folder=name), job("train.seed=-1")]
    )
    comparison = compared(tmp_path / "seeds")
    assert [len(each.runs) for each in comparison.variants] == [2]


def test_a_filter_keeps_the_jobs_that_never_began_and_have_the_setting(
    sweep: Path, finished: Outcome, capsys: pytest.CaptureFixture[str]
):
    shutil.rmtree(sweep)
    add_sweep(sweep, finished.directory, job("optimizer.lr=3e-1"), job("optimizer.lr=0.5"))
    assert compare.main(["outputs", "--filter", "optimizer.lr=0.3"]) == 0
    out = capsys.readouterr().out
    assert "missing  optimizer.lr=3e-1: it has not run yet" in out
    assert "0.5" not in out


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"name: rates\njobs:\n- folder: [a\n", "sweep.yaml, line 4: no YAML ("),
        (b"name: rates\njobs: 3\n", "sweep.yaml: jobs is no list of jobs"),
        (b"jobs:\n- a\n", "sweep.yaml: jobs is no list of jobs"),
        (b"jobs:\n- folder: 3\n", "sweep.yaml: jobs is no list of jobs"),
        (b"", "sweep.yaml: no mapping"),
        (b"name: \xff\n", "sweep.yaml: no text"),
    ],
)
def test_a_damaged_list_of_jobs_is_one_line_with_the_way_out(
    sweep: Path, capsys: pytest.CaptureFixture[str], content: bytes, problem: str
):
    runs = [str(folder) for folder in sweep.iterdir() if folder.is_dir()]
    (sweep / record.FILE).write_bytes(content)
    for places in ([str(sweep)], ["outputs"], runs):
        assert compare.main(places) == 2, places
        err = capsys.readouterr().err
        assert err.count("\n") == 1
        assert f"alpaca: {sweep / problem}" in err
        assert "the sweep's command writes it anew" in err
        assert "remove it" in err
    (sweep / record.FILE).unlink()
    assert compare.main([str(sweep)]) == 0


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'{\n  "status": "finished",\n  "eval/lo', "summary.json, line 3: no JSON ("),
        (b"", "summary.json, line 1: no JSON ("),
        (b"[]", "summary.json: no JSON object"),
        (b"{}", "summary.json: its status is none of finished, failed, interrupted"),
        (b"\xff\xfe\xff", "summary.json: no text"),
    ],
)
def test_a_run_with_a_damaged_summary_is_a_row_that_says_so(
    sweep: Path, capsys: pytest.CaptureFixture[str], content: bytes, problem: str
):
    (folder,) = sweep.glob(f"{SECOND}*")
    (folder / "summary.json").write_bytes(content)
    ((what, status, why),) = troubles(compared(sweep))
    assert (what, status) == (f"{SECOND}, seed 0", DAMAGED)
    assert why.startswith(str(folder / problem))
    assert why.endswith("the file is damaged: the command that made the run runs it again")
    assert compare.main([str(sweep)]) == 0
    assert f"damaged  {SECOND}, seed 0" in capsys.readouterr().out
    assert "seed 0: damaged: " in (sweep / "report.csv").read_text()


def test_runs_of_an_earlier_version_are_told_apart_by_what_was_varied_alone(sweep: Path):
    (folder,) = sweep.glob(f"{SECOND}*")
    settings = yaml.safe_load((folder / "config.yaml").read_text())
    del settings["model"]["hub_id"]  # a field that only describes the model
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    assert labels(compared(sweep)) == [FIRST, SECOND]


@pytest.mark.parametrize(
    "wanted", ["a.rate=1e-4", "a.on=True", "a.on=true", "a.names=[q, v]", "a.names=[q,v],a.rate=0.0001"]
)
def test_a_setting_is_named_as_people_write_it(wanted: str):
    settings = {"a.rate": 0.0001, "a.on": True, "a.names": ["q", "v"]}
    assert fits_settings(settings, (), wanted)
    assert not fits_settings({**settings, "a.rate": 1.0, "a.on": False, "a.names": ["q"]}, (), wanted)
