"""How often the verdicts of `alpaca.compare` are wrong: simulated runs whose true differences are known.

    python scripts/simulate_statistics.py                  4,000 simulations of every case, prints a Markdown table
    python scripts/simulate_statistics.py --write          writes it into docs/comparing.md, between its marks

Variant v, seed s, example i score  example[i] + own[v, i] + order[s] + seed[v, s] + noise[v, s, i]:  examples are
hard or easy for all, some suit one variant, a seed is good or bad for all or for one variant. The difference to the
baseline has a variance of which the seeds' part is the given share.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import integrate, stats

from alpaca.report.statistics import Estimate, intervals, paired, unpaired

PAGE = Path(__file__).resolve().parent.parent / "docs" / "comparing.md"
MARKS = ("<!-- simulated: begin -->\n", "<!-- simulated: end -->\n")
SEEDS = (2, 3, 5, 10)
SHARES = (1.0, 0.9, 0.5, 0.1)
EXAMPLES = 64
AT_ONCE = 500  # simulations in memory
EFFECT = 2.0  # true difference for the power, in standard errors


@dataclass(frozen=True)
class Rates:
    """Percent of simulations."""

    wrong: float  # a verdict where there is no difference, in any variant
    covered: float  # all intervals hold the true differences
    found: float  # a difference of `EFFECT` standard errors is found
    theory: float  # how often that should be


def simulate(
    seeds: int, share: float, variants: int = 1, count: int = 4000, *, fewer: bool = False, start: int = 0
) -> Rates:
    """Rates over `count` simulations of `variants` against a baseline; `fewer` gives the baseline a seed less."""
    random = np.random.default_rng([start, seeds, variants, int(share * 1000), fewer])
    wrong = covered = found = 0
    for first in range(0, count, AT_ONCE):
        size = min(AT_ONCE, count - first)
        scores, error = _scores(random, size, variants, seeds, share)
        null = _intervals(scores, fewer)
        wrong += int(np.any([decided for _, _, decided in null], axis=0).sum())
        covered += int(np.all([(low <= 0) & (high >= 0) for low, high, _ in null], axis=0).sum())
        scores[:, 1] += EFFECT * error
        found += int(_intervals(scores, fewer)[0][2].sum())
    theory = power(seeds, share) if variants == 1 and not fewer else float("nan")
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


def _intervals(scores: np.ndarray, fewer: bool) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    baseline, others = scores[:, 0], [scores[:, index] for index in range(1, scores.shape[1])]
    if fewer:
        return intervals([unpaired(other, baseline[:, :-1]) for other in others])
    return intervals([paired(other - baseline) for other in others])


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
    """A Markdown table of every case."""
    lines = [
        "| seeds | seeds' share of the variance | wrong verdicts % | covered % | found % | theory % "
        "| wrong, three variants % | covered, three % | wrong, baseline a seed short % | covered, a seed short % |",
        "| ---: " * 10 + "|",
    ]
    for seeds in SEEDS:
        for share in SHARES:
            one = simulate(seeds, share, 1, count)
            three = simulate(seeds, share, 3, count)
            short = simulate(seeds, share, 1, count, fewer=True)
            numbers = (one.wrong, one.covered, one.found, one.theory, three.wrong, three.covered, short.wrong)
            shown = " | ".join(f"{number:.1f}" for number in (*numbers, short.covered))
            lines.append(f"| {seeds} | {share:g} | {shown} |")
            print(lines[-1], flush=True)
    return "\n".join(lines) + "\n"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--simulations", type=int, default=4000, help="of every case (4000)")
    parser.add_argument("--write", action="store_true", help=f"write the table into {PAGE.name}")
    options = parser.parse_args()
    made = table(options.simulations)
    if options.write:
        text = PAGE.read_text(encoding="utf-8")
        before, rest = text.split(MARKS[0])
        PAGE.write_text(before + MARKS[0] + made + MARKS[1] + rest.split(MARKS[1])[1], encoding="utf-8")


if __name__ == "__main__":
    main()
