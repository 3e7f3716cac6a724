"""Files of a run directory appear whole, belong to one process, and hold nothing JSON does not know."""

import json
import math
from pathlib import Path

import pytest

from alpaca.errors import UserError
from alpaca.tracking.run_directory import RunDirectory, write_text


def test_two_runs_never_share_a_directory(tmp_path: Path):
    first = RunDirectory(tmp_path / "run")
    with pytest.raises(UserError, match="another run is writing here"):
        RunDirectory(tmp_path / "run")
    first.close()
    RunDirectory(tmp_path / "run").close()


def test_a_directory_that_holds_a_run_is_not_used_again(tmp_path: Path):
    (tmp_path / "config.yaml").write_text("")
    with pytest.raises(UserError, match="already holds a run"):
        RunDirectory(tmp_path)


def test_a_file_that_could_not_be_written_leaves_the_old_one_and_no_other(tmp_path: Path):
    write_text(tmp_path / "file.json", "old")
    with pytest.raises(TypeError):
        write_text(tmp_path / "file.json", None)  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]
    assert (tmp_path / "file.json").read_text() == "old"


def test_numbers_json_does_not_know_become_null(tmp_path: Path):
    directory = RunDirectory(tmp_path / "run")
    directory.log_metrics(1, 0.5, {"train/loss": math.nan, "train/grad_norm": math.inf})
    directory.finish("finished", {"eval/loss": -math.inf, "nested": [{"x": math.nan}]})
    directory.close()
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert (line["train/loss"], line["train/grad_norm"]) == (None, None)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["eval/loss"], summary["nested"]) == (None, [{"x": None}])


def test_metrics_are_on_disk_at_once(tmp_path: Path):
    directory = RunDirectory(tmp_path / "run")
    directory.log_metrics(1, 0.1, {"train/loss": 1.0})
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["step"] == 1
    directory.close()


def test_a_finished_run_stays_finished_whatever_comes_after(tmp_path: Path):
    directory = RunDirectory(tmp_path / "run")
    directory.finish("finished", {"eval/loss": 1.0})
    directory.finish("interrupted", {})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["eval/loss"]) == ("finished", 1.0)
    directory.close()
