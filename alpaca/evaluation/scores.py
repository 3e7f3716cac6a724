"""What every evaluation gives back."""

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Scores:
    """Results of one evaluation.

    Attributes:
        metrics: whole names (`eval/judge/win_rate`) to numbers; they go into `summary.json` as they are.
        examples: one record for each example: `id`, `prompt`, `reference` or None, `output`, and `scores`, its
            numbers by name.
    """

    metrics: dict[str, float]
    examples: list[dict[str, Any]]
