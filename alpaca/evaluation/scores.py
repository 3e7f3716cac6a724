"""What every evaluation gives back: numbers, examples, and which way each number is better."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any

LOWER, HIGHER, NEITHER = "lower", "higher", "neither"  # which values of a metric are better
DIRECTIONS = "directions"  # where summary.json keeps them, metric by metric


@dataclass(frozen=True)
class Scores:
    """Results of one evaluation.

    Attributes:
        metrics: whole names (`eval/judge/win_rate`) to numbers; they go into `summary.json` as they are.
        examples: one record for each example: `id`, `prompt`, `reference` or None, `output`, and `scores`, its
            numbers by name.
        directions: metric to LOWER, HIGHER or NEITHER. A metric without one is compared, but never called better.
    """

    metrics: dict[str, float]
    examples: list[dict[str, Any]]
    directions: dict[str, str] = field(default_factory=dict)


def declared(metrics: Iterable[str], directions: dict[str, str]) -> dict[str, str]:
    """The directions of `metrics`, from a mapping whose keys may be patterns such as `eval/loss/*`."""
    return {
        name: directions.get(name) or next(way for key, way in directions.items() if fnmatchcase(name, key))
        for name in metrics
        if name in directions or any(fnmatchcase(name, key) for key in directions)
    }
