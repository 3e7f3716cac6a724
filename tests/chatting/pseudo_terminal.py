"""A command on a terminal of its own, as a person has it: what it shows, what is typed, Ctrl-C and Ctrl-D."""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

from commands import command_environment

CTRL_C, CTRL_D = "\x03", "\x04"
DEADLINE_S = 60  # a busy machine; nothing here waits so long unless it is broken
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b\][^\x07]*\x07|\r|\x01|\x02")


def _sit_down() -> None:
    """In the new process: the terminal is its own, and Ctrl-C means what it means in a shell."""
    fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


class Terminal:
    """A process whose standard streams are a pseudo-terminal; a context manager."""

    def __init__(self, folder: Path, *arguments: str, columns: int = 100, **environment: str):
        self._ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", *arguments],
            cwd=folder,
            env=command_environment(TERM="xterm", **environment),
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            start_new_session=True,
            preexec_fn=_sit_down,
        )
        os.close(theirs)
        self._raw = b""
        self._seen = 0

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(timeout=240)
        os.close(self._ours)

    @property
    def shown(self) -> str:
        """Everything so far as text, without colours."""
        return _ESCAPES.sub("", self._raw.decode("utf-8", "replace"))

    def type(self, text: str) -> None:
        """Press keys."""
        os.write(self._ours, text.encode())

    def until(self, text: str) -> str:
        """What is shown from where the last call ended up to and with `text`."""
        return self._until(lambda shown: (shown.find(text) + len(text)) if text in shown else -1, repr(text))

    def interrupt(self, until: str) -> str:
        """Press Ctrl-C at the prompt, again if it came before the prompt listened, until `until` is shown."""
        end = time.monotonic() + DEADLINE_S
        while until not in self.shown[self._seen :] and time.monotonic() < end:
            self.type(CTRL_C)
            while self._read(1.0) and until not in self.shown[self._seen :]:
                pass
        return self.until(until)

    def until_more(self, characters: int) -> str:
        """So many characters more."""
        return self._until(lambda shown: len(shown) if len(shown) >= characters else -1, f"{characters} characters")

    def ended(self) -> int:
        """The exit status, once it has ended."""
        end = time.monotonic() + DEADLINE_S
        while self._read(0.2) or self.process.poll() is None:
            assert time.monotonic() < end, f"still runs: {self.shown}"
        return self.process.wait(timeout=240)

    def _until(self, found: object, wanted: str) -> str:
        end = time.monotonic() + DEADLINE_S
        while (size := found(self.shown[self._seen :])) < 0:  # type: ignore[operator]
            running = self.process.poll() is None
            if not self._read(0.2) and not running:
                raise AssertionError(f"ended without {wanted}: {self.shown}")
            assert time.monotonic() < end, f"no {wanted} in: {self.shown}"
        part = self.shown[self._seen : self._seen + size]
        self._seen += size
        return part

    def _read(self, wait_s: float) -> bool:
        if not select.select([self._ours], [], [], wait_s)[0]:
            return False
        try:
            more = os.read(self._ours, 65536)
        except OSError:  # the other end is closed
            return False
        self._raw += more
        return bool(more)
