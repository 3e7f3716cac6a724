"""What every process of this program does first: output that cannot fail, a home directory, signals that end it.

A terminal that goes away (`| head`, a dead `tee`, a closed window, `>&-`) must not end a training. So this
program and its libraries write to standard output and error through streams that drop what the system refuses. What a
run says is in its `run.log` too.
"""

import contextlib
import getpass
import io
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

STANDARD = (0, 1, 2)  # descriptors of standard input, output and error


def start(*, keeps_going: bool = True) -> None:
    """Prepare this process; harmless to repeat. Streams that something else put in place are left alone.

    Args:
        keeps_going: false for a command whose output is all it does: it ends when nobody reads it.
    """
    _open_closed_descriptors()
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: SIM115 - for the life of the process
    if sys.stdout is None or (keeps_going and sys.stdout is sys.__stdout__):
        sys.stdout = _steady(sys.stdout, 1)
    elif sys.stdout is sys.__stdout__ and isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    if sys.stderr is None or sys.stderr is sys.__stderr__:
        sys.stderr = _steady(sys.stderr, 2)
    _find_home()


class _Dropping(io.FileIO):
    """A descriptor whose writes never fail: what a dead terminal, a closed pipe or a full disk refuses is dropped."""

    def write(self, data: Any) -> int:
        try:
            written = super().write(data)
        except OSError:
            return memoryview(data).nbytes
        return memoryview(data).nbytes if written is None else written


def _steady(stream: TextIO | None, descriptor: int) -> TextIO:
    """A text stream on `descriptor` like `stream`; characters that its encoding lacks are written as escapes."""
    encoding, by_line = "utf-8", True
    if isinstance(stream, io.TextIOWrapper):
        encoding, by_line = stream.encoding, stream.line_buffering or stream.write_through  # PYTHONUNBUFFERED
        with contextlib.suppress(OSError, ValueError):
            stream.flush()
    raw = io.BufferedWriter(_Dropping(descriptor, "w", closefd=False))
    return io.TextIOWrapper(raw, encoding=encoding, errors="backslashreplace", line_buffering=by_line)


def _open_closed_descriptors() -> None:
    """Point standard descriptors that are closed at nothing, so that no file of a run gets their number."""
    for descriptor in STANDARD:
        try:
            os.fstat(descriptor)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, so it is this one
            os.set_inheritable(opened, True)


def _find_home() -> None:
    """A user without HOME or without an entry in the password file gets a folder of temporary files and a name.

    Libraries look for both when they are imported (nltk, torch), and fail without.
    """
    if os.path.expanduser("~") == "~":
        home = Path(tempfile.gettempdir()) / f"alpaca-home-{os.getuid()}"
        with contextlib.suppress(OSError):
            home.mkdir(mode=0o700, exist_ok=True)
        if not home.is_dir() or home.is_symlink() or home.stat().st_uid != os.getuid():  # somebody else's
            home = Path(tempfile.mkdtemp(prefix="alpaca-home-"))
        os.environ["HOME"] = str(home)
    try:
        getpass.getuser()
    except (KeyError, OSError):
        os.environ["USER"] = str(os.getuid())


def heard(*signals: signal.Signals) -> tuple[signal.Signals, ...]:
    """`signals` that end this process, without SIGHUP where `nohup` has it ignored."""
    is_ignored = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return tuple(each for each in signals if not (each == signal.SIGHUP and is_ignored))


def once(number: int) -> None:
    """Ignore further SIGHUP: a shell repeats it, and it must not count as the second press that ends at once."""
    if number == signal.SIGHUP:
        signal.signal(signal.SIGHUP, signal.SIG_IGN)


@contextlib.contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within this context SIGTERM, and SIGHUP of a terminal that went away, do what Ctrl-C does.

    Only a process's main thread hears signals; elsewhere nothing is changed.
    """

    def interrupt(number: int, frame: Any) -> None:
        once(number)
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, interrupt) for number in heard(signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
