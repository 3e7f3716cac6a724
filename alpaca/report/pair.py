"""Two runs or variants beside each other: settings that differ, curves, and the examples that changed most."""

import statistics
from dataclasses import dataclass, field
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alpaca.evaluation.scores import HIGHER, LOWER
from alpaca.report.records import Comparison, Variant
from alpaca.report.variants import shown_value

EXAMPLES = 20
BARS = "▁▂▃▄▅▆▇█"
WIDTH = 48  # characters of a curve


@dataclass(frozen=True)
class Example:
    """One example as both saw it; a positive gain is in favour of the second, or a rise where no way is better."""

    name: str
    prompt: str
    reference: str
    outputs: tuple[str | None, str | None]
    scores: tuple[float, float]
    gain: float


@dataclass(frozen=True)
class Pair:
    """The second variant against the first, on one metric."""

    names: tuple[str, str]
    metric: str
    words: tuple[str, str]  # what `gains` and `losses` are called: rises and falls where neither way is better
    settings: list[tuple[str, str, str]]
    gains: list[Example] = field(default_factory=list)
    losses: list[Example] = field(default_factory=list)
    curves: dict[str, tuple[list[float], list[float]]] = field(default_factory=dict)


def pair_of(comparison: Comparison) -> Pair | None:
    """The pair of a comparison of exactly two variants, on the first metric that has scores of examples."""
    if len(comparison.variants) != 2 or not all(each.finished for each in comparison.variants):
        return None
    first, second = comparison.variants
    metric = next(
        (name for name in comparison.metrics if mean_scores(first, name) and mean_scores(second, name)),
        comparison.metrics[0] if comparison.metrics else "",
    )
    direction = comparison.directions.get(metric, "")
    examples = _examples(first, second, metric, -1.0 if direction == LOWER else 1.0)
    better = [each for each in examples if each.gain > 0]
    worse = [each for each in examples if each.gain < 0]
    return Pair(
        names=(first.label, second.label),
        metric=metric,
        words=("gain", "loss") if direction in (LOWER, HIGHER) else ("rise", "fall"),
        settings=_settings(first.differs, second.differs),
        gains=sorted(better, key=lambda each: (-each.gain, each.name))[:EXAMPLES],
        losses=sorted(worse, key=lambda each: (each.gain, each.name))[:EXAMPLES],
        curves={
            name: (_curve(first, name), _curve(second, name))
            for name in ("train/loss", "eval/loss")
            if len(_curve(first, name)) > 1 and len(_curve(second, name)) > 1
        },
    )


def show(pair: Pair, console: Console, examples: int = 3) -> None:
    """Print it, with at most so many examples of gain and of loss."""
    table = Table("setting", *map(escape, pair.names), title="settings that differ", title_justify="left")
    for line in pair.settings:
        table.add_row(*map(escape, line))
    if pair.settings:
        console.print(table)
    for name, curves in pair.curves.items():
        low, high = min(map(min, curves)), max(map(max, curves))
        console.print(f"{name}, from {low:.4f} to {high:.4f}")
        for label, values in zip(pair.names, curves, strict=True):
            console.print(f"  {_sparkline(values, low, high)}  {escape(label)}")
    for title, found in zip(pair.words, (pair.gains, pair.losses), strict=True):
        for each in found[:examples]:
            console.print(f"[bold]largest {title}[/] on {pair.metric}: {each.scores[0]:.4f} to {each.scores[1]:.4f}")
            console.print(escape(_clipped(each.prompt)))
            beside = Table("reference", *map(escape, pair.names))
            beside.add_row(*(escape(_clipped(_said(text))) for text in (each.reference, *each.outputs)))
            console.print(beside)


def _settings(first: dict[str, Any], second: dict[str, Any]) -> list[tuple[str, str, str]]:
    keys = [key for key in {**first, **second} if first.get(key) != second.get(key)]
    return [(key or "job", shown_value(first.get(key)), shown_value(second.get(key))) for key in keys]


def mean_scores(variant: Variant, metric: str) -> dict[str, float]:
    """Mean score over seeds of each example that all seeds have."""
    scores = [run.scores[metric] for run in variant.finished if metric in run.scores]
    if not scores:
        return {}
    common = set.intersection(*(set(each) for each in scores))
    return {name: statistics.fmean(each[name] for each in scores) for name in sorted(common)}


def _examples(first: Variant, second: Variant, metric: str, sign: float) -> list[Example]:
    old, new = mean_scores(first, metric), mean_scores(second, metric)
    texts = [each.finished[0].texts for each in (first, second)]
    found = []
    for name in old.keys() & new.keys():
        mine = [each.get(name, {}) for each in texts]
        if not any(mine):
            continue
        found.append(
            Example(
                name,
                str(mine[0].get("prompt") or mine[1].get("prompt") or ""),
                str(mine[0].get("reference") or mine[1].get("reference") or ""),
                (mine[0].get("output"), mine[1].get("output")),
                (old[name], new[name]),
                sign * (new[name] - old[name]),
            )
        )
    return found


def _curve(variant: Variant, metric: str) -> list[float]:
    return [value for _, value in variant.finished[0].curves.get(metric, [])]


def _sparkline(values: list[float], low: float, high: float) -> str:
    places = [values[index * (len(values) - 1) // (WIDTH - 1)] for index in range(WIDTH)]
    shown = values if len(values) <= WIDTH else places
    span = (high - low) or 1.0
    return "".join(BARS[min(len(BARS) - 1, int((value - low) / span * len(BARS)))] for value in shown)


def _said(text: str | None) -> str:
    return "–" if text is None else text or "(empty)"


def _clipped(text: str, most: int = 300) -> str:
    return text if len(text) <= most else f"{text[:most]}…"
