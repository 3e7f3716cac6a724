"""Multiruns whose jobs another launcher runs: they have their list of jobs and their report like any sweep."""

import json
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from commands import SMALL, alpaca_command, alpaca_run, command_environment, eventually

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

LOCAL = ("-m", "hydra/launcher=submitit_local", *SMALL)
PLACE = Path("outputs/sweeps/run")


@pytest.mark.parametrize("own", ["sweep.dry_run=true", "sweep.one_at_a_time=['adapter=lora']"])
def test_what_only_our_own_sweeps_have_is_refused_before_anything_is_handed_over(workplace: Path, own: str):
    before = sorted(workplace.iterdir())
    outcome = alpaca_run(workplace, *LOCAL, "train.seed=0,1", own)
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "leave out hydra/launcher and hydra/sweeper" in outcome.err
    assert sorted(workplace.iterdir()) == before


def test_where_no_job_can_run_none_is_handed_over(workplace: Path):
    before = sorted(workplace.iterdir())
    outcome = alpaca_run(workplace, *LOCAL, "train.seed=0,1", "adapter.rank=0")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "adapter.rank=0" in outcome.err
    assert sorted(workplace.iterdir()) == before


@pytest.mark.slow
def test_the_report_is_written_when_the_launcher_is_done(workplace: Path):
    outcome = alpaca_command(workplace, *LOCAL, "train.max_steps=2", "optimizer.lr=1e-2,1e-3", "train.seed=0,-1")
    assert outcome.status == 1
    assert outcome.err.splitlines()[-1] == "alpaca: 2 of 4 runs did not finish; the same command runs what is missing"
    assert f"report  {PLACE / 'report.html'}, report.md, report.csv" in outcome.out
    page = (workplace / PLACE / "report.md").read_text()
    assert "optimizer.lr=0.001" in page
    assert page.count("seed -1") == 2
    jobs = yaml.safe_load((workplace / PLACE / "sweep.yaml").read_text())["jobs"]
    assert [bool(job["folder"]) for job in jobs] == [True, False, True, False]
    for job in jobs:
        assert job["folder"] is None or (workplace / PLACE / job["folder"] / "summary.json").is_file()


@pytest.mark.slow
def test_who_does_not_wait_for_the_launcher_is_told_the_command_for_the_report(workplace: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "alpaca.run", *LOCAL, "train.seed=0,1"], cwd=workplace, env=command_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    eventually(lambda: len(list(workplace.glob(f"{PLACE}/train.seed*/config.yaml"))) == 2, "no two jobs", process)
    found = list(workplace.glob(f"{PLACE}/train.seed*/config.yaml"))
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 130
    last = said.splitlines()[-1]
    assert last.endswith(f"for the report afterwards: python -m alpaca.compare {PLACE}")
    eventually(lambda: all((file.parent / "summary.json").exists() for file in found), "the jobs do not end")
    done = subprocess.run(
        [sys.executable, *last.rpartition(": python ")[2].split()], cwd=workplace, env=command_environment(),
        check=False, capture_output=True, text=True,
        timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    statuses = {json.loads((file.parent / "summary.json").read_text())["status"] for file in found}
    assert statuses <= {"finished", "interrupted"}
    assert (workplace / PLACE / "report.md").is_file()
