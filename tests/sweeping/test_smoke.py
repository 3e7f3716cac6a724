"""`sweep=smoke` as shipped: five runs finish, one fails, and a sweep that was killed ends with the same table."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from commands import Outcome, alpaca_command, command_environment, eventually

COMMAND = ("sweep=smoke", "tracker=disabled")
PLACE = "outputs/sweeps/smoke"
OF_THE_CLOCK = ("wall_time_s", "perf/", "model_path")

pytestmark = pytest.mark.slow


def table(folder: Path) -> dict[str, dict[str, Any]]:
    """Summaries of the runs by their folder's name, without what depends on the clock or the place."""
    found = {file.parent.name: json.loads(file.read_text()) for file in (folder / PLACE).glob("*/summary.json")}
    return {
        name: {key: value for key, value in summary.items() if not key.startswith(OF_THE_CLOCK)}
        for name, summary in found.items()
    }


@pytest.fixture(scope="module")
def smoke(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return alpaca_command(tmp_path_factory.mktemp("smoke"), *COMMAND)


def test_five_runs_finish_one_fails_and_there_is_a_report(smoke: Outcome):
    assert smoke.status == 1
    runs = table(smoke.folder)
    assert sorted(run["status"] for run in runs.values()) == ["failed", *["finished"] * 5]
    (failed,) = [run for run in runs.values() if run["status"] == "failed"]
    assert "model.attention=varlen" in failed["error"]
    assert smoke.err.count("model.attention=varlen") >= 1, "told when it happens"
    assert "1 of 6 runs did not finish" in smoke.err
    for name in ("report.md", "report.csv", "report.html", "sweep.yaml"):
        assert (smoke.folder / PLACE / name).stat().st_size > 0
    variants = {json.loads((folder / "env.json").read_text())["settings"]["adapter.rank"]
                for folder in (smoke.folder / PLACE).iterdir() if folder.is_dir()}  # fmt: skip
    assert variants == {8, 4}


def test_started_again_only_the_failed_one_runs(smoke: Outcome):
    before = table(smoke.folder)
    again = alpaca_command(smoke.folder, *COMMAND)
    assert again.status == 1
    assert again.out.count("finished already, skipped") == 5
    assert again.out.count("\nrun    ") == 1
    assert table(smoke.folder) == before


def test_killed_in_the_middle_and_started_again_it_ends_with_the_same_table(smoke: Outcome, tmp_path: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "alpaca.run", *COMMAND], cwd=tmp_path, env=command_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    pids: list[int] = []
    end = time.monotonic() + 240
    while not pids:
        assert process.poll() is None
        assert time.monotonic() < end, "no job trains while another is done"
        time.sleep(0.02)
        training = [
            file.parent for file in (tmp_path / PLACE).glob("*/metrics.jsonl") if "train/loss" in file.read_text()
        ]
        training = [folder for folder in training if not (folder / "summary.json").exists()]
        done = list((tmp_path / PLACE).glob("*/summary.json"))
        if training and done:
            pids = [int((folder / ".lock").read_text().split()[1]) for folder in training]
    for pid in (process.pid, *pids):
        os.kill(pid, signal.SIGKILL)
    process.wait(timeout=240)
    assert 0 < len(table(tmp_path)) < 6
    eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "the jobs stay")
    again = alpaca_command(tmp_path, *COMMAND)
    assert again.status == 1, again.err
    assert table(tmp_path) == table(smoke.folder)


def test_a_sweep_that_is_killed_takes_its_jobs_along(tmp_path: Path):
    """They save and end as interrupted, so that the same command can go on at once."""
    long = ("-m", *COMMAND[1:], "model=tiny", "data_source=seed_tasks", "train.epochs=500", "train.global_batch_size=8",
            "train.save_every_epoch=false", "train.seed=0,1")  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-m", "alpaca.run", *long], cwd=tmp_path, env=command_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    logs = "outputs/sweeps/run/*/metrics.jsonl"
    eventually(lambda: any("train/loss" in file.read_text() for file in tmp_path.glob(logs)), "no step", process)
    found = list(tmp_path.glob(logs))
    process.kill()
    process.wait(timeout=240)
    pid = int((found[0].parent / ".lock").read_text().split()[1])
    for _ in range(600):
        if not Path(f"/proc/{pid}").exists():
            break
        time.sleep(0.1)
    summary = json.loads((found[0].parent / "summary.json").read_text())
    assert summary["status"] == "interrupted"
    assert list(found[0].parent.glob("checkpoints/step-*"))
    assert len(list(tmp_path.glob("outputs/sweeps/run/*/config.yaml"))) == 1
