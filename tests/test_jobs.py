"""Jobs of a multirun: one after another or several at once, never two on one accelerator."""

import json
import re
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from commands import SMALL, Outcome, alpaca_command, alpaca_run, command_environment, eventually

from alpaca.errors import UserError
from alpaca.jobs import Jobs, share


def test_each_job_gets_an_equal_share_unless_it_says_how_many():
    assert (share(8, 4, None), share(8, 3, None), share(8, 3, 1)) == (2, 2, 1)
    assert share(0, 3, None) == share(8, 1, None) == 0  # all there are


def test_more_jobs_than_accelerators_are_refused():
    with pytest.raises(UserError, match=r"sweep.parallel_jobs=3: this machine has 2 accelerators and each job wants 1"):
        share(2, 3, None)
    with pytest.raises(UserError, match=r"each job wants 8"):
        share(8, 2, 8)


def test_no_two_jobs_hold_one_accelerator_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Real processes note when they held which accelerator."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,7")
    note = (
        "import os, time; name = os.environ['CUDA_VISIBLE_DEVICES']; start = time.time(); time.sleep(0.3); "
        "open(f'{time.time()}', 'w').write(f'{name} {start} {time.time()}')"
    )
    monkeypatch.chdir(tmp_path)
    jobs = Jobs()
    for number in range(9):
        jobs.start(number, [sys.executable, "-c", note], tmp_path, 2 if number % 3 == 0 else 3, None)
    jobs.finish()
    assert jobs.ended == [0] * 9
    notes = [each.read_text().split() for each in tmp_path.iterdir()]
    held = sorted((name, float(start), float(end)) for names, start, end in notes for name in names.split(","))
    assert {name for name, _, _ in held} == {"4", "5", "7"}
    for (name, _, end), (other, start, _) in pairwise(held):
        assert name != other or end <= start


def test_a_job_that_fails_is_told_at_once_and_the_others_run(tmp_path: Path, capfd: pytest.CaptureFixture[str]):
    jobs = Jobs()
    for number, status in enumerate((0, 3, 0)):
        jobs.start(number, [sys.executable, "-c", f"raise SystemExit({status})"], tmp_path, 2, None)
    jobs.finish()
    assert sorted(jobs.ended) == [0, 0, 3]
    assert f"job 1 ended with status 3: {tmp_path}" in capfd.readouterr().err


def test_two_runs_at_once_end_as_they_would_one_after_the_other(workplace: Path, finished: Outcome):
    outcome = alpaca_command(workplace, "-m", *SMALL, "train.seed=0,1", "sweep.parallel_jobs=2")
    assert outcome.status == 0, outcome.err
    losses = {each.name.split("-")[0]: json.loads((each / "summary.json").read_text())["eval/loss"]
              for each in outcome.directories}  # fmt: skip
    assert losses.keys() == {"train.seed=0", "train.seed=1"}
    assert losses["train.seed=0"] == finished.summary["eval/loss"]
    again = alpaca_run(workplace, "-m", *SMALL, "train.seed=0,1", "sweep.parallel_jobs=2")
    assert (again.status, again.out.count("finished already, skipped")) == (0, 2)


def test_a_signal_ends_the_jobs_and_starts_no_other(workplace: Path):
    slow = [*SMALL, "train.max_steps=4000", "train.epochs=1000", "train.seed=0,1,2,3", "sweep.parallel_jobs=2"]
    process = subprocess.Popen(
        [sys.executable, "-m", "alpaca.run", "-m", *slow], cwd=workplace, env=command_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    eventually(
        lambda: len(list(workplace.glob("outputs/sweeps/run/*/metrics.jsonl"))) == 2, "two jobs do not train", process
    )
    process.send_signal(signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 130, said
    begun = list(workplace.glob("outputs/sweeps/run/train.seed*"))
    assert len(begun) == 2
    assert {json.loads((each / "summary.json").read_text())["status"] for each in begun} == {"interrupted"}


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
