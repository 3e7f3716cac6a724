"""Files of a run directory appear whole, belong to one process, and hold nothing JSON does not know."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from alpaca.errors import UserError
from alpaca.tracking.run_directory import RunDirectory, unfinished, write_text


def opened(path: Path, signature: str = "aaaa", **settings: Any) -> RunDirectory:
    return RunDirectory(path, signature, settings)


def begun(path: Path, signature: str, **settings: Any) -> None:
    """A run that was cut off."""
    directory = opened(path, signature, **settings)
    (path / "config.yaml").write_text("")
    directory.write_environment(device="cpu", precision="fp32", world_size=1)
    directory.close()


def test_two_runs_never_share_a_directory(tmp_path: Path):
    first = opened(tmp_path / "run")
    with pytest.raises(UserError, match="another run is writing here"):
        opened(tmp_path / "run")
    first.close()
    opened(tmp_path / "run").close()


def test_a_finished_run_is_not_touched_again(tmp_path: Path):
    begun(tmp_path, "aaaa")
    (tmp_path / "summary.json").write_text('{"status": "finished"}')
    with pytest.raises(UserError, match="already holds a finished run"):
        opened(tmp_path)


def test_an_unfinished_run_goes_on_under_the_same_signature_only(tmp_path: Path):
    begun(tmp_path, "aaaa", rank=8, alpha=16)
    with pytest.raises(UserError, match=r"unfinished run with other settings \(rank=4 \(was 8\)\)"):
        opened(tmp_path, "bbbb", rank=4, alpha=16)
    again = opened(tmp_path, "aaaa", rank=8, alpha=16)  # a refusal gives the lock back
    assert again.goes_on
    again.close()


def test_the_newest_unfinished_run_of_a_signature_is_found(tmp_path: Path):
    for name, signature in (("1-aaaa", "aaaa"), ("2-aaaa", "aaaa"), ("3-bbbb", "bbbb")):
        begun(tmp_path / name, signature)
    assert unfinished(tmp_path, "aaaa") == tmp_path / "2-aaaa"
    (tmp_path / "2-aaaa" / "summary.json").write_text('{"status": "finished"}')
    assert unfinished(tmp_path, "aaaa") is None
    assert unfinished(tmp_path / "nowhere", "aaaa") is None


def test_metrics_are_forgotten_from_a_step_on_and_half_a_line_with_them(tmp_path: Path):
    begun(tmp_path, "aaaa")
    directory = opened(tmp_path)
    for step in range(1, 6):
        directory.log_metrics(step, step / 5, {"train/loss": float(step)})
    directory.close()
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write('{"step": 6, "tra')
    again = opened(tmp_path)
    again.rewind(3)
    again.log_metrics(4, 0.8, {"train/loss": 40.0})
    again.close()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["train/loss"] for line in lines] == [1.0, 2.0, 3.0, 40.0]
    assert [line["time"] for line in lines] == sorted(line["time"] for line in lines)


def test_a_file_that_could_not_be_written_leaves_the_old_one_and_no_other(tmp_path: Path):
    write_text(tmp_path / "file.json", "old")
    with pytest.raises(TypeError):
        write_text(tmp_path / "file.json", None)  # type: ignore[arg-type]
    assert [file.name for file in tmp_path.iterdir()] == ["file.json"]
    assert (tmp_path / "file.json").read_text() == "old"


def test_numbers_json_does_not_know_become_null(tmp_path: Path):
    directory = opened(tmp_path / "run")
    directory.log_metrics(1, 0.5, {"train/loss": math.nan, "train/grad_norm": math.inf})
    directory.finish("finished", {"eval/loss": -math.inf, "nested": [{"x": math.nan}]})
    directory.close()
    line = json.loads((tmp_path / "run" / "metrics.jsonl").read_text())
    assert (line["train/loss"], line["train/grad_norm"]) == (None, None)
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["eval/loss"], summary["nested"]) == (None, [{"x": None}])


def test_metrics_are_on_disk_at_once(tmp_path: Path):
    directory = opened(tmp_path / "run")
    directory.log_metrics(1, 0.1, {"train/loss": 1.0})
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text())["step"] == 1
    directory.close()


def test_a_finished_run_stays_finished_whatever_comes_after(tmp_path: Path):
    directory = opened(tmp_path / "run")
    directory.finish("finished", {"eval/loss": 1.0})
    directory.finish("interrupted", {})
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (summary["status"], summary["eval/loss"]) == ("finished", 1.0)
    directory.close()
