"""A terminal that goes away, closed streams or a missing home end no command, and what was trained is saved."""

import contextlib
import fcntl
import getpass
import json
import os
import pty
import signal
import subprocess
import sys
import termios
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from commands import SMALL, command_environment

from alpaca import startup

CODE = """
import sys
from pathlib import Path
from alpaca import startup
startup.start()
startup.start()
from rich.console import Console
console = Console(file=sys.stdout)
for number in range(2000):
    print("line", number, flush=True)
    console.print("rich", number)
    print("warning \\xfc\\u20ac", file=sys.stderr)
opened = Path("written").open("w")
assert opened.fileno() > 2, "a file has the number of a standard stream"
opened.write("to the end")
"""


def script(folder: Path, shell: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`shell` in bash, where $CODE is a program that prints, then writes the file `written`."""
    (folder / "code.py").write_text(CODE)
    text = shell.replace("$CODE", f"{sys.executable} code.py")
    return subprocess.run(
        ["bash", "-c", text], cwd=folder, env=command_environment(**environment), capture_output=True, text=True,
        check=False, timeout=120,
    )  # fmt: skip


@pytest.mark.parametrize(
    "shell",
    [
        "$CODE >&-",
        "$CODE 2>&-",
        "$CODE <&- >&- 2>&-",
        "$CODE 2>&1 | head -1; exit ${PIPESTATUS[0]}",
        "$CODE >/dev/full 2>/dev/full",
        "PYTHONIOENCODING=ascii $CODE",
    ],
)
def test_output_that_cannot_be_written_is_dropped(tmp_path: Path, shell: str):
    done = script(tmp_path, shell)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "written").read_text() == "to the end"
    assert "Traceback" not in done.stderr


def test_output_that_can_be_written_is_whole_and_in_order(tmp_path: Path):
    done = script(tmp_path, "$CODE")
    numbers = range(2000)
    assert done.stdout.splitlines() == [f"{word} {number}" for number in numbers for word in ("line", "rich")]
    assert done.stderr.splitlines() == ["warning ü€"] * 2000
    assert script(tmp_path, "$CODE", PYTHONIOENCODING="ascii").stderr.startswith("warning \\xfc\\u20ac\n")


def test_a_user_without_home_or_name_gets_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def no_entry(uid: int) -> None:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", no_entry)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    for name in ("HOME", "USER", "LOGNAME", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "x")  # so that it is put back afterwards
        monkeypatch.delenv(name)
    startup.start()
    assert Path.home().parent == tmp_path
    assert Path.home().is_dir()
    assert getpass.getuser() == str(os.getuid())
    planted = tmp_path / f"alpaca-home-{os.getuid()}"
    planted.rmdir()
    planted.symlink_to(tmp_path)
    monkeypatch.delenv("HOME")
    startup.start()
    assert Path.home() not in (planted, tmp_path), "a folder that somebody else put there is not used"
    assert Path.home().is_dir()


def test_a_process_under_nohup_does_not_hear_that_its_terminal_went_away():
    assert signal.SIGHUP in startup.heard(signal.SIGTERM, signal.SIGHUP)
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        assert startup.heard(signal.SIGTERM, signal.SIGHUP) == (signal.SIGTERM,)
    finally:
        signal.signal(signal.SIGHUP, before)


def eventually(holds: Callable[[], object], why: str, timeout_s: float = 150) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, why
        time.sleep(0.05)


def test_a_closed_terminal_saves_the_jobs_of_a_sweep(workplace: Path):
    """The parent's terminal is gone: it and its job can print nothing any more, and the job saves its last step."""
    bare = [part for part in SMALL if not part.startswith("evaluation")]
    slow = [*bare, "evaluation=none", "train.max_steps=4000", "train.epochs=1000", "train.seed=0,1"]
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "alpaca.run", "-m", *slow], cwd=workplace, env=command_environment(),
        stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )  # fmt: skip
    os.close(theirs)
    os.set_blocking(ours, False)

    def logs_steps() -> bool:
        with contextlib.suppress(BlockingIOError):
            os.read(ours, 1 << 16)  # a terminal shows what is written
        assert process.poll() is None
        return any(workplace.glob("outputs/sweeps/run/*/metrics.jsonl"))

    try:
        eventually(logs_steps, "no step was logged")
        os.close(ours)
        eventually(lambda: process.poll() is not None, "the sweep goes on without its terminal")
    finally:
        if process.poll() is None:
            process.kill()
    assert process.returncode == 130
    (run,) = workplace.glob("outputs/sweeps/run/train.seed=0-*")
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert len(list(run.glob("checkpoints/step-*"))) == 1
    assert "interrupted" in (run / "run.log").read_text()
