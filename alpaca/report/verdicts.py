"""Variants against a baseline on one metric: the estimates of `statistics`, in words."""

from typing import Any

import numpy as np

from alpaca.report.records import (
    BETTER,
    DIFFERENT,
    NO_DIFFERENCE,
    WORSE,
    Difference,
    Run,
    Variant,
    is_neutral,
    lower_is_better,
)
from alpaca.report.statistics import Estimate, intervals, linearised, paired, unpaired


def compare_metric(baseline: Variant, others: list[Variant], metric: str) -> list[Difference]:
    """The difference of each of `others` to the baseline; all of them have the metric, on the same examples."""
    estimates, facts = [], []
    for other in others:
        estimate, seeds, examples, how = _estimate(baseline, other, metric)
        estimates.append(estimate)
        facts.append((seeds, examples, how))
    known = [index for index, each in enumerate(estimates) if each.known and not _all_alike(each)]
    made = dict(zip(known, intervals([estimates[index] for index in known]), strict=True))
    found = []
    for index, (estimate, (seeds, examples, how)) in enumerate(zip(estimates, facts, strict=True)):
        delta = float(estimate.delta)
        if index not in made:
            alike = "all seeds gave one value" if estimate.known else "one seed each and no scores of single examples"
            why = f"{alike}: there is nothing to make an interval from"
            found.append(Difference(delta, None, None, NO_DIFFERENCE, why, seeds, examples, not estimate.known))
            continue
        low, high, decided = made[index]
        verdict = NO_DIFFERENCE
        if bool(decided):
            verdict = BETTER if (delta < 0) == lower_is_better(metric) else WORSE
            verdict = DIFFERENT if is_neutral(metric) else verdict
        if len(known) > 1:
            how += f"; right together for {len(known)} variants (Holm)"
        found.append(
            Difference(delta, float(low), float(high), verdict, how, seeds, examples, estimate.seeds_df is None)
        )
    return found


def _all_alike(estimate: Estimate) -> bool:
    """Whether a metric of final values alone is the same over seeds: no spread is no proof of certainty."""
    return estimate.examples is None and not float(estimate.seeds) > 0


def _estimate(baseline: Variant, other: Variant, metric: str) -> tuple[Estimate, int, int, str]:
    """The estimate, how many seeds and examples it rests on, and the method in words."""
    groups = [[run for run in each.finished if metric in run.metrics] for each in (other, baseline)]
    names = _examples([run for group in groups for run in group], metric)
    seeds = [{run.seed for run in group if run.seed is not None} for group in groups]
    common = seeds[0] & seeds[1]
    same = len(common) > 1 or seeds[0] == seeds[1] == common != set()
    if same:  # pairs say more than the seeds that only one of them has
        groups = [
            sorted((run for run in group if run.seed in common), key=lambda run: run.seed or 0) for group in groups
        ]
    values, reference = (_values(group, metric, names) for group in groups)
    on = f"{len(names)} examples" if names else "the runs' final values"
    if len(values) == len(reference) and (same or len(values) == 1):
        counted = len(values)
        how = f"t interval over {counted} seeds and {on}, paired" if counted > 1 else f"these two runs on {on}, paired"
        return paired(values - reference), counted, len(names), how
    counted = min(len(values), len(reference))
    how = f"t interval over {len(values)} and {len(reference)} seeds (Welch) and {on}"
    return unpaired(values, reference), counted, len(names), how


def _examples(runs: list[Run], metric: str) -> list[str]:
    """Examples that every run has a score of; none where a run has no scores of single ones."""
    scores = [run.scores.get(metric, {}) for run in runs]
    common = set.intersection(*(set(each) for each in scores))
    return sorted(common) if len(common) > 1 else []


def _values(runs: list[Run], metric: str, names: list[str]) -> Any:
    """(seeds, examples) scores whose mean is the metric; one column of final values where there are no examples."""
    if not names:
        return np.array([[run.metrics[metric]] for run in runs])
    values = np.array([[run.scores[metric][name] for name in names] for run in runs])
    weights = runs[0].weights.get(metric)
    if weights is None or any(name not in weights for name in names):
        return values
    return linearised(values, np.array([weights[name] for name in names]))
