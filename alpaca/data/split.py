"""Held-out rows and training rows, disjoint by normalised text.

A row is held out when the hash of its task (`example_id`) is among the smallest `eval_rows` of the
source: independent of seeds, of the order of rows and of every later choice, so that runs over one
source score on one set. Every other row whose task is held out is left out of training and counted.
"""

from collections import Counter
from dataclasses import dataclass

from alpaca.data.rows import Row, example_id
from alpaca.errors import UserError

DUPLICATE_OF_HELD_OUT = "same task as a held-out row"


@dataclass(frozen=True)
class Split:
    """Rows of a run. `dropped` maps a reason to a number of rows: rows in = train + held_out + dropped."""

    train: list[Row]
    held_out: list[Row]
    dropped: Counter[str]


def split(rows: list[Row], eval_rows: int) -> Split:
    """Hold out `eval_rows` tasks; the first row of a task is the one that is scored.

    Raises:
        UserError: not enough distinct rows to hold out so many and still train.
    """
    ids = [example_id(row) for row in rows]
    distinct = sorted(set(ids))
    if eval_rows >= len(distinct):
        raise UserError(
            f"train.eval_rows={eval_rows}: the source has only {len(distinct)} distinct tasks; "
            f"set train.eval_rows={len(distinct) // 10} or give more rows"
        )
    chosen = set(distinct[:eval_rows])
    held_out: dict[str, Row] = {}
    train: list[Row] = []
    dropped: Counter[str] = Counter()
    for row, key in zip(rows, ids, strict=True):
        if key not in chosen:
            train.append(row)
        elif key not in held_out:
            held_out[key] = row
        else:
            dropped[DUPLICATE_OF_HELD_OUT] += 1
    return Split(train, [held_out[key] for key in sorted(held_out)], dropped)
