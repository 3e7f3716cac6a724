"""Defects of the rows a run would use: how many rows have each, and which ones.

The rules on one row come from `data/defects.py`; two more need all rows: near-duplicates within the
training rows, and training rows too close to a held-out one. Both compare the whole task, instruction
and input, by ROUGE-L as `rouge_score` computes it, and by equal normalised text, which also finds
equal rows in scripts ROUGE-L has no tokens for.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from alpaca.data.defects import DEFECTS
from alpaca.data.novelty import Pool, near_duplicates
from alpaca.data.rows import Row, example_id, task_text

NEAR_DUPLICATES = "near-duplicates"
OVERLAP = "train/evaluation overlap"
NAMES = (*DEFECTS, NEAR_DUPLICATES, OVERLAP)
ROUGE_THRESHOLD = 0.7  # Self-Instruct's: above it a task is not new
FIRST_LINES = 10  # line numbers listed of each defect
SHOWN_CHARACTERS = 280  # of a row, as an example of its defect


@dataclass(frozen=True)
class Finding:
    """One defect.

    Attributes:
        name: one of `NAMES`.
        count: rows that have it.
        lines: where the first `FIRST_LINES` of them stand in their source, ascending.
        sources: the part of a mix each of `lines` is in, "" without a mix.
        excerpts: a short text for each of `lines`.
    """

    name: str
    count: int
    lines: list[int]
    sources: list[str]
    excerpts: list[str]

    @property
    def places(self) -> list[str]:
        """`lines` as text, with the part of a mix they are in."""
        return [
            f"{source}:{line}" if source else str(line) for source, line in zip(self.sources, self.lines, strict=True)
        ]


def slug(name: str) -> str:
    """A defect's name as `--fail-on` takes it: lower case, words joined by underscores."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def findings(train: Sequence[Row], held_out: Sequence[Row]) -> list[Finding]:
    """One finding for each of `NAMES`, in their order, those without rows too."""
    rows = sorted([*train, *held_out], key=_place)
    found = [_finding(name, [(row, _excerpt(row)) for row in rows if has(row)]) for name, has in DEFECTS.items()]
    in_order = sorted(train, key=_place)
    return [*found, _near_duplicates(in_order), _overlap(in_order, held_out)]


def _near_duplicates(rows: list[Row]) -> Finding:
    earlier = near_duplicates([task_text(row) for row in rows], ROUGE_THRESHOLD)
    first_with: dict[str, int] = {}
    pairs = []
    for index, row in enumerate(rows):
        same = first_with.setdefault(example_id(row), index)
        match = int(earlier[index]) if earlier[index] >= 0 else same
        if match != index:
            pairs.append((row, _pair(row, rows[match])))
    return _finding(NEAR_DUPLICATES, pairs)


def _overlap(train: list[Row], held_out: Sequence[Row]) -> Finding:
    pool = Pool(ROUGE_THRESHOLD, map(task_text, held_out))
    equal = {example_id(row): row for row in held_out}
    pairs = []
    for row in train:
        match = pool.duplicate_of(task_text(row))
        other = held_out[match] if match >= 0 else equal.get(example_id(row))
        if other is not None:
            pairs.append((row, _pair(row, other)))
    return _finding(OVERLAP, pairs)


def _finding(name: str, rows: list[tuple[Row, str]]) -> Finding:
    first = rows[:FIRST_LINES]
    lines, sources = [row.line for row, _ in first], [row.source for row, _ in first]
    return Finding(name, len(rows), lines, sources, [excerpt for _, excerpt in first])


def _place(row: Row) -> tuple[str, int]:
    return row.source, row.line


def _excerpt(row: Row) -> str:
    parts = [row.instruction, *([f"input: {row.input}"] if row.input.strip() else []), f"output: {row.output}"]
    return " ⏐ ".join(_short(part, SHOWN_CHARACTERS // len(parts)) for part in parts)


def _pair(row: Row, other: Row) -> str:
    room = SHOWN_CHARACTERS // 2
    return f"{_short(task_text(row), room)} ⏐ like line {other.line}: {_short(task_text(other), room)}"


def _short(text: str, room: int) -> str:
    """One line of at most `room` characters; control characters become visible."""
    flat = " ".join(text.split())
    shown = "".join(character if character.isprintable() else f"\\x{ord(character):02x}" for character in flat)
    return shown if len(shown) <= room else shown[: room - 1] + "…"
