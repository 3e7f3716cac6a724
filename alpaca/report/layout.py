"""How the columns of a comparison share the width of a terminal: names whole, the least useful columns left out.

Plain text in, widths and wrapped text out. A label breaks between settings, then at `.`, `/`, `=`, `_`, `-`, and only
where a part of a name is wider than its column, anywhere.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

GAP = 2  # between columns
LONG = 28  # characters of one setting from which on it may break at its separators, before columns are left out
LEAST = 12  # of a column of names, where even the most useful columns leave it less


@dataclass(frozen=True)
class Column:
    """One column of text cells; `head` is its heading.

    Attributes:
        wraps: its cells may take several lines: names and verdicts; numbers stay on one.
        dispensable: 0 is never left out, and a higher number goes before a lower one.
    """

    head: str
    cells: tuple[str, ...]
    wraps: bool = False
    dispensable: int = 0

    @property
    def widest(self) -> int:
        """Of its cells, each on one line."""
        return max(map(len, (self.head, *self.cells)))

    @property
    def narrowest(self) -> int:
        """With nothing broken that belongs together, but for very long settings."""
        if not self.wraps:
            return self.widest
        return min(LONG, max(len(part) for cell in (self.head, *self.cells) for part in _together(cell)))


def fitted(columns: Sequence[Column], width: int) -> tuple[list[tuple[Column, int]], list[str]]:
    """The columns that fit into `width`, each with its own, and the headings of those left out."""
    kept, left_out = list(columns), list[str]()
    while _total([column.narrowest for column in kept]) > width:
        first = max(kept, key=lambda column: column.dispensable)
        if not first.dispensable:
            break
        kept.remove(first)
        left_out.append(first.head)
    widths = [column.narrowest for column in kept]
    for place, column in enumerate(kept):
        spare = width - _total(widths)
        if column.wraps and spare > 0:
            widths[place] += min(spare, column.widest - widths[place])
        elif column.wraps and spare < 0:
            widths[place] -= max(0, min(-spare, widths[place] - LEAST))
    return list(zip(kept, widths, strict=True)), left_out


def wrapped(text: str, width: int) -> str:
    """`text` in lines of at most `width`."""
    lines = [""]
    for part in _together(text):
        joined = f"{lines[-1]} {part}".lstrip()
        if len(joined) <= width:
            lines[-1] = joined
            continue
        lines.append("")
        for piece in [part] if len(part) <= width else re.findall(r"[^./=_-]*[./=_-]?", part):
            for start in range(0, len(piece), width):
                bit = piece[start : start + width]
                if len(lines[-1] + bit) > width:
                    lines.append("")
                lines[-1] += bit
    return "\n".join(line for line in lines if line)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + GAP * (len(widths) - 1)


def _together(text: str) -> list[str]:
    """What stays whole: words, and a negation with its word, as in `no difference`."""
    return re.findall(r"(?:no|not) \S+|\S+", text)
