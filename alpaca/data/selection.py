"""The knobs of a data source: which of the training rows are used, and why the others are not.

The order is fixed: input, defects, lengths, duplicates, shares of a mix, fraction, limit. Held-out rows
were taken out before (`split.py`), so no knob changes what a run is scored on. The last three take rows
in one order, by a hash of `shuffle_seed` and the row's task: a smaller choice is part of a larger one,
and a row keeps its place when other rows are filtered away.
"""

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from alpaca.config import DataSourceConfig, FilterConfig
from alpaca.data import defects
from alpaca.data.mix import rows_of_parts
from alpaca.data.rows import Row, example_id, normalise, task_text
from alpaca.errors import UserError

WITHOUT_INPUT = "without an input (data_source.with_input=only)"
WITH_INPUT = "with an input (data_source.with_input=without)"
EXACT_DUPLICATE = "equal to an earlier row (data_source.deduplicate)"
NEAR_DUPLICATE = "near-duplicate of an earlier row (data_source.deduplicate=rouge)"
BEYOND_SHARE = "beyond its share (data_source.mix)"
BEYOND_FRACTION = "beyond data_source.fraction"
BEYOND_LIMIT = "beyond data_source.limit"

NearDuplicates = Callable[[Sequence[str], float], np.ndarray]


def select(
    rows: list[Row], config: DataSourceConfig, near_duplicates: NearDuplicates
) -> tuple[list[Row], Counter[str]]:
    """The training rows `config` asks for, in their order, and reason to number of the others.

    Args:
        near_duplicates: (texts, threshold) to, for each text, the index of the earliest kept text it is
            too similar to, or -1.

    Raises:
        UserError: no row is left.
    """
    dropped: Counter[str] = Counter()
    kept = _filtered(rows, config, dropped)
    if config.deduplicate != "none":
        kept = _without_duplicates(kept, config, near_duplicates, dropped)
    kept = _taken(kept, config, dropped)
    if not kept:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in dropped.items())
        raise UserError(f"data_source={config.name}: none of {len(rows):,} rows is left ({reasons}); loosen its knobs")
    return kept, dropped


def _filtered(rows: list[Row], config: DataSourceConfig, dropped: Counter[str]) -> list[Row]:
    bounds = _bounds(config.filter)
    measure: Callable[[str], int] = len if config.filter.unit == "characters" else lambda text: len(text.split())
    kept = []
    for row in rows:
        reason = _reason(row, config, bounds, measure)
        if reason is None:
            kept.append(row)
        else:
            dropped[reason] += 1
    return kept


def _reason(
    row: Row,
    config: DataSourceConfig,
    bounds: Sequence[tuple[str, int | None, int | None]],
    measure: Callable[[str], int],
) -> str | None:
    has_input = bool(row.input.strip())
    if config.with_input == "only" and not has_input:
        return WITHOUT_INPUT
    if config.with_input == "without" and has_input:
        return WITH_INPUT
    if config.clean and (found := next((name for name, has in defects.DEFECTS.items() if has(row)), None)):
        return f"defect: {found} (data_source.clean)"
    for field, least, most in bounds:
        length = measure(getattr(row, field))
        if least is not None and length < least:
            return f"{field} below data_source.filter.min_{field}"
        if most is not None and length > most:
            return f"{field} above data_source.filter.max_{field}"
    return None


def _bounds(config: FilterConfig) -> list[tuple[str, int | None, int | None]]:
    fields = ("instruction", "input", "output")
    found = [(field, getattr(config, f"min_{field}"), getattr(config, f"max_{field}")) for field in fields]
    return [bound for bound in found if bound[1:] != (None, None)]


def _without_duplicates(
    rows: list[Row], config: DataSourceConfig, near_duplicates: NearDuplicates, dropped: Counter[str]
) -> list[Row]:
    """Exact duplicates agree in all three normalised texts; near-duplicates in instruction and input."""
    seen: set[tuple[str, str, str]] = set()
    kept = []
    for row in rows:
        key = (normalise(row.instruction), normalise(row.input), normalise(row.output))
        if key not in seen:
            seen.add(key)
            kept.append(row)
    _count(dropped, EXACT_DUPLICATE, len(rows) - len(kept))
    if config.deduplicate == "exact":
        return kept
    nearest = near_duplicates([task_text(row) for row in kept], config.rouge_threshold)
    chosen = [row for row, near in zip(kept, nearest.tolist(), strict=True) if near < 0]
    _count(dropped, NEAR_DUPLICATE, len(kept) - len(chosen))
    return chosen


def _taken(rows: list[Row], config: DataSourceConfig, dropped: Counter[str]) -> list[Row]:
    if not config.mix and config.fraction is None and config.limit is None:
        return rows
    order = whole = _order(rows, config.shuffle_seed)
    if config.mix:
        order = _shares(rows, order, config)
        _count(dropped, BEYOND_SHARE, len(whole) - len(order))
    if config.fraction is not None:
        part = order[: max(1, round(config.fraction * len(order)))]
        _count(dropped, BEYOND_FRACTION, len(order) - len(part))
        order = part
    if config.limit is not None:
        _count(dropped, BEYOND_LIMIT, len(order) - config.limit)
        order = order[: config.limit]
    return [rows[index] for index in sorted(order.tolist())]


def _shares(rows: list[Row], order: np.ndarray, config: DataSourceConfig) -> np.ndarray:
    available = Counter(row.source for row in rows)
    empty = [name for name in config.mix if not available[name]]
    if empty:
        raise UserError(f"data_source.mix.{empty[0]}: none of its rows is left; loosen the knobs or leave it out")
    left = rows_of_parts(available, config.mix)
    taken = []
    for index in order.tolist():
        if left[rows[index].source]:
            left[rows[index].source] -= 1
            taken.append(index)
    return np.array(taken, dtype=np.int64)


def _order(rows: list[Row], seed: int) -> np.ndarray:
    """(n,) int64, positions in the order rows are taken; equal tasks keep their order."""
    keys = np.array([int(example_id(row), 16) for row in rows], dtype=np.uint64)
    with np.errstate(over="ignore"):  # splitmix64: arithmetic modulo 2**64
        mixed = keys + np.uint64(seed % (1 << 63)) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x9E3779B97F4A7C15)
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        mixed ^= mixed >> np.uint64(31)
    return np.argsort(mixed, kind="stable")


def _count(dropped: Counter[str], reason: str, count: int) -> None:
    if count > 0:
        dropped[reason] += count
