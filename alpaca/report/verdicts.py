"""Variants against a baseline on one metric: the estimates of `statistics`, in words."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from alpaca.evaluation.scores import HIGHER, LOWER, NEITHER
from alpaca.report.records import (
    BETTER,
    DIFFERENT,
    NO_DIFFERENCE,
    NO_VERDICT,
    NOT_COMPARABLE,
    WORSE,
    Difference,
    Run,
    Variant,
)
from alpaca.report.statistics import ROUNDING, Estimate, intervals, linearised, paired, unpaired

AT_ZERO = (
    "an interval that ends at 0 is Bonferroni's, cut off there because Holm's procedure calls the difference real "
    "where Bonferroni's would not"
)


@dataclass(frozen=True)
class _Facts:
    """An estimate, and in words what it rests on; `why_not` says why it has no interval."""

    estimate: Estimate
    seeds: int
    examples: int
    how: str
    one_each: bool
    note: str = ""
    why_not: str = ""


def compare_metric(baseline: Variant, others: list[Variant], metric: str, direction: str) -> list[Difference]:
    """The difference of each of `others` to the baseline; all of them have the metric, on the same examples.

    Args:
        direction: lower, higher or neither; empty where it is not known, so that no verdict can say better or worse.
    """
    found: list[Difference | None] = []
    facts: list[_Facts] = []
    for other in others:
        if unusable := _not_a_number([baseline, other], metric):
            found.append(Difference(None, None, None, NOT_COMPARABLE, unusable))
            continue
        found.append(None)
        facts.append(_facts(baseline, other, metric))
    known = [each.estimate for each in facts if not each.why_not]
    made = iter(intervals(known))
    told = iter([_difference(each, made, len(known), direction) for each in facts])
    return [next(told) if each is None else each for each in found]


def _difference(facts: _Facts, made: Any, family: int, direction: str) -> Difference:
    delta = float(facts.estimate.delta)
    if facts.why_not:
        verdict = NO_VERDICT if delta else NO_DIFFERENCE
        return Difference(
            delta, None, None, verdict, facts.why_not, facts.seeds, facts.examples, facts.one_each, facts.note
        )
    low, high, decided = next(made)
    verdict, how = NO_DIFFERENCE, facts.how
    if bool(decided):
        better = {LOWER: delta < 0, HIGHER: delta > 0}.get(direction)
        verdict = {True: BETTER, False: WORSE}.get(better, DIFFERENT if direction == NEITHER else NO_VERDICT)  # type: ignore[arg-type]
    if family > 1:
        how += f"; right together for {family} variants (Holm)"
    if bool(decided) and 0 in (float(low), float(high)):
        how += "; cut off at 0, where Holm decides and Bonferroni would not"
    return Difference(
        delta, float(low), float(high), verdict, how, facts.seeds, facts.examples, facts.one_each, facts.note
    )


def _not_a_number(variants: Sequence[Variant], metric: str) -> str:
    """Which runs have no finite value of the metric; empty where all have."""
    for each in variants:
        bad = [run for run in each.finished if metric in run.metrics and not math.isfinite(run.metrics[metric])]
        if bad:
            seeds = ", ".join(run.name if run.seed is None else f"seed {run.seed}" for run in bad)
            return f"{metric} is {bad[0].metrics[metric]:g} in {each.label}, {seeds}"
    return ""


def _facts(baseline: Variant, other: Variant, metric: str) -> _Facts:
    groups = [[run for run in each.finished if metric in run.metrics] for each in (other, baseline)]
    names = _examples([run for group in groups for run in group], metric)
    seeds = [{run.seed for run in group if run.seed is not None} for group in groups]
    common = seeds[0] & seeds[1]
    same = len(common) > 1 or seeds[0] == seeds[1] == common != set()
    on = f"{len(names)} examples" if names else "the runs' final values"
    note = ""
    if same:  # pairs say more than the seeds that only one of them has
        every = [len(group) for group in groups]
        groups = [
            sorted((run for run in group if run.seed in common), key=lambda run: run.seed or 0) for group in groups
        ]
        on = f"seed{'s' * (len(common) > 1)} {', '.join(str(run.seed) for run in groups[0])} and {on}"
        if every != [len(group) for group in groups]:
            note = f"difference over seeds {', '.join(str(run.seed) for run in groups[0])}, which both have"
    own = [np.array([run.metrics[metric] for run in group]) for group in groups]
    delta, size = own[0].mean() - own[1].mean(), float(max(np.abs(values).max() for values in own))
    delta = 0.0 if abs(delta) <= ROUNDING * size else delta
    counts = [len(group) for group in groups]
    pairs = counts[0] == counts[1] and (same or counts[0] == 1)
    whole = _whole([run for group in groups for run in group], metric)
    if not pairs and min(counts) == 1:
        why = f"{counts[0]} against {counts[1]} seeds: the spread over seeds of a single run is not known"
        return _Facts(Estimate(delta, None, None, None, None), 1, len(names), "", False, note, why)
    values, reference = (_values(group, metric, names) for group in groups)
    if pairs:
        estimate = paired(values - reference, size=size, whole=whole)
        how = f"t interval over {on}, paired" if counts[0] > 1 else f"these two runs, t interval over {on}, paired"
    else:
        estimate = unpaired(values, reference, size=size, whole=whole)
        method = "Welch" if estimate.others_df is None else "Cochran and Cox"
        how = f"t interval over {counts[0]} and {counts[1]} seeds ({method}) and {on}"
    estimate = replace(estimate, delta=delta)
    why_not = ""
    if not estimate.known:
        why_not = "one seed each and no scores of single examples: there is nothing to make an interval from"
    elif not float(estimate.variance) > 0:
        alike = "the runs all gave one value" if not delta else "all seeds gave one difference"
        why_not = f"{alike}{', the same on every example' * bool(names)}: there is nothing to make an interval from"
    return _Facts(estimate, min(counts), len(names), how, max(counts) == 1, note, why_not)


def _whole(runs: list[Run], metric: str) -> float | None:
    """The score of a yes where the scores of examples are yes or no, halves included; else None."""
    known = {run.shares.get(metric) for run in runs}
    return known.pop() if len(known) == 1 else None


def _examples(runs: list[Run], metric: str) -> list[str]:
    """Examples that every run has a score of; none where a run has no scores of single ones."""
    scores = [run.scores.get(metric, {}) for run in runs]
    common = set.intersection(*(set(each) for each in scores))
    return sorted(common) if len(common) > 1 else []


def _values(runs: list[Run], metric: str, names: list[str]) -> Any:
    """(seeds, examples) scores whose mean is the metric; one column of final values where there are no examples."""
    if not names:
        return np.array([[run.metrics[metric]] for run in runs])
    return np.stack([_of_run(run, metric, names) for run in runs])


def _of_run(run: Run, metric: str, names: list[str]) -> Any:
    values = np.array([run.scores[metric][name] for name in names])
    weights = run.weights.get(metric)
    if weights is None or any(name not in weights for name in names):
        return values
    return linearised(values, np.array([weights[name] for name in names]))
