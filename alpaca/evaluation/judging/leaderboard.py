"""A public leaderboard in AlpacaEval's CSV form, and where a result stands in it.

The first column is the model's name. Places are by win rate: the official length-controlled rate comes from a model
with one term more (`length_control`), so ours is not put into its column. Win rates compare only where judge,
baseline and instructions are the leaderboard's.
"""

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca.errors import UserError
from alpaca.evaluation.judging.settings import SECTION
from alpaca.evaluation.judging.win_rate import WinRate
from alpaca.tracking.run_directory import write_text

KEY = f"{SECTION}.leaderboard"
FILE = "leaderboard.csv"
COLUMNS = (
    "win_rate", "standard_error", "n_wins", "n_wins_base", "n_draws", "n_total", "discrete_win_rate", "mode",
    "avg_length", "length_controlled_winrate",
)  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A line: the model's name, its win rate in per cent, and the fields as they stand in the file."""

    name: str
    win_rate: float
    fields: dict[str, str]


@dataclass(frozen=True)
class Place:
    """Where a result stands: rank from 1 among `of` entries, itself included, and its neighbours."""

    rank: int
    of: int
    above: Entry | None
    below: Entry | None

    def sentence(self, rate: WinRate) -> str:
        """One line for the terminal."""
        near = [
            f"{word} {entry.name} ({entry.win_rate:.2f} %)"
            for word, entry in (("below", self.above), ("above", self.below))
            if entry is not None
        ]
        return f"place {self.rank} of {self.of} by win rate: {rate.win_rate:.2f} %" + (
            ", " + ", ".join(near) if near else ""
        )


def read_leaderboard(path: str) -> list[Entry]:
    """All entries, in the file's order.

    Raises:
        UserError: the file cannot be read, has no column `win_rate`, or a line without a number there.
    """
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise UserError(f"{KEY}={path}: {reason}; give a leaderboard in AlpacaEval's CSV form") from None
    lines = list(csv.reader(io.StringIO(text)))
    header = lines[0] if lines else []
    if "win_rate" not in header[1:]:
        raise UserError(
            f"{KEY}={path}, line 1: no column win_rate; the first column is the model's name, others are win_rate, "
            "standard_error, ..."
        )
    entries = []
    for number, values in enumerate(lines[1:], 2):
        if not values:
            continue
        fields = dict(zip(header, values, strict=False))
        try:
            rate = float(fields["win_rate"])
        except (KeyError, ValueError):
            rate = math.nan
        if not 0 <= rate <= 100:
            shown = fields.get("win_rate", "")
            raise UserError(f"{KEY}={path}, line {number}: win_rate is {shown!r}; it must be a number from 0 to 100")
        entries.append(Entry(values[0], rate, fields))
    if not entries:
        raise UserError(f"{KEY}={path}: no entry; give a leaderboard in AlpacaEval's CSV form")
    return entries


def place_of(rate: WinRate, entries: list[Entry]) -> Place:
    """Where `rate` stands; behind those who are equal."""
    ranked = sorted(entries, key=lambda entry: -entry.win_rate)
    better = [entry for entry in ranked if entry.win_rate >= rate.win_rate]
    worse = ranked[len(better) :]
    return Place(len(better) + 1, len(entries) + 1, better[-1] if better else None, worse[0] if worse else None)


def own_entry(name: str, rate: WinRate, outputs: Sequence[str]) -> Entry:
    """A result as a line of the leaderboard.

    Args:
        outputs: all of the model's, judged or not: the official average length is the whole part of their mean number
            of characters.
    """
    values: dict[str, Any] = {
        "win_rate": rate.win_rate,
        "standard_error": rate.standard_error,
        "n_wins": rate.n_wins,
        "n_wins_base": rate.n_wins_base,
        "n_draws": rate.n_draws,
        "n_total": rate.n_total,
        "discrete_win_rate": rate.discrete_win_rate,
        "mode": "community",
        "avg_length": sum(map(len, outputs)) // len(outputs),
    }
    return Entry(name, rate.win_rate, {key: str(value) for key, value in values.items()})


def write_leaderboard(file: Path, entries: list[Entry]) -> None:
    """The entries by win rate, in the official columns."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["", *COLUMNS])
    for entry in sorted(entries, key=lambda entry: -entry.win_rate):
        writer.writerow([entry.name, *(entry.fields.get(column, "") for column in COLUMNS)])
    write_text(file, text.getvalue())
