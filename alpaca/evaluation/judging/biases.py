"""How far a judge can be trusted: does it favour a position, does it agree with itself, does it favour length. Pure."""

from collections.abc import Sequence

import numpy as np

from alpaca.evaluation.judging.intervals import Estimate, share_interval, t_interval
from alpaca.evaluation.judging.pairs import Judged


def position_bias(judged: Sequence[Judged]) -> Estimate | None:
    """Points (of 100) that the first position gets beyond the 50 it should get; None where the order is not known.

    A judgement gives the first position 1, 0.5 or 0. Over both orders of a pair the answers' quality cancels, so the
    pair's mean is 0.5 for a judge without a preference whatever the answers are; over a random order it cancels on
    average. The interval is Student's over pairs.
    """
    values = []
    for one in judged:
        if one.points is None or any(judgement.model_first is None for judgement in one.judgements):
            continue
        first = [
            judgement.points if judgement.model_first else 1 - judgement.points
            for judgement in one.judgements
            if judgement.points is not None
        ]
        values.append(sum(first) / len(first))
    return t_interval(np.array(values)).scaled(100, -50) if values else None


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


def longer_wins(judged: Sequence[Judged], *, resamples: int, seed: int) -> Estimate | None:
    """Share of points that go to the longer answer, over pairs of different length; None where there are none."""
    points, model, baseline = lengths(judged)
    differ = model != baseline
    if not np.any(differ):
        return None
    to_longer = np.where(model > baseline, points, 1 - points)[differ]
    return share_interval(to_longer, resamples=resamples, seed=seed)
