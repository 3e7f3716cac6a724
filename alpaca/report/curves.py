"""Curves of a variant: the mean over its seeds with the range around it, thinned to what a drawing can show."""

import math
import statistics
from collections.abc import Sequence

from alpaca.report.records import Variant

POINTS = 120  # of a drawn line
Point = tuple[float, float, float, float]  # step, mean, lowest and highest seed


def curves(variants: Sequence[Variant], metric: str) -> list[list[Point]]:
    """For each variant the points of its finished runs, all in the same stretches of steps.

    Where there are more than `POINTS` steps, each run is averaged within so many equal stretches; a step that not all
    seeds of a variant have is left out, so that no line jumps because a seed is missing. Values that are no finite
    numbers are left out.
    """
    steps = {step for each in variants for run in each.finished for step, _ in run.curves.get(metric, [])}
    if not steps:
        return [[] for _ in variants]
    first, last = min(steps), max(steps)
    width = (last - first) / POINTS if len(steps) > POINTS else 0.0
    return [_points(each, metric, first, width) for each in variants]


def is_thinned(variants: Sequence[Variant], metric: str) -> bool:
    """Whether a line stands for more steps than it has points."""
    return len({s for each in variants for run in each.finished for s, _ in run.curves.get(metric, [])}) > POINTS


def _points(variant: Variant, metric: str, first: int, width: float) -> list[Point]:
    runs = []
    for run in variant.finished:
        stretches: dict[float, list[float]] = {}
        for step, value in run.curves.get(metric, []):
            if math.isfinite(value):
                stretches.setdefault(_middle(step, first, width), []).append(value)
        if stretches:
            runs.append({step: statistics.fmean(values) for step, values in stretches.items()})
    if not runs:
        return []
    common = sorted(set.intersection(*(set(each) for each in runs)))
    found: list[Point] = []
    for at in common:
        values = [each[at] for each in runs]
        found.append((at, statistics.fmean(values), min(values), max(values)))
    return found


def _middle(step: int, first: int, width: float) -> float:
    """The middle of the stretch that `step` is in; the step itself where nothing is thinned."""
    if not width:
        return float(step)
    return first + (min(int((step - first) / width), POINTS - 1) + 0.5) * width
