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
whatever the true share of V1: found by integration for each degree of freedom and level (`_exponent`). Several
variants against one baseline are decided by Holm's procedure; their intervals are Bonferroni's, cut off at zero where
Holm decides and Bonferroni would not.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.05
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
    """

    delta: Any
    seeds: Any
    seeds_df: Any
    examples: Any
    examples_df: float | None

    def half_width(self, level: float = LEVEL) -> Any:
        """Half the interval that misses with probability `level`."""
        from scipy import stats

        far = None if self.examples_df is None else stats.t.ppf(1 - level / 2, self.examples_df)
        if self.seeds_df is None:
            return np.sqrt(self.examples) * far
        few = stats.t.ppf(1 - level / 2, self.seeds_df)
        if far is None:
            return np.sqrt(self.seeds) * few
        variance = self.seeds + self.examples
        share = np.divide(self.seeds, variance, out=np.zeros_like(np.asarray(variance, float)), where=variance > 0)
        between = far + np.maximum(few - far, 0) * share ** _exponents(self.seeds_df, level)
        return np.sqrt(variance) * between

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


def paired(differences: Array) -> Estimate:
    """The estimate from (..., seeds, examples) differences of runs with the same seeds on the same examples."""
    seeds, examples = differences.shape[-2:]
    by_seed, by_example = differences.mean(-1), differences.mean(-2)
    delta = by_seed.mean(-1)
    over_examples = by_example.var(-1, ddof=1) / examples if examples > 1 else None
    if seeds == 1:
        return Estimate(delta, None, None, over_examples, None if over_examples is None else examples - 1)
    over_seeds = by_seed.var(-1, ddof=1) / seeds
    if over_examples is None:
        return Estimate(delta, over_seeds, seeds - 1, None, None)
    own = np.maximum(over_examples - _rest(differences) / (seeds * examples), 0)
    return Estimate(delta, over_seeds, seeds - 1, own, examples - 1)


def unpaired(values: Array, baseline: Array) -> Estimate:
    """The estimate from (..., seeds, examples) values of runs with other seeds, or another number of them.

    Welch's variance of two groups of seeds; a group of one takes the other's. The examples are the same for both.
    """
    groups = (values, baseline)
    means = [group.mean(-1) for group in groups]
    counts = [group.shape[-2] for group in groups]
    examples = values.shape[-1]
    difference = values.mean(-2) - baseline.mean(-2)
    delta = difference.mean(-1)
    over_examples = difference.var(-1, ddof=1) / examples if examples > 1 else None
    examples_df = None if over_examples is None else examples - 1
    known = [index for index in (0, 1) if counts[index] > 1]
    if not known:
        return Estimate(delta, None, None, over_examples, examples_df)
    spreads = [means[index if index in known else known[0]].var(-1, ddof=1) for index in (0, 1)]
    parts = [spread / count for spread, count in zip(spreads, counts, strict=True)]
    over_seeds = parts[0] + parts[1]
    if len(known) == 1:
        df: Any = counts[known[0]] - 1
    else:
        down = parts[0] ** 2 / (counts[0] - 1) + parts[1] ** 2 / (counts[1] - 1)
        fewest = min(counts) - 1
        df = np.divide(over_seeds**2, down, out=np.full_like(np.asarray(down, float), fewest), where=down > 0)
    if over_examples is None:
        return Estimate(delta, over_seeds, df, None, None)
    rests = [_rest(groups[index if index in known else known[0]]) for index in (0, 1)]
    taken = sum(rest / (count * examples) for rest, count in zip(rests, counts, strict=True))
    return Estimate(delta, over_seeds, df, np.maximum(over_examples - taken, 0), examples_df)


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
