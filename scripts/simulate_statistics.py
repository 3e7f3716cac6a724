"""How often the verdicts of `alpaca.compare` are wrong: simulated runs whose true differences are known.

    python scripts/simulate_statistics.py                  4,000 simulations of every case, prints a Markdown table
    python scripts/simulate_statistics.py --write          writes them into docs/, each between its marks

Variant v, seed s, example i score  example[i] + own[v, i] + order[s] + seed[v, s] + noise[v, s, i]:  examples are
hard or easy for all, some suit one variant, a seed is good or bad for all or for one variant. The difference to the
baseline has a variance of which the seeds' part is the given share. Two further tables have groups of other seeds,
whose spreads may differ, and rates near 0 and 100 %.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import integrate, stats

from alpaca.evaluation.judging.intervals import share_interval
from alpaca.report.statistics import Estimate, intervals, paired, unpaired

DOCS = Path(__file__).resolve().parent.parent / "docs"
SEEDS = (2, 3, 5, 10)
SHARES = (1.0, 0.9, 0.5, 0.1)
EXAMPLES = 64
AT_ONCE = 500  # simulations in memory
EFFECT = 2.0  # true difference for the power, in standard errors
GROUPS = ((2, 2), (2, 3), (2, 5), (2, 10), (3, 3), (3, 10), (5, 5), (5, 10))  # seeds of variant and baseline
SPREADS = (1 / 3, 1.0, 3.0)  # the variant's spread over seeds, in the baseline's
RATES = (0.5, 0.8, 0.9, 0.95, 0.98, 0.99)
PAIRS = (24, 80, 200)


@dataclass(frozen=True)
class Rates:
    """Percent of simulations."""

    wrong: float  # a verdict where there is no difference, in any variant
    covered: float  # all intervals hold the true differences
    found: float  # a difference of `EFFECT` standard errors is found
    theory: float  # how often that should be


def simulate(seeds: int, share: float, variants: int = 1, count: int = 4000, *, start: int = 0) -> Rates:
    """Rates over `count` simulations of `variants` against a baseline, all with the same seeds."""
    random = np.random.default_rng([start, seeds, variants, int(share * 1000), 0])
    wrong = covered = found = 0
    for first in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - first)
        scores, error = _scores(random, size, variants, seeds, share)
        null = _intervals(scores)
        wrong += int(np.any([decided for _, _, decided in null], axis=0).sum())
        covered += int(np.all([(low <= 0) & (high >= 0) for low, high, _ in null], axis=0).sum())
        scores[:, 1] += EFFECT * error
        found += int(_intervals(scores)[0][2].sum())
    theory = power(seeds, share) if variants == 1 else float("nan")
    return Rates(*(100 * each / count for each in (wrong, covered, found)), 100 * theory)


def _scores(
    random: np.random.Generator, size: int, variants: int, seeds: int, share: float
) -> tuple[np.ndarray, float]:
    """(simulations, variants and baseline first, seeds, examples) scores, and the standard error of a difference."""
    shape = (size, variants + 1, seeds, EXAMPLES)
    noise = np.sqrt(share * EXAMPLES / 2)  # half of the seeds' part is noise within a run, half a good or bad run
    over_seeds = 2 * (noise**2 / EXAMPLES + share / 2) / seeds
    own = np.sqrt(over_seeds * (1 - share) / share * EXAMPLES / 2)
    scores = noise * random.standard_normal(shape)
    scores += np.sqrt(share / 2) * random.standard_normal((size, variants + 1, seeds, 1))
    scores += own * random.standard_normal((size, variants + 1, 1, EXAMPLES))
    scores += random.standard_normal((size, 1, seeds, 1)) + 3 * random.standard_normal((size, 1, 1, EXAMPLES))
    return scores, float(np.sqrt(over_seeds / share))


def _intervals(scores: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    baseline, others = scores[:, 0], [scores[:, index] for index in range(1, scores.shape[1])]
    return intervals([paired(other - baseline) for other in others])


def simulate_groups(
    seeds: tuple[int, int], spread: float, share: float, count: int = 4000, *, variants: int = 1, start: int = 0
) -> float:
    """Percent of simulations with a wrong verdict: variants with other seeds than the baseline's, and no difference.

    Args:
        seeds: of each variant, and of the baseline.
        spread: standard deviation over a variant's seeds, that over the baseline's being 1.
        share: of the variance of the difference that comes from the seeds; the rest comes from the examples.
    """
    random = np.random.default_rng([start, *seeds, int(spread * 1000), int(share * 1000), variants])
    over_seeds = spread**2 / seeds[0] + 1 / seeds[1]
    own = np.sqrt(over_seeds * (1 - share) / share * EXAMPLES / 2)
    wrong = 0
    for first in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - first)

        def group(runs: int, deviation: float, size: int = size) -> np.ndarray:
            scores = deviation * random.standard_normal((size, runs, 1)) + own * random.standard_normal(
                (size, 1, EXAMPLES)
            )
            return scores + 0.1 * deviation * random.standard_normal((size, runs, EXAMPLES))

        examples = 3 * random.standard_normal((size, 1, EXAMPLES))
        baseline = examples + group(seeds[1], 1.0)
        others = [examples + group(seeds[0], spread) for _ in range(variants)]
        made = intervals([unpaired(other, baseline) for other in others])
        wrong += int(np.any([decided for _, _, decided in made], axis=0).sum())
    return 100 * wrong / count


def simulate_rate(pairs: int, rate: float, count: int = 2000, *, verdicts: int = 1, start: int = 0) -> float:
    """Percent of 95 % intervals of a win rate that hold the true one; points are the mean of `verdicts` on a pair."""
    random = np.random.default_rng([start, pairs, int(rate * 1000), verdicts])
    chance = random.beta(4 * rate, 4 * (1 - rate), (count, pairs)) if verdicts > 1 else np.full((count, pairs), rate)
    points = sum((random.random((count, pairs)) < chance) * 1.0 for _ in range(verdicts)) / verdicts
    found = [share_interval(each) for each in points]
    return 100 * float(np.mean([each.low <= rate <= each.high for each in found]))


def simulate_difference_of_rates(
    examples: int, rate: float, seeds: int = 1, count: int = 4000, *, start: int = 0
) -> Rates:
    """Rates for two variants that are right on an example, or not, on the same examples; half of the errors are shared.

    `wrong` is where both have `rate`; `covered` where the second one errs twice as often.
    """
    random = np.random.default_rng([start, examples, int(rate * 1000), seeds])
    hard = random.random((count, 1, examples)) < (1 - rate)
    shared = random.random((count, 1, examples)) < 0.5

    def right(errors: float) -> np.ndarray:
        own = random.random((count, seeds, examples)) < (1 - rate)
        more = random.random((count, seeds, examples)) < (errors - 1) * (1 - rate) / rate
        return np.where(np.where(shared, hard, own), 0.0, 1.0) * np.where(more, 0.0, 1.0)

    ((_, _, decided),) = intervals([paired(right(1) - right(1), size=1, whole=1.0)])
    truth = rate * (1 - (1 - rate) / rate) - rate
    ((low, high, found),) = intervals([paired(right(2) - right(1), size=1, whole=1.0)])
    percent = [100 * float(np.mean(each)) for each in (decided, (low <= truth) & (truth <= high), found)]
    return Rates(*percent, float("nan"))


def power(seeds: int, share: float) -> float:
    """Probability that a difference of `EFFECT` standard errors is found, by integration; V2 taken as known.

    With all of the variance from the seeds this is the t test's, from the noncentral t distribution.
    """
    df = seeds - 1
    if share == 1:
        far = stats.t.ppf(0.975, df)
        return float(stats.nct.sf(far, df, EFFECT) + stats.nct.cdf(-far, df, EFFECT))

    def given(quantile: float) -> float:
        over_seeds = share * stats.chi2.ppf(quantile, df) / df
        half = Estimate(0.0, over_seeds, df, 1 - share, EXAMPLES - 1).half_width()
        return float(stats.norm.sf(half - EFFECT) + stats.norm.cdf(-half - EFFECT))

    return float(integrate.quad(given, 0, 1, limit=100, epsabs=1e-4)[0])


def table(count: int) -> str:
    """A Markdown table of every case in which all have the same seeds."""
    heads = ["seeds", "seeds' share of the variance", "wrong verdicts %", "covered %", "found %", "theory %"]
    lines = []
    for seeds in SEEDS:
        for share in SHARES:
            one, three = simulate(seeds, share, 1, count), simulate(seeds, share, 3, count)
            numbers = (one.wrong, one.covered, one.found, one.theory, three.wrong, three.covered)
            lines.append([str(seeds), f"{share:g}", *(f"{number:.1f}" for number in numbers)])
    return _markdown([*heads, "wrong, three variants %", "covered, three %"], lines)


def groups_table(count: int) -> str:
    """Wrong verdicts where variant and baseline have other seeds."""
    heads = ["seeds, variant and baseline"]
    heads += [f"spread {spread:.2g}, share {share:g}" for spread in SPREADS for share in (1.0, 0.5)]
    heads += [f"three variants, spread {spread:.2g}" for spread in SPREADS]
    lines = []
    for seeds in GROUPS:
        numbers = [simulate_groups(seeds, spread, share, count) for spread in SPREADS for share in (1.0, 0.5)]
        numbers += [simulate_groups(seeds, spread, 1.0, count, variants=3) for spread in SPREADS]
        lines.append([f"{seeds[0]} and {seeds[1]}", *(f"{number:.1f}" for number in numbers)])
    return _markdown(heads, lines)


def rates_table(count: int) -> str:
    """Covered true rates and differences of rates, from 50 to 99 %."""
    lines = []
    for pairs in PAIRS:
        for rate in RATES:
            numbers = [simulate_rate(pairs, rate, count // 2, verdicts=verdicts) for verdicts in (1, 2)]
            one, three = (simulate_difference_of_rates(pairs, rate, seeds, count) for seeds in (1, 3))
            numbers += [one.covered, one.wrong, three.covered, three.wrong]
            lines.append([str(pairs), f"{100 * rate:g} %", *(f"{number:.1f}" for number in numbers)])
    heads = ["examples", "true rate", "covered %: one verdict", "covered %: both orders", "difference covered %"]
    return _markdown([*heads, "wrong verdicts %", "covered %, three seeds", "wrong, three seeds %"], lines)


def _markdown(heads: list[str], lines: list[list[str]]) -> str:
    made = [heads, ["---:"] * len(heads), *lines]
    text = "".join(f"| {' | '.join(cells)} |\n" for cells in made)
    print(text, flush=True)
    return text


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=4000, help="of every case (4000)")
    parser.add_argument("--write", action="store_true", help="write the tables into docs/comparing.md")
    options = parser.parse_args()
    page = DOCS / "comparing.md"
    for name, made in (("simulated", table), ("groups", groups_table), ("rates", rates_table)):
        content = made(options.simulations)
        if options.write:
            before, begin, rest = page.read_text(encoding="utf-8").partition(f"<!-- {name}: begin -->\n")
            _, end, after = rest.partition(f"<!-- {name}: end -->\n")
            page.write_text(before + begin + content + end + after, encoding="utf-8")


if __name__ == "__main__":
    main()
