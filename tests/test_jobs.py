"""Jobs of a multirun: one after another or several at once, never two on one accelerator."""

import json
import re
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
from commands import SMALL, alpaca_command, alpaca_run

from alpaca.errors import UserError
from alpaca.jobs import Jobs, shares

EIGHT = [str(index) for index in range(8)]


def test_accelerators_are_dealt_out_without_overlap():
    assert shares(EIGHT, 4, None) == [("0", "1"), ("2", "3"), ("4", "5"), ("6", "7")]
    assert shares(EIGHT, 3, 2) == [("0", "1"), ("2", "3"), ("4", "5")]
    assert shares([], 3, None) == [(), (), ()]
    assert shares(EIGHT, 1, None) == [()]  # alone a job sees what this process sees


def test_more_jobs_than_accelerators_are_refused():
    with pytest.raises(UserError, match=r"sweep.parallel_jobs=3: this machine has 2 accelerators and each job wants 1"):
        shares(["0", "1"], 3, None)
    with pytest.raises(UserError, match=r"each job wants 8"):
        shares(EIGHT, 2, 8)


def test_no_two_jobs_hold_one_accelerator_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Real processes note when they held which accelerator."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    note = (
        "import os, time; name = os.environ['CUDA_VISIBLE_DEVICES']; start = time.time(); time.sleep(0.3); "
        "open(f'{time.time()}', 'w').write(f'{name} {start} {time.time()}')"
    )
    monkeypatch.chdir(tmp_path)
    jobs = Jobs()
    for number in range(7):
        jobs.start(number, [sys.executable, "-c", note], tmp_path, 3, None)
    jobs.finish()
    assert jobs.ended == [0] * 7
    held = sorted((each.read_text().split() for each in tmp_path.iterdir()), key=lambda each: (each[0], each[1]))
    assert {name for name, _, _ in held} == {"4", "5", "7"}
    for (name, _, end), (other, start, _) in pairwise(held):
        assert name != other or float(end) <= float(start)


def test_a_job_that_fails_is_told_at_once_and_the_others_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    jobs = Jobs()
    for number, status in enumerate((0, 3, 0)):
        jobs.start(number, [sys.executable, "-c", f"raise SystemExit({status})"], tmp_path, 2, None)
    jobs.finish()
    assert sorted(jobs.ended) == [0, 0, 3]
    assert f"job 1 ended with status 3: {tmp_path}" in capfd.readouterr().err


def test_two_runs_at_once_end_as_they_would_one_after_the_other(workplace: Path):
    outcome = alpaca_command(workplace, "-m", *SMALL, "train.seed=0,1", "sweep.parallel_jobs=2")
    assert outcome.status == 0, outcome.err
    started = [json.loads((each / "summary.json").read_text())["wall_time_s"] for each in outcome.directories]
    assert len(started) == 2
    again = alpaca_run(workplace, "-m", *SMALL, "train.seed=0,1", "sweep.parallel_jobs=2")
    assert again.status == 0


@pytest.mark.slow
def test_submitit_brings_a_failed_job_home(workplace: Path):
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    outcome = alpaca_command(
        workplace, "-m", "hydra/launcher=submitit_local", *SMALL, "optimizer.warmup=0", "optimizer.lr=1e-2,1e30"
    )
    assert outcome.status == 1
    assert re.search(r"job 1 \(.*optimizer.lr=1e.?30.*\) did not finish", outcome.err)
    statuses = {each.name.split("-")[0]: json.loads((each / "summary.json").read_text())["status"]
                for each in outcome.directories}  # fmt: skip
    assert statuses == {"optimizer.lr=0.01": "finished", "optimizer.lr=1e+30": "failed"}


def test_jobs_wait_for_room():
    jobs, before = Jobs(), time.monotonic()
    for number in range(2):
        jobs.start(number, [sys.executable, "-c", "import time; time.sleep(0.2)"], Path(), 1, None)
    jobs.finish()
    assert time.monotonic() - before > 0.4  # two sleeps one after the other
