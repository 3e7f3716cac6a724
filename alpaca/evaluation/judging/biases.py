"""How far a judge can be trusted: does it favour a position, does it agree with itself, does it favour length. Pure."""

import math
from collections.abc import Sequence

import numpy as np

from alpaca.evaluation.judging.intervals import LEVEL, Estimate, share_interval, standard_error, t_interval
from alpaca.evaluation.judging.pairs import Judged


def position_bias(judged: Sequence[Judged]) -> Estimate | None:
    """Points (of 100) that the first position gets beyond the 50 it should get.

    A judgement gives the first position 1, 0.5 or 0. Over both orders of a pair the answers' quality cancels, so the
    pair's mean is 0.5 for a judge without a preference whatever the answers are; the interval is Student's over pairs.
    Where no pair was judged in both orders, but some in each, quality cancels between those with the model first and
    those with it second (Welch's interval). Where all have one order, or the order is not known, what the first
    position gets is the quality of the answer in it, and there is no number: None.
    """
    both, first, second = [], [], []
    for one in judged:
        orders = {judgement.model_first for judgement in one.judgements}
        if one.points is None or None in orders:
            continue
        if orders == {True, False}:
            gets = [
                judgement.points if judgement.model_first else 1 - judgement.points
                for judgement in one.judgements
                if judgement.points is not None
            ]
            both.append(sum(gets) / len(gets))
        elif orders == {True}:
            first.append(one.points)
        else:
            second.append(one.points)
    if both:
        return t_interval(np.array(both)).scaled(100, -50)
    if len(first) < 2 or len(second) < 2:
        return None
    return _half_the_difference(np.array(first), np.array(second)).scaled(100)


def _half_the_difference(first: np.ndarray, second: np.ndarray) -> Estimate:
    """(mean(first) - mean(second)) / 2 with Welch's interval."""
    from scipy import stats

    found = stats.ttest_ind(first, second, equal_var=False)
    value, error = (
        float(first.mean() - second.mean()) / 2,
        math.hypot(standard_error(first), standard_error(second)) / 2,
    )
    if not error:
        return Estimate(value, error, math.nan, math.nan)
    bounds = found.confidence_interval(LEVEL)
    return Estimate(value, error, float(bounds.low) / 2, float(bounds.high) / 2)


def consistency(judged: Sequence[Judged]) -> float | None:
    """Share of the pairs judged in both orders for which both verdicts name the same winner, or a draw."""
    agreed = []
    for one in judged:
        by_order = {judgement.model_first: judgement.points for judgement in one.judgements}
        if one.points is not None and {True, False} <= by_order.keys():
            agreed.append(by_order[True] == by_order[False])
    return sum(agreed) / len(agreed) if agreed else None


def lengths(judged: Sequence[Judged]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n,) points, and characters of the model's and the baseline's answers, of all judged pairs with both texts."""
    found = [
        (one.points, len(one.pair.model), len(one.pair.baseline))
        for one in judged
        if one.points is not None and one.pair.baseline is not None
    ]
    points, model, baseline = (np.array(column) for column in zip(*found, strict=True)) if found else ([],) * 3
    return np.asarray(points, dtype=float), np.asarray(model), np.asarray(baseline)


def longer_wins(judged: Sequence[Judged]) -> Estimate | None:
    """Share of points that go to the longer answer, over pairs of different length; None where there are none."""
    points, model, baseline = lengths(judged)
    differ = model != baseline
    if not np.any(differ):
        return None
    to_longer = np.where(model > baseline, points, 1 - points)[differ]
    return share_interval(to_longer)
