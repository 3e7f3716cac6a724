"""Two answers in columns while they grow, and whole in the end; one below the other where a terminal is narrow."""

from collections.abc import Sequence

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from alpaca.chatting.replies import Reply
from alpaca.chatting.showing import printable

COLUMN = 36  # narrower columns are harder to read than two answers one below the other
AROUND = 5  # lines of the screen that are not the answers'


def grow(console: Console, names: Sequence[str], replies: Sequence[Reply]) -> None:
    """Make all `replies`, a token of each in turn, and show them; what there is of them stays after Ctrl-C."""
    live = Live(console=console, transient=True, auto_refresh=False, vertical_overflow="crop")
    try:
        if console.is_terminal:
            live.start()
        while growing := [reply for reply in replies if reply.ended is None]:
            changed = [reply.step() for reply in growing]
            if live.is_started and any(changed):
                live.update(columns(console, names, replies, lines=console.height - AROUND), refresh=True)
    finally:
        live.stop()
        console.print(columns(console, names, replies))


def columns(
    console: Console, names: Sequence[str], replies: Sequence[Reply], *, lines: int | None = None
) -> RenderableType:
    """The answers under their names; with `lines` only the end of each, so that it fits on the screen."""
    wide = console.width >= len(names) * (COLUMN + 3)
    width = (console.width - 3 * (len(names) - 1)) // len(names) if wide else console.width
    if lines is not None and not wide:
        lines = lines // len(names) - 1
    shown = [_end(console, reply.text, width, lines) for reply in replies]
    if wide:
        table = Table(box=None, padding=(0, 3, 0, 0), pad_edge=False, expand=True, header_style="bold")
        for name in names:
            table.add_column(Text(name), ratio=1, overflow="fold")
        table.add_row(*shown)
        return table
    parts: list[RenderableType] = []
    for name, text in zip(names, shown, strict=True):
        parts += [Text(name, style="bold"), text]
    return Group(*parts)


def _end(console: Console, text: str, width: int, lines: int | None) -> Text:
    whole = Text(printable(text), overflow="fold")
    if lines is None:
        return whole
    wrapped = whole.wrap(console, width)
    return Text("\n").join(wrapped[-max(1, lines) :])
