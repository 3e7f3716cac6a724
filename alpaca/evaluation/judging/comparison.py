"""What either way of judging, a model asked or judgements replayed, hands to the report."""

from dataclasses import dataclass, field
from typing import Any

from alpaca.evaluation.judging.pairs import Judged


@dataclass(frozen=True)
class Comparison:
    """Judged pairs and where they come from.

    Attributes:
        facts: go into `judge.json`: who judged, against what, how.
        metrics: numbers beside those that the report computes, by their whole names.
        lines: said after the report's own.
    """

    judged: list[Judged]
    facts: dict[str, Any]
    metrics: dict[str, float] = field(default_factory=dict)
    lines: list[str] = field(default_factory=list)
