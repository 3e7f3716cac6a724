"""A file that one process holds at a time, and that says which; the lock goes with the process, however it ends."""

import contextlib
import fcntl
import os
import platform
from pathlib import Path
from typing import TextIO


class HeldError(Exception):
    """Another process holds the file; the text says which one, for a sentence."""


def hold(file: Path, what: str = "") -> TextIO:
    """Make `file` and its folder, and hold it until the returned stream is closed.

    The file says which process holds it, and in a second line `what` it is for.

    Raises:
        OSError: it cannot be written.
        HeldError: another process holds it.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    stream = file.open("a+")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        stream.seek(0)
        holder = stream.readline().strip() or "another process"
        stream.close()
        raise HeldError(holder) from None
    stream.truncate(0)
    with contextlib.suppress(OSError):  # a full disk, of which the holder hears when it writes something of use
        text = f"process {os.getpid()} on {platform.node()}" + (f"\n{what}\n" if what else "")
        os.write(stream.fileno(), text.encode())
    return stream


def is_held(file: Path) -> bool:
    """Whether a process holds `file`, or it cannot be asked; one that is not there is held by nobody."""
    try:
        with file.open("r+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except OSError:
        return True
    return False
