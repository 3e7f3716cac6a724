"""What a difference is called, over which runs it is taken, and when nothing can be said: runs with known numbers."""

import math
from collections.abc import Sequence

import pytest

from alpaca.errors import UserError
from alpaca.report import rows
from alpaca.report.comparing import compare
from alpaca.report.html import page
from alpaca.report.reading import Found
from alpaca.report.records import (
    BETTER,
    FINISHED,
    NO_DIFFERENCE,
    NO_VERDICT,
    NOT_COMPARABLE,
    WORSE,
    Comparison,
    Difference,
    Run,
)

METRIC = "eval/loss"
EXACT = "eval/generate/exact_match"


def final(variant: str, values: dict[int, float], metric: str = METRIC, direction: str = "lower") -> list[Run]:
    """Runs of a variant by seed, with a final value each."""
    return [
        Run(
            f"{variant}{seed}", f"{variant}{seed}", FINISHED, seed, variant, {"adapter.name": variant},
            {metric: value}, directions={metric: direction} if direction else {},
        )
        for seed, value in values.items()
    ]  # fmt: skip


def scored(variant: str, seed: int, values: Sequence[float], metric: str = METRIC, whole: float | None = None) -> Run:
    """A run with a score for each example."""
    names = [f"{number:03d}" for number in range(len(values))]
    (run,) = final(variant, {seed: sum(values) / len(values)}, metric, "higher" if whole else "lower")
    run.scores[metric] = dict(zip(names, values, strict=True))
    run.shares.update({metric: whole} if whole else {})
    return run


def compared(*runs: Run, metrics: Sequence[str] = ()) -> Comparison:
    return compare(Found(list(runs), "test", first=runs[0]), metrics=metrics)


def difference(*runs: Run, metric: str = METRIC) -> Difference:
    return compared(*runs, metrics=[metric]).differences[1][metric]


@pytest.mark.parametrize("step", [0.1, 0.125, 1 / 3])
@pytest.mark.parametrize("size", [1.0, 2.3, 1000.1])
def test_a_spread_that_is_only_rounding_is_none_whatever_the_numbers(step: float, size: float):
    base = {seed: size * factor for seed, factor in enumerate((1.0, 1.7, 0.3))}
    moved = {seed: value - step for seed, value in base.items()}
    found = difference(*final("a", base), *final("b", moved))
    assert found.verdict == NO_VERDICT
    assert (found.low, found.high) == (None, None)
    assert "all seeds gave one difference: there is nothing to make an interval from" in found.why
    assert found.estimate == pytest.approx(-step)


def test_runs_that_all_gave_one_value_show_no_difference():
    found = difference(*final("a", {0: 0.1 + 0.2, 1: 0.3}), *final("b", {0: 0.3, 1: 0.1 + 0.2}))
    assert (found.verdict, found.estimate) == (NO_DIFFERENCE, 0.0)


def test_a_spread_above_rounding_counts():
    found = difference(*final("a", {0: 1.0, 1: 1.5, 2: 1.2}), *final("b", {0: 0.9, 1: 1.40001, 2: 1.09999}))
    assert found.verdict == BETTER


@pytest.mark.parametrize("seeds", [(1, 2, 3, 4, 5), (5, 6, 7, 8, 9)])
def test_one_seed_against_several_is_no_verdict(seeds: tuple[int, ...]):
    spread = dict(zip(seeds, (1.0, 1.001, 1.002, 0.999, 0.998), strict=True))
    for first, second, counts in (({5: 3.0}, spread, "5 against 1"), (spread, {5: 3.0}, "1 against 5")):
        found = difference(*final("a", first), *final("b", second))
        assert (found.verdict, found.low) == (NO_VERDICT, None)
        assert found.why == f"{counts} seeds: the spread over seeds of a single run is not known"
        assert rows.verdict_text(found) == f"no verdict: {found.why}"
        assert abs(found.estimate or 0) == pytest.approx(2.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_score_that_is_no_number_is_named(bad: float):
    good = final("a", {0: 1.0, 1: 1.1})
    comparison = compared(*good, *final("b", {0: 0.5, 1: bad}), *final("c", {0: 0.8, 1: 0.91}))
    by_label = {
        each.label: each_difference[METRIC]
        for each, each_difference in zip(comparison.variants, comparison.differences, strict=True)
    }
    assert by_label["adapter=b"].verdict == NOT_COMPARABLE
    assert by_label["adapter=b"].why == f"{METRIC} is {bad:g} in adapter=b, seed 1"
    assert by_label["adapter=c"].verdict != NOT_COMPARABLE
    assert comparison.variants[-1].label == "adapter=b"
    assert "nan" in rows.mean_text(comparison.means[-1][METRIC])
    page(comparison)
    of_baseline = difference(*final("a", {0: 1.0, 1: bad}), *final("b", {0: 0.5, 1: 0.6}))
    assert of_baseline.why == f"{METRIC} is {bad:g} in adapter=a, seed 1"


def test_a_run_whose_scores_are_no_numbers_does_not_make_the_others_unlike():
    diverged = scored("b", 0, [math.nan] * 5)
    diverged.scores.clear()
    comparison = compared(scored("a", 0, [1, 2, 3, 4, 5]), diverged, scored("c", 0, [1.1, 2.2, 3.1, 4.2, 5.1]))
    verdicts = {
        each.label: found[METRIC].verdict
        for each, found in zip(comparison.variants, comparison.differences, strict=True)
    }
    assert (verdicts["adapter=b"], verdicts["adapter=c"]) == (NOT_COMPARABLE, WORSE)


def test_the_difference_says_over_which_seeds_it_is_where_the_means_are_over_others():
    comparison = compared(*final("a", {0: 7.0, 1: 7.6, 2: 6.0}), *final("b", {0: 6.99, 1: 7.57}))
    found = comparison.differences[1][METRIC]
    assert (found.estimate or 0) < 0 < comparison.means[1][METRIC][0] - comparison.means[0][METRIC][0]
    assert "t interval over seeds 0, 1 and the runs' final values, paired" in found.why
    note = f"adapter=b ({METRIC}): difference over seeds 0, 1, which both have."
    assert note in comparison.notes
    assert note in page(comparison)
    assert not [
        note for note in compared(*final("a", {0: 7, 1: 8}), *final("b", {0: 6, 1: 8})).notes if "which both" in note
    ]


def test_a_rate_near_100_is_not_certain():
    """24 of 24 against 22 of 24: Bonett and Price's interval, not the one that two disagreements suggest."""
    perfect, near = scored("a", 0, [1.0] * 24, EXACT, 1.0), scored("b", 0, [1.0] * 22 + [0.0] * 2, EXACT, 1.0)
    found = difference(perfect, near, metric=EXACT)
    assert found.verdict == NO_DIFFERENCE
    assert (found.low or 0) < -2 / 24 < 0 < (found.high or 0)
    same = difference(perfect, scored("b", 0, [1.0] * 24, EXACT, 1.0), metric=EXACT)
    assert same.verdict == NO_DIFFERENCE
    assert (same.low or 0) < -0.1


def test_an_interval_that_ends_at_zero_says_why():
    base = {0: 1.0, 1: 1.2, 2: 0.9, 3: 1.1}
    far = {seed: value - 1 - 0.01 * seed for seed, value in base.items()}
    near = {seed: value - 0.1 - 0.09 * seed for seed, value in base.items()}
    comparison = compared(*final("a", base), *final("b", far), *final("c", near))
    found = comparison.differences[2][METRIC]
    assert (found.verdict, found.high) == (BETTER, 0.0)
    assert found.why.endswith("cut off at 0, where Holm decides and Bonferroni would not")
    assert any("interval that ends at 0 is Bonferroni's" in note for note in comparison.notes)


def test_a_metric_scored_on_other_examples_is_left_out_and_the_rest_compared():
    runs = []
    for variant, count in (("a", 4), ("b", 2)):
        run = scored(variant, 0, [1.0, 2.0, 3.0, 4.5])
        run.scores["eval/rougeL"] = {f"{n:03d}": 0.1 * n for n in range(count)}
        run.metrics["eval/rougeL"] = 0.05 * (count - 1)
        runs.append(run)
    comparison = compared(*runs)
    assert comparison.metrics == (METRIC,)
    assert any(
        note.startswith("Left out: eval/rougeL: these runs were scored on different") for note in comparison.notes
    )
    with pytest.raises(UserError, match="2 of up to 4 are common"):
        compared(*runs, metrics=[METRIC, "eval/rougeL"])
    for run in runs:
        del run.metrics[METRIC], run.scores[METRIC]
    with pytest.raises(UserError, match="2 of up to 4 are common"):
        compared(*runs)
