"""The first thing a job's process runs (`python -m alpaca.sweeping.job SWEEP NOTE OVERRIDES...`).

It ends with its sweep: when that process dies, the system sends SIGTERM (Linux), on which a run saves and ends
as interrupted, so that the same sweep can go on at once. What the command said last on standard error goes to
the file NOTE too: a job that was refused before it had a directory has no other place for its reason.
"""

import contextlib
import ctypes
import io
import os
import signal
import sys
from pathlib import Path
from typing import TextIO

_PARENT_DIED = 1  # PR_SET_PDEATHSIG of Linux's prctl


class Remembering(io.TextIOBase):
    """Standard error that also keeps its last line."""

    def __init__(self, stream: TextIO):
        self._stream, self.last = stream, ""

    def write(self, text: str) -> int:
        """Pass `text` on; the last line with words in it is remembered."""
        lines = [line for line in text.splitlines() if line.strip()]
        self.last = lines[-1].strip() if lines else self.last
        return self._stream.write(text)

    def flush(self) -> None:
        """As of the stream behind."""
        self._stream.flush()

    def fileno(self) -> int:
        """As of the stream behind."""
        return self._stream.fileno()

    def isatty(self) -> bool:
        """As of the stream behind."""
        return self._stream.isatty()


def main() -> int:
    """Arrange it, then run the command."""
    parent, note, overrides = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGTERM)
    if os.getppid() != parent:
        return 1
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # there is nothing to save yet: ends it without a traceback
    from alpaca import startup

    startup.start()
    from alpaca import run
    from alpaca.tracking.wandb_places import IN_SWEEP

    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = [str(Path(run.__file__)), *overrides]
    os.environ[IN_SWEEP] = "1"
    said = Remembering(sys.stderr)
    sys.stderr = said
    try:
        return run.main(overrides)
    except BaseException as error:
        said.last = f"{type(error).__name__}: {error}"
        raise
    finally:
        with contextlib.suppress(OSError):
            note.write_text(said.last.removeprefix("alpaca: "), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
