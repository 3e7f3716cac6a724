"""A comparison as rows of text: what the terminal, report.md and report.csv show."""

import statistics
from typing import Any

from alpaca.report.records import BASELINE, NO_VERDICT, Comparison, Difference, Variant

COSTS = (
    ("wall_time_s", "wall time"),
    ("tokens_per_s", "tokens/s"),
    ("peak_memory_gib", "peak GiB"),
    ("trained_parameters", "trained"),
    ("dollars", "dollars"),
)


def cost(variant: Variant, name: str) -> float | None:
    """Mean over the variant's finished runs."""
    values = [run.costs[name] for run in variant.finished if name in run.costs]
    return statistics.fmean(values) if values else None


def cost_columns(comparison: Comparison) -> list[tuple[str, str]]:
    """Name and heading of the costs that any variant has."""
    return [(name, head) for name, head in COSTS if any(cost(each, name) is not None for each in comparison.variants)]


def cost_text(name: str, value: float | None) -> str:
    """A cost as people read it."""
    if value is None:
        return "–"
    if name == "wall_time_s":
        return duration(value)
    if name in ("tokens_per_s", "trained_parameters"):
        return f"{value:,.0f}"
    return f"{value:.2f}"


def duration(seconds: float) -> str:
    """`2 h 5 min`, `3 min 4 s`, `7.1 s`."""
    if seconds >= 3600:
        return f"{int(seconds // 3600)} h {int(seconds % 3600 // 60)} min"
    if seconds >= 60:
        return f"{int(seconds // 60)} min {int(seconds % 60)} s"
    return f"{seconds:.1f} s"


def mean_text(mean: tuple[float, float | None, int] | None) -> str:
    """`1.2345 ± 0.0067`, or the value of a single seed."""
    if mean is None:
        return "–"
    return f"{mean[0]:.4f}" + (f" ± {mean[1]:.4f}" if mean[1] is not None else "")


def difference_text(difference: Difference) -> str:
    """`-0.0123 [-0.0200, -0.0046]`."""
    if difference.estimate is None:
        return "–"
    if difference.low is None or difference.high is None:
        return f"{difference.estimate:+.4f}"
    return f"{difference.estimate:+.4f} [{difference.low:+.4f}, {difference.high:+.4f}]"


def verdict_text(difference: Difference) -> str:
    """The verdict, with what limits it."""
    if difference.verdict == BASELINE:
        return BASELINE
    if difference.estimate is None or (difference.verdict == NO_VERDICT and difference.low is None):
        return f"{difference.verdict}: {difference.why}"
    return difference.verdict + (" (these two runs only)" if difference.only_these_runs else "")


def seeds_text(variant: Variant) -> str:
    """How many runs have results, of how many."""
    done, every = len(variant.finished), len(variant.runs)
    return str(done) if done == every else f"{done} of {every}"


def answers(comparison: Comparison) -> list[str]:
    """The answer in plain sentences, one for each metric."""
    found = []
    base = comparison.variants[0].label
    for metric in comparison.metrics:
        parts = []
        for variant, differences in zip(comparison.variants[1:], comparison.differences[1:]):
            difference = differences[metric]
            if difference.estimate is not None:
                parts.append(f"{variant.label}: {verdict_text(difference)}, {difference_text(difference)}")
        if parts:
            found.append(f"{metric}, against {base}: {'; '.join(parts)}.")
    return found


def troubles(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Variant and seed, status and reason of each run without a result."""
    return [
        (f"{each.label}{'' if run.seed is None else f', seed {run.seed}'}", run.status, run.error)
        for each in comparison.variants
        for run in each.runs
        if run.status != "finished"
    ]


def csv_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One record for each variant and metric, numbers as numbers."""
    found = []
    for variant, means, differences in zip(comparison.variants, comparison.means, comparison.differences, strict=True):
        for metric in comparison.metrics or ("",):
            mean, difference = means.get(metric), differences.get(metric)
            found.append(
                {
                    "variant": variant.label,
                    "metric": metric,
                    "runs": len(variant.runs),
                    "finished": len(variant.finished),
                    "mean": mean[0] if mean else None,
                    "sd": mean[1] if mean else None,
                    "difference": difference.estimate if difference else None,
                    "low": difference.low if difference else None,
                    "high": difference.high if difference else None,
                    "verdict": difference.verdict if difference else "",
                    "why": difference.why if difference else "",
                    "examples": difference.examples if difference else None,
                    **{name: cost(variant, name) for name, _ in COSTS},
                    "troubles": "; ".join(
                        f"seed {run.seed}: {run.status}: {run.error}"
                        for run in variant.runs
                        if run.status != "finished"
                    ),
                }
            )
    return found
