"""What the user types: one message, on one line or several, with line editing and a history where there is a terminal.

A line that ends in a backslash goes on in the next one. Three double quotes at the start of a message, or after
a command, open a block that ends with three more.
"""

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path

from alpaca import paths

QUOTES = '"""'
HISTORY = "chat_history"
KEPT_LINES = 1000
MORE = "... "


class Dropped(Exception):
    """Ctrl-C in the middle of a message of several lines: that message is dropped."""


class Reader:
    """Reads messages from standard input."""

    def __init__(self, words: list[str]):
        """`words` are completed with the Tab key."""
        self._history = _line_editing(words) if sys.stdin.isatty() else None

    def read(self, prompt: str) -> str:
        """The next message, stripped.

        Raises:
            EOFError, KeyboardInterrupt: the user leaves.
            Dropped: the user wants this message no more.
        """
        return message(input, prompt if sys.stdin.isatty() else "", MORE if sys.stdin.isatty() else "")

    def close(self) -> None:
        """Keep what was typed for the next time; a folder that cannot be written is no reason to fail."""
        if self._history is None:
            return
        import readline

        with contextlib.suppress(OSError):
            self._history.parent.mkdir(parents=True, exist_ok=True)
            self._history.touch(mode=0o600)
            readline.set_history_length(KEPT_LINES)
            readline.write_history_file(self._history)


def message(line: Callable[[str], str], prompt: str, more: str) -> str:
    """One message from `line`, which is given a prompt and returns a line."""
    text = line(prompt)
    try:
        if opens_block(text):
            before, _, rest = text.partition(QUOTES)
            while QUOTES not in rest:
                rest += "\n" + line(more)
            inside, _, after = rest.partition(QUOTES)
            return before + inside.strip("\n") + after
        while text.endswith("\\"):
            text = text[:-1] + "\n" + line(more)
    except KeyboardInterrupt:
        raise Dropped from None
    return text.strip()


def opens_block(line: str) -> bool:
    """Whether three quotes begin this message, or the text after its command."""
    start = line.lstrip()
    if start.startswith("/"):
        start = start.partition(" ")[2].lstrip()
    return start.startswith(QUOTES)


def _line_editing(words: list[str]) -> Path | None:
    """Switch on editing, completion of `words`, and the history of earlier chats; its file, where there is editing."""
    try:
        import readline
    except ImportError:  # a Python built without it: plain input then
        return None

    def complete(start: str, state: int) -> str | None:
        found = [word for word in words if word.startswith(start)] if start.startswith("/") else []
        return found[state] if state < len(found) else None

    readline.set_completer(complete)
    readline.set_completer_delims(" \n")
    readline.parse_and_bind("bind ^I rl_complete" if "libedit" in (readline.__doc__ or "") else "tab: complete")
    file = paths.cache_dir() / HISTORY
    with contextlib.suppress(OSError):
        readline.read_history_file(file)
    return file
