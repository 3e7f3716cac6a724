"""Ctrl-C and `kill` of a sweep: its jobs get every signal once, wherever it came from, and save."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import SMALL, command_environment, eventually

from alpaca.jobs import Jobs

# Notes each SIGINT and SIGTERM; ends at a given number of them.
JOB = """
import os, pathlib, signal, sys, time
heard, place = [], pathlib.Path(sys.argv[1])
def hear(number, frame):
    heard.append(signal.Signals(number).name)
    (place / "heard").write_text(" ".join(heard))
for number in (signal.SIGINT, signal.SIGTERM):
    signal.signal(number, hear)
(place / "pid").write_text(str(os.getpid()))
(place / "stdin").write_text(repr(sys.stdin.read()))
while len(heard) < int(sys.argv[2]):
    time.sleep(0.01)
time.sleep(0.3)
"""
# A parent with one job.
PARENT = """
import sys, pathlib
from alpaca.jobs import Jobs
jobs, place = Jobs(), pathlib.Path(sys.argv[1])
with jobs.forwarding():
    try:
        jobs.start(0, [sys.executable, "-c", pathlib.Path("job.py").read_text(), *sys.argv[1:]], place, 2, None)
        jobs.finish()
    except KeyboardInterrupt:
        print("interrupted", jobs.ended)
"""


def alone(process: subprocess.Popen, number: int) -> None:
    """As `kill` does."""
    process.send_signal(number)


def from_the_terminal(process: subprocess.Popen, number: int) -> None:
    """As a terminal does: to the whole group in front."""
    os.killpg(process.pid, number)


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[[int], subprocess.Popen]]:
    """Starts a parent, in a group of its own, whose job ends at so many signals."""
    started: list[subprocess.Popen] = []

    def start(signals: int) -> subprocess.Popen:
        (tmp_path / "job.py").write_text(JOB)
        process = subprocess.Popen(
            [sys.executable, "-c", PARENT, str(tmp_path), str(signals)], cwd=tmp_path, env=command_environment(),
            stdout=subprocess.PIPE, text=True, process_group=0,
        )  # fmt: skip
        started.append(process)
        eventually((tmp_path / "stdin").exists, "the job did not begin, or it waits for a terminal's input")
        return process

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=240)
    if (tmp_path / "pid").exists() and Path(f"/proc/{(tmp_path / 'pid').read_text()}").exists():
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


@pytest.mark.parametrize("sent", [alone, from_the_terminal])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
def test_a_job_hears_a_signal_once_and_its_parent_waits_for_it(
    start: Callable[[int], subprocess.Popen], tmp_path: Path, sent: Callable, number: signal.Signals
):
    process = start(1)
    sent(process, number)
    said, _ = process.communicate(timeout=60)
    assert said == "interrupted [0]\n"
    assert (tmp_path / "heard").read_text() == number.name
    assert (tmp_path / "stdin").read_text() == "''"


@pytest.mark.parametrize("sent", [alone, from_the_terminal])
def test_a_second_press_reaches_the_job_as_its_second(
    start: Callable[[int], subprocess.Popen], tmp_path: Path, sent: Callable
):
    process = start(2)
    sent(process, signal.SIGINT)
    eventually((tmp_path / "heard").exists, "the first press did not reach the job")
    assert process.poll() is None
    sent(process, signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert said == "interrupted [0]\n"
    assert (tmp_path / "heard").read_text() == "SIGINT SIGINT"


def test_ctrl_z_halts_the_jobs_with_the_sweep_until_it_goes_on(
    start: Callable[[int], subprocess.Popen], tmp_path: Path
):
    def state(pid: int) -> str:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]

    process = start(1)
    pid = int((tmp_path / "pid").read_text())
    from_the_terminal(process, signal.SIGTSTP)
    eventually(lambda: state(process.pid) == state(pid) == "T", "one of them goes on")
    from_the_terminal(process, signal.SIGCONT)
    eventually(lambda: "T" not in (state(process.pid), state(pid)), "one of them does not go on")
    alone(process, signal.SIGINT)
    assert process.communicate(timeout=60)[0] == "interrupted [0]\n"


def test_a_signal_while_a_job_is_made_reaches_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The job exists by then, but the parent does not know of it yet."""

    class Slow(subprocess.Popen):
        def __init__(self, *arguments, **options):
            super().__init__(*arguments, **options)
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr("alpaca.jobs.subprocess.Popen", Slow)
    jobs = Jobs()
    with jobs.forwarding():
        with pytest.raises(KeyboardInterrupt):
            jobs.start(0, [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path, 1, None)
        with pytest.raises(KeyboardInterrupt):
            jobs.finish()
    assert jobs.ended == [130]


def test_what_another_handler_heard_is_handed_on_once(tmp_path: Path):
    """As while data is made in this process, which ends gently at a signal of its own."""
    jobs = Jobs()
    with jobs.forwarding():
        jobs.start(0, [sys.executable, "-c", JOB, str(tmp_path), "1"], tmp_path, 2, None)
        eventually((tmp_path / "stdin").exists, "the job did not begin")
        jobs.interrupt()
        jobs.interrupt()
        with pytest.raises(KeyboardInterrupt):
            jobs.finish()
    assert (tmp_path / "heard").read_text() == "SIGINT"


def test_a_signal_interrupts_what_is_done_beside_running_jobs(tmp_path: Path):
    jobs = Jobs()
    with jobs.forwarding():
        jobs.start(0, [sys.executable, "-c", "import time; time.sleep(600)"], tmp_path, 2, None)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            jobs.finish()
    assert jobs.ended == [130]


def test_a_process_without_our_handlers_hands_an_interrupt_on_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As the process that Slurm or Ray begins for a job."""
    jobs = Jobs()
    program = (  # what is started in the background of a script ignores SIGINT, and so do its children
        "import pathlib, signal, time; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch(); time.sleep(600)"
    )
    jobs.start(0, [sys.executable, "-c", program], tmp_path, 1, None)
    eventually((tmp_path / "ready").exists, "the job does not begin")
    interrupted = iter([KeyboardInterrupt])

    def sleep(seconds: float) -> None:
        for error in interrupted:
            raise error

    monkeypatch.setattr("alpaca.jobs.time.sleep", sleep)
    with pytest.raises(KeyboardInterrupt):
        jobs.finish()
    assert jobs.ended == [130]


@pytest.mark.parametrize("sent", [alone, from_the_terminal])
def test_an_interrupted_sweep_saves_the_run_under_way_and_starts_no_other(workplace: Path, sent: Callable):
    long = (*SMALL, "train.max_steps=4000", "train.epochs=1000", "train.seed=0,1")
    process = subprocess.Popen(
        [sys.executable, "-m", "alpaca.run", "-m", *long], cwd=workplace, env=command_environment(),
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, process_group=0,
    )  # fmt: skip
    logs = "outputs/sweeps/run/*/metrics.jsonl"
    eventually(lambda: any("train/loss" in file.read_text() for file in workplace.glob(logs)), "no step", process)
    sent(process, signal.SIGINT)
    said, _ = process.communicate(timeout=240)
    assert process.returncode == 130, said
    assert "Traceback" not in said
    assert said.count("SIGINT: finishing this step and saving a checkpoint") == 1
    assert said.count("alpaca: interrupted; the same command goes on with this sweep") == 1
    (begun,) = workplace.glob("outputs/sweeps/run/train.seed*")
    assert json.loads((begun / "summary.json").read_text())["status"] == "interrupted"
    assert list(begun.glob("checkpoints/step-*"))
