"""Means with intervals: Student's t, and the bootstrap over pairs. Pure numpy; scipy for quantiles.

The unit is a pair of answers, never a single judgement: the two judgements of one pair are not independent.
"""

from dataclasses import dataclass

import numpy as np

LEVEL = 0.95
_CHUNK = 2_000_000  # weights drawn at once: 16 MB


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


def bootstrap_means(values: np.ndarray, *, resamples: int, seed: int) -> np.ndarray:
    """Means of `resamples` samples drawn with replacement from `values`.

    Args:
        values: (n,) one sample, or (n, k) for k samples that share the drawn places.

    Returns:
        (resamples,) or (resamples, k).
    """
    n = len(values)
    generator = np.random.default_rng(seed)
    step = max(1, _CHUNK // n)
    parts = [
        generator.multinomial(n, np.full(n, 1 / n), size=min(step, resamples - start)) @ values / n
        for start in range(0, resamples, step)
    ]
    return np.concatenate(parts)


def bootstrap_interval(values: np.ndarray, *, resamples: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Bounds of the 95 % percentile interval of the mean, widened by √(n / (n - 1)) around the mean.

    The bootstrap's spread is that of the sample with divisor n, so its plain percentiles are too narrow for
    small n; widening gives it the standard error's divisor, n - 1.

    Args:
        values: (n,) or (n, k), n at least 2.

    Returns:
        Lower and upper bounds, scalars or (k,).
    """
    n = len(values)
    mean = np.mean(values, axis=0)
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(bootstrap_means(values, resamples=resamples, seed=seed), [tail, 1 - tail], axis=0)
    wider = np.sqrt(n / (n - 1))
    return mean + wider * (low - mean), mean + wider * (high - mean)


def share_interval(values: np.ndarray, *, resamples: int, seed: int) -> Estimate:
    """Mean of `values` (n,), each from 0 to 1, with its bootstrap interval inside [0, 1].

    Where all values are 0, or all are 1, no sample drawn from them says anything else, and the exact
    (Clopper–Pearson) bound stands in: all wins of n give [0.025^(1/n), 1].
    """
    n = len(values)
    if n == 0:
        return Estimate(*[float("nan")] * 4)
    mean, error = float(np.mean(values)), standard_error(values)
    extreme = ((1 - LEVEL) / 2) ** (1 / n)
    if np.all(values == 1):
        return Estimate(1.0, error, extreme, 1.0)
    if np.all(values == 0):
        return Estimate(0.0, error, 0.0, 1 - extreme)
    if n == 1:
        return Estimate(mean, error, 0.0, 1.0)
    low, high = bootstrap_interval(values, resamples=resamples, seed=seed)
    return Estimate(mean, error, max(0.0, float(low)), min(1.0, float(high)))
