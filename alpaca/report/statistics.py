"""Differences between two variants, with intervals that are honest for two seeds as for ten.

What is estimated is the expected difference of a metric over training seeds and over evaluation examples like the
ones at hand. The difference d[s, i] at seed s and example i is taken as

    d[s, i] = delta + seed[s] + example[i] + rest[s, i]

and its mean over seeds and examples has the variance V1 + V2: V1, of the mean over S seeds with what `rest` adds to
it, is estimated from the S means over examples with S - 1 degrees of freedom; V2, of the mean over N examples, from
the N means over seeds less the share that `rest` has in them. With few seeds V1 is known badly, so neither a normal
interval nor one by Satterthwaite's approximation (coverage 87 % at two seeds where V1 is nine tenths) will do. As
Cochran and Cox (1950) did, the critical value is put between those of the two parts, t(S - 1) and t(N - 1):

    c = t(N - 1) + (t(S - 1) - t(N - 1)) * u ** k,    u = V1 / (V1 + V2) as estimated

where k is the largest exponent up to 2 for which the error exceeds its nominal level nowhere by more than a fifth,
whatever the true share of V1: found by integration for each degree of freedom and level (`_exponent`).

Runs with other seeds, or other numbers of them, are two groups, and V1 is the sum of their variances. With four seeds
or more in each it has Welch's degrees of freedom. With fewer, Welch's t test is wrong in up to 10 % of cases, since a
small group often shows too little spread; then each group is a part of its own, with its own degrees of freedom,

    c = t(N - 1) + sum over the groups g of (t(S_g - 1) - t(N - 1)) * (V_g / (V1 + V2)) ** min(1, k_g)

A single run beside several has no spread of its own, and none is borrowed: there is no interval.

Scores that are yes or no for each example (win, exact match, refusal) agree on nearly all examples where a rate is near
0 or 1, and V2 from them alone is too small. As Bonett and Price (2012) do, one example more is counted for each side.

A spread of less than `ROUNDING` of the values is rounding, and counts as none.

Several
variants against one baseline are decided by Holm's procedure; their intervals are Bonferroni's, cut off at zero where
Holm decides and Bonferroni would not.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.05
ROUNDING = 1e-6  # of the values: about what single precision resolves
ENOUGH_FOR_WELCH = 4  # seeds in each group
EXCESS = 1.2  # the error of an interval is at most this many times its nominal level
EXPONENTS = np.linspace(2.0, 0.1, 39)
SHARES = np.array([0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 1.0])
QUANTILES = 2000  # points of the integral over V1's estimate

Array = np.ndarray


@dataclass(frozen=True)
class Estimate:
    """A difference and the two parts of its variance; arrays of any one shape, for simulations, or numbers.

    Attributes:
        delta: mean difference to the baseline.
        seeds, seeds_df: V1 and its degrees of freedom; None where one seed each leaves it unknown.
        examples, examples_df: V2 and its degrees of freedom; None where a metric has no scores of single examples.
        others, others_df: the second group's part of V1 where the two groups of seeds are kept apart.
    """

    delta: Any
    seeds: Any
    seeds_df: Any
    examples: Any
    examples_df: float | None
    others: Any = 0.0
    others_df: float | None = None

    def half_width(self, level: float = LEVEL) -> Any:
        """Half the interval that misses with probability `level`."""
        from scipy import stats

        far = None if self.examples_df is None else stats.t.ppf(1 - level / 2, self.examples_df)
        if self.seeds_df is None:
            return np.sqrt(self.examples) * far
        few = stats.t.ppf(1 - level / 2, self.seeds_df)
        if far is None and self.others_df is None:
            return np.sqrt(self.seeds) * few
        variance = self.variance
        parts = [(self.seeds, self.seeds_df)]
        if self.others_df is not None:
            parts.append((self.others, self.others_df))
        nearest = stats.norm.ppf(1 - level / 2) if far is None else far
        between = np.asarray(nearest, float)
        for part, df in parts:
            share = np.divide(part, variance, out=np.zeros_like(np.asarray(variance, float)), where=variance > 0)
            power = _exponents(df, level) if len(parts) == 1 else np.minimum(_exponents(df, level), 1)
            between = between + np.maximum(stats.t.ppf(1 - level / 2, df) - nearest, 0) * share**power
        return np.sqrt(variance) * between

    @property
    def variance(self) -> Any:
        """Of the difference; 0 where all runs and examples agree."""
        return (0.0 if self.seeds is None else self.seeds + self.others) + (
            0.0 if self.examples is None else self.examples
        )

    @property
    def known(self) -> bool:
        """Whether there is anything to make an interval from."""
        return self.seeds_df is not None or self.examples_df is not None


def linearised(values: Array, weights: Array) -> Array:
    """(..., seeds, examples) values whose plain mean over examples is the weighted one, spread as that one's error is.

    The mean loss over tokens is a ratio, sum(w x) / sum(w); its error is that of the mean of w (x - mean) / mean(w).
    """
    weights = weights / weights.mean(-1, keepdims=True)
    mean = (values * weights).mean(-1, keepdims=True)
    return mean + weights * (values - mean)


def paired(differences: Array, *, size: float = 0.0, whole: float | None = None) -> Estimate:
    """The estimate from (..., seeds, examples) differences of runs with the same seeds on the same examples.

    Args:
        size: largest value that the differences are of, for what counts as rounding.
        whole: the score of a yes where scores are yes or no (1, or 100 for per cent).
    """
    seeds, examples = differences.shape[-2:]
    by_seed = differences.mean(-1)
    delta = by_seed.mean(-1)
    over_examples, examples_df = _over_examples(differences.mean(-2), size, whole)
    if seeds == 1:
        return Estimate(delta, None, None, over_examples, examples_df)
    over_seeds = _spread(by_seed, size) / seeds
    if over_examples is None:
        return Estimate(delta, over_seeds, seeds - 1, None, None)
    own = np.maximum(over_examples - _rest(differences) / (seeds * examples), 0)
    return Estimate(delta, over_seeds, seeds - 1, own, examples_df)


def unpaired(values: Array, baseline: Array, *, size: float = 0.0, whole: float | None = None) -> Estimate:
    """The estimate from (..., seeds, examples) values of runs with other seeds, or another number of them.

    The examples are the same for both. `size` and `whole` are those of `paired`.

    Raises:
        ValueError: a group of one seed beside a larger one.
    """
    groups = (values, baseline)
    counts = [group.shape[-2] for group in groups]
    examples = values.shape[-1]
    if min(counts) == 1:
        raise ValueError(f"{counts[0]} and {counts[1]} seeds: the spread over seeds of a single run is not known")
    difference = values.mean(-2) - baseline.mean(-2)
    over_examples, examples_df = _over_examples(difference, size, whole)
    parts = [_spread(group.mean(-1), size) / count for group, count in zip(groups, counts, strict=True)]
    if over_examples is not None:
        taken = sum(_rest(group) / (count * examples) for group, count in zip(groups, counts, strict=True))
        over_examples = np.maximum(over_examples - taken, 0)
    delta = difference.mean(-1)
    if min(counts) < ENOUGH_FOR_WELCH:
        return Estimate(delta, parts[0], counts[0] - 1, over_examples, examples_df, parts[1], counts[1] - 1)
    over_seeds = parts[0] + parts[1]
    down = parts[0] ** 2 / (counts[0] - 1) + parts[1] ** 2 / (counts[1] - 1)
    fewest = min(counts) - 1
    df = np.divide(over_seeds**2, down, out=np.full_like(np.asarray(down, float), fewest), where=down > 0)
    return Estimate(delta, over_seeds, df, over_examples, examples_df)


def holm(estimates: list[Estimate], level: float = LEVEL) -> list[Array]:
    """Which differences Holm's procedure decides, as arrays of booleans of the estimates' shape.

    Each round tests what is left at `level` over its number, until a round decides nothing more.
    """
    decided = np.zeros((len(estimates), *np.shape(estimates[0].delta)), dtype=bool) if estimates else np.zeros(0)
    found = [
        np.stack([np.abs(each.delta) > each.half_width(level / left) for each in estimates])
        for left in range(1, len(estimates) + 1)
    ]
    for _ in estimates:
        left = len(estimates) - decided.sum(0)
        for count in range(1, len(estimates) + 1):
            decided = decided | (found[count - 1] & (left == count))
    return list(decided)


def intervals(estimates: list[Estimate], level: float = LEVEL) -> list[tuple[Array, Array, Array]]:
    """(low, high, decided) of every difference: together they miss any true difference with probability `level`."""
    made = []
    for each, decided in zip(estimates, holm(estimates, level), strict=True):
        half = each.half_width(level / len(estimates))
        low, high = each.delta - half, each.delta + half
        low = np.where(decided & (each.delta > 0), np.maximum(low, 0), low)
        high = np.where(decided & (each.delta < 0), np.minimum(high, 0), high)
        made.append((low, high, decided))
    return made


def _spread(values: Array, size: float) -> Any:
    """Variance over the last axis; 0 where it is rounding."""
    variance = values.var(-1, ddof=1)
    return np.where(variance > (ROUNDING * size) ** 2, variance, 0.0)


def _over_examples(values: Array, size: float, whole: float | None) -> tuple[Any, float | None]:
    """Variance of the mean of (..., examples) differences, and its degrees of freedom; None for a single example."""
    count = values.shape[-1]
    if count < 2:
        return None, None
    if whole is None:
        return _spread(values, size) / count, count - 1
    squares = (count - 1) * _spread(values, size) + 2 * whole**2  # one more example won, one more lost
    return squares / ((count + 1) * (count + 2)), count + 1


def _rest(values: Array) -> Any:
    """Mean square of (..., seeds, examples) values about their means over seeds and over examples."""
    seeds, examples = values.shape[-2:]
    centred = values - values.mean(-1, keepdims=True) - values.mean(-2, keepdims=True)
    centred = centred + values.mean((-2, -1), keepdims=True)
    return (centred**2).sum((-2, -1)) / ((seeds - 1) * (examples - 1))


def _exponents(df: Any, level: float) -> Any:
    """`_exponent` for a number or an array of degrees of freedom, taken down to a half."""
    halves = np.maximum(np.floor(2 * np.asarray(df, float)) / 2, 1)
    if np.ndim(df) == 0:
        return _exponent(float(halves), round(level, 8))
    known, places = np.unique(halves, return_inverse=True)
    return np.array([_exponent(float(each), round(level, 8)) for each in known])[places].reshape(np.shape(df))


@functools.lru_cache(maxsize=4096)
def _exponent(df: float, level: float) -> float:
    """The largest k for which no true share of V1 makes the error exceed `EXCESS` times `level`; V2 taken as known."""
    from scipy import stats

    far, few = stats.norm.ppf(1 - level / 2), stats.t.ppf(1 - level / 2, df)
    estimates = stats.chi2.ppf((np.arange(QUANTILES) + 0.5) / QUANTILES, df) / df
    over_seeds = SHARES[:, None] * estimates
    variance = over_seeds + 1 - SHARES[:, None]
    share, root = over_seeds / variance, np.sqrt(variance)
    for exponent in EXPONENTS:
        missed = 2 * stats.norm.sf((far + (few - far) * share**exponent) * root).mean(1)
        if missed.max() <= EXCESS * level:
            return float(exponent)
    return 0.0
