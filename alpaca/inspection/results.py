"""What an inspection found, as plain values: the terminal, the page and `inspect.json` show the same `Survey`."""

from dataclasses import asdict, dataclass
from typing import Any

from alpaca.data.diversity import Diversity
from alpaca.data.statistics import Packing, Spread
from alpaca.inspection.examples import ShownExample
from alpaca.inspection.findings import Finding

BINS = 32  # bars of the histogram of lengths


@dataclass(frozen=True)
class Rows:
    """Where the rows of the source went: source = trained + held_out + dropped.

    Attributes:
        dropped: reason to number of rows.
        truncated: rows whose response was cut to `train.max_length`.
        with_input: share of the rows used that have an input.
    """

    source: int
    trained: int
    held_out: int
    dropped: dict[str, int]
    truncated: int
    with_input: float


@dataclass(frozen=True)
class Survey:
    """All findings about one configuration.

    Attributes:
        about: what was inspected, name to text, in the order to show.
        warnings: what the user should know about content and licences, one sentence each.
        facts: what a run writes to `data.json`.
        lengths: what was counted, to its spread over the training rows.
        tokens: of all training examples; `supervised_share` of them carry a label.
        histogram: edges (BINS + 1,) in tokens, and examples by total length (BINS,).
        defects: one for each known name; `diversity` is that of the rows used.
    """

    about: dict[str, str]
    warnings: tuple[str, ...]
    facts: dict[str, Any]
    rows: Rows
    lengths: dict[str, Spread]
    tokens: int
    supervised_share: float
    histogram: tuple[list[int], list[int]]
    max_length: int
    packing: Packing
    defects: list[Finding]
    diversity: Diversity
    examples: list[ShownExample]

    def as_json(self) -> dict[str, Any]:
        """Plain values for `inspect.json`: defects by name, the 50 most frequent pairs."""
        content = asdict(self)
        content["data"] = content.pop("facts")
        content["defects"] = {
            finding.name: {
                "count": finding.count,
                "lines": finding.lines,
                **({"sources": finding.sources} if any(finding.sources) else {}),
            }
            for finding in self.defects
        }
        content["diversity"]["most_frequent"] = [
            {"verb": verb, "object": item, "count": count} for verb, item, count in self.diversity.most_frequent[:50]
        ]
        edges, counts = self.histogram
        content["histogram"] = {"edges": edges, "examples": counts}
        return content
