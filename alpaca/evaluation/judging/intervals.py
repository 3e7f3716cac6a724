"""Means with intervals: Student's t, and shares. Pure numpy; scipy for quantiles.

The unit is a pair of answers, never a single judgement: the two judgements of one pair are not independent.
"""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95


@dataclass(frozen=True)
class Estimate:
    """A value with its standard error and the bounds of its 95 % interval; all NaN where nothing can be said."""

    value: float
    standard_error: float
    low: float
    high: float

    def scaled(self, factor: float, shift: float = 0.0) -> "Estimate":
        """In other units: `factor × value + shift`, `factor` above 0."""
        return Estimate(
            factor * self.value + shift,
            factor * self.standard_error,
            factor * self.low + shift,
            factor * self.high + shift,
        )


def standard_error(values: np.ndarray) -> float:
    """sd / √n with the sample's standard deviation (n - 1); NaN for fewer than two values."""
    return float(np.std(values, ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def t_interval(values: np.ndarray) -> Estimate:
    """Mean of `values` (n,) with Student's interval: mean ± t(n - 1) × sd / √n."""
    from scipy import stats

    n = len(values)
    mean = float(np.mean(values)) if n else float("nan")
    error = standard_error(values)
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1)) * error if n > 1 else float("nan")
    return Estimate(mean, error, mean - half, mean + half)


def share_interval(values: np.ndarray, weights: np.ndarray | None = None) -> Estimate:
    """Mean of `values` (n,), each from 0 to 1, with an interval that holds near 0 and 1 too.

    Clopper and Pearson's exact interval for m wins of n, with the number of values that the data are worth in place of
    n (Korn and Graubard, 1998): where values lie between 0 and 1 their mean varies less than that of wins and losses.
    How much less is taken from the values with two wins and two losses more (Agresti and Coull, 1998), since a sample
    in which nearly all agree shows too little spread. Of wins and losses alone it is the exact interval.

    Args:
        weights: (n,) where the mean is a weighted one, as over pairs that were judged several times.
    """
    from scipy import stats

    n = len(values)
    if n == 0:
        return Estimate(*[float("nan")] * 4)
    shares = np.ones(n) if weights is None else weights / np.mean(weights)
    mean = float(np.mean(shares * values))
    squares = float(np.sum((shares * (values - mean)) ** 2))
    error = float(np.sqrt(squares / (n * (n - 1)))) if n > 1 else float("nan")
    middle = (n * mean + 2) / (n + 4)
    spread = float(np.sum((shares * (values - middle)) ** 2)) + 2 * middle**2 + 2 * (1 - middle) ** 2
    worth = n * (n + 4) * middle * (1 - middle) / spread
    won, lost = worth * mean, worth * (1 - mean)
    tail = (1 - LEVEL) / 2
    low = float(stats.beta.ppf(tail, won, lost + 1)) if mean > 0 else 0.0
    high = float(stats.beta.ppf(1 - tail, won + 1, lost)) if mean < 1 else 1.0
    return Estimate(mean, error, low, high)
