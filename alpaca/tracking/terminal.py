"""What the user sees, and `run.log`, which keeps the same text.

On a terminal training shows a live bar; elsewhere (a log file, CI) a plain line about every ten seconds.
"""

import sys
import time
from pathlib import Path
from typing import Any, TextIO

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

LINE_EVERY_S = 10.0


class Terminal:
    """Prints to standard output and to a log file, and draws progress."""

    def __init__(self, log: Path | None = None, *, silent: bool = False):
        self.console = Console(file=sys.stdout, highlight=False, soft_wrap=not sys.stdout.isatty(), quiet=silent)
        self._log_stream: TextIO | None = None
        self._log: Console | None = None
        self.log_to(log)

    def log_to(self, log: Path | None) -> None:
        """Keep what is printed from here on in `log` too; None keeps nothing."""
        if log is not None:
            self._log_stream = log.open("a", encoding="utf-8", errors="backslashreplace")
            self._log = Console(file=self._log_stream, width=160, highlight=False)

    def print(self, *content: RenderableType, style: str | None = None) -> None:
        """Print renderables or markup to both."""
        if self._log is not None and self._log_stream is not None:
            self._log.print(*content, style=style)
            self._log_stream.flush()
        self.console.print(*content, style=style)

    def warn(self, text: str) -> None:
        """One line the user should not miss; plain text, no markup."""
        self.print(f"[yellow]warning:[/] {escape(text)}")

    def progress(self, what: str, total: int) -> "Bar":
        """A progress bar over `total` units, used as a context manager."""
        return Bar(self, what, total)

    def close(self) -> None:
        """Close the log file."""
        if self._log_stream is not None:
            self._log_stream.close()


class Bar:
    """Progress of one activity: a live bar on a terminal, otherwise a line every ten seconds."""

    def __init__(self, terminal: Terminal, what: str, total: int):
        self.terminal, self.what, self.total = terminal, what, total
        self.done = self._done_before = 0
        self._last_line = self._started = time.monotonic()
        self._live = (
            Progress(
                TextColumn("{task.description}"),
                BarColumn(bar_width=None),
                MofNCompleteColumn(),
                TextColumn("{task.fields[values]}"),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                console=terminal.console,
                transient=True,
            )
            if terminal.console.is_terminal
            else None
        )
        self._task = self._live.add_task(what, total=total, values="") if self._live else None

    def __enter__(self) -> "Bar":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *_: Any) -> None:
        if self._live:
            self._live.stop()

    def resume_at(self, done: int) -> None:
        """So many units were done before this process began; they tell nothing about its speed."""
        self.done = self._done_before = done
        if self._live and self._task is not None:
            self._live.reset(self._task, completed=done)

    def advance(self, count: int = 1, values: str = "") -> None:
        """`count` more units are done; `values` are shown beside the bar."""
        self.done += count
        if self._live and self._task is not None:
            self._live.update(self._task, completed=self.done, values=values)
        now = time.monotonic()
        if now - self._last_line < LINE_EVERY_S and self.done < self.total:
            return
        self._last_line = now
        spent = now - self._started
        left = ""
        if made := self.done - self._done_before:  # before anything was done nothing is known about the time left
            left = f", {_clock(spent / made * (self.total - self.done))} left"
        line = f"{self.what} {self.done}/{self.total}  {values}  {_clock(spent)} elapsed{left}"
        if self._live is None:
            self.terminal.print(line)
        elif self.terminal._log is not None:
            self.terminal._log.print(line)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
