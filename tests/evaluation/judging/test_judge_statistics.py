"""Intervals, length control and biases against closed forms and scipy, and their coverage of a known truth."""

import math

import numpy as np
import pytest
from scipy import optimize, stats

from alpaca.evaluation.judging.biases import consistency, longer_wins, position_bias
from alpaca.evaluation.judging.intervals import (
    share_interval,
    standard_error,
    t_interval,
)
from alpaca.evaluation.judging.length_control import RIDGE, fit, length_control, length_feature
from alpaca.evaluation.judging.pairs import Judged, Judgement, Pair
from alpaca.evaluation.judging.report import report_of

SIMULATIONS = 1000
COVERED = (0.93, 0.97)


def sigmoid(z: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-z))


def test_standard_error_and_t_interval_are_scipys():
    values = np.random.default_rng(0).normal(3, 2, 40)
    found = t_interval(values)
    assert standard_error(values) == pytest.approx(stats.sem(values))
    expected = stats.t.interval(0.95, 39, loc=values.mean(), scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx(expected)
    assert math.isnan(t_interval(np.array([1.0])).low)


def points_of_pairs(pairs: int, truth: float, kind: str, seed: int = 0) -> np.ndarray:
    """(SIMULATIONS, pairs) points: one verdict, the mean over two orders, or a probability."""
    generator = np.random.default_rng([seed, pairs, int(1000 * truth)])
    if kind == "probabilities":
        return generator.beta(3 * truth, 3 * (1 - truth), (SIMULATIONS, pairs))
    chance = generator.beta(4 * truth, 4 * (1 - truth), (SIMULATIONS, pairs))  # of each pair, the same in both orders
    verdicts = [(generator.random(chance.shape) < chance) * 1.0 for _ in range(2)]
    return verdicts[0] if kind == "one verdict" else (verdicts[0] + verdicts[1]) / 2


@pytest.mark.parametrize("kind", ["one verdict", "both orders", "probabilities"])
@pytest.mark.parametrize(("pairs", "truth"), [(24, 0.03), (24, 0.9), (24, 0.98), (40, 0.5), (100, 0.3), (200, 0.99)])
def test_win_rate_intervals_cover_the_truth_near_0_and_100_too(pairs: int, truth: float, kind: str):
    found = [share_interval(points) for points in points_of_pairs(pairs, truth, kind)[:300]]
    assert np.mean([one.low <= truth <= one.high for one in found]) >= COVERED[0]
    widths = np.mean([one.high - one.low for one in found])
    exact = [stats.binomtest(won, pairs).proportion_ci(method="exact") for won in range(pairs + 1)]
    expected = np.dot(stats.binom.pmf(range(pairs + 1), pairs, truth), [one.high - one.low for one in exact])
    assert widths <= 1.05 * expected


def test_of_wins_and_losses_the_interval_is_the_exact_one():
    for won, lost in ((1, 29), (17, 7), (23, 1)):
        found = share_interval(np.repeat([1.0, 0.0], [won, lost]))
        exact = stats.binomtest(won, won + lost).proportion_ci(method="exact")
        assert (found.low, found.high) == pytest.approx((exact.low, exact.high))


def test_a_pair_judged_several_times_is_one_pair_of_the_interval():
    judged = [Judged(pair(number), (Judgement(float(number % 2)),)) for number in range(20)]
    once, repeated = report_of(judged), report_of(judged * 5)
    assert once is not None
    assert repeated is not None
    assert (repeated.interval.low, repeated.interval.high) == pytest.approx((once.interval.low, once.interval.high))
    assert repeated.rate.n_total == 100
    uneven = report_of([*judged, *judged[:1] * 30])
    assert uneven is not None
    assert uneven.rate.win_rate == pytest.approx(20.0)
    assert uneven.interval.high - uneven.interval.low > once.interval.high - once.interval.low


def test_where_all_agree_the_exact_bound_stands_in():
    for n in (1, 5, 30):
        won = share_interval(np.ones(n))
        exact = stats.binomtest(n, n).proportion_ci(method="exact")
        assert (won.low, won.high) == pytest.approx((exact.low, exact.high))
        lost = share_interval(np.zeros(n))
        assert (lost.low, lost.high) == pytest.approx((0, 1 - exact.low))


def test_the_length_control_fit_is_the_maximum_scipy_finds():
    generator = np.random.default_rng(4)
    x = np.tanh(generator.normal(0.4, 1, 120))
    for y in ((generator.random(120) < sigmoid(0.5 + x)) * 1.0, generator.random(120)):
        beta, _ = fit(x, y)

        def loss(b: np.ndarray, y: np.ndarray = y) -> float:
            z = b[0] + b[1] * x
            return float(np.sum(np.logaddexp(0, z) - y * z) + RIDGE / 2 * b @ b)

        best = optimize.minimize(loss, np.zeros(2), method="BFGS", options={"gtol": 1e-9})
        assert beta == pytest.approx(best.x, abs=1e-5)


def test_two_lengths_have_a_closed_form():
    """With x = ±c the fit passes through the mean of each group: θ = (a + b) / 2, φ = (a - b) / 2c."""
    x = np.repeat([0.5, -0.5], [200, 200])
    y = np.concatenate([np.repeat([1.0, 0.0], [140, 60]), np.repeat([1.0, 0.0], [80, 120])])
    a, b = math.log(0.7 / 0.3), math.log(0.4 / 0.6)
    beta, covariance = fit(x, y)
    assert beta == pytest.approx([(a + b) / 2, (a - b) / 1.0], abs=1e-3)
    variance = (1 / (200 * 0.7 * 0.3) + 1 / (200 * 0.4 * 0.6)) / 4
    assert covariance[0, 0] == pytest.approx(variance * 400 / 398, rel=1e-3)


@pytest.mark.parametrize(("pairs", "theta", "phi"), [(60, 0.4, 1.0), (150, -0.8, 2.0)])
def test_length_control_covers_the_truth_in_95_percent_of_simulations(pairs: int, theta: float, phi: float):
    generator = np.random.default_rng(pairs)
    share = effect = 0
    for _ in range(SIMULATIONS):
        x = np.tanh(generator.normal(0.5, 1, pairs))
        y = (generator.random((2, pairs)) < sigmoid(theta + phi * x)).mean(axis=0)
        found = length_control(x, y)
        assert found is not None
        share += found.share.low <= sigmoid(np.array(theta)) <= found.share.high
        effect += found.effect.low <= phi <= found.effect.high
    assert COVERED[0] <= share / SIMULATIONS <= COVERED[1]
    assert COVERED[0] <= effect / SIMULATIONS <= COVERED[1]


def test_perfect_separation_stays_finite_and_says_so_by_its_interval():
    x = np.linspace(-1, 1, 40)
    found = length_control(x, (x > 0) * 1.0)
    assert found is not None
    assert math.isfinite(found.effect.value)
    assert found.effect.value > 5
    won = length_control(x, np.ones(40))
    assert won is not None
    assert 0.99 < won.share.value < 1
    assert math.isnan(won.share.low)


def test_no_length_control_without_different_lengths_or_enough_pairs():
    assert length_control(length_feature(np.full(30, 7), np.full(30, 5)), np.ones(30)) is None
    assert length_control(np.linspace(-1, 1, 9), np.ones(9)) is None


def pair(number: int, model: str = "aaa", baseline: str = "bb", dataset: str = "") -> Pair:
    return Pair(str(number), f"task {number}", "", model, baseline, dataset)


def both(number: int, first: float | None, second: float | None, **given: str) -> Judged:
    return Judged(pair(number, **given), (Judgement(first, True), Judgement(second, False)))


def test_position_bias_is_what_the_first_position_gets_beyond_a_half():
    fair = [both(0, 1.0, 1.0), both(1, 0.0, 0.0), both(2, 0.5, 0.5)]
    found = position_bias(fair)
    assert found is not None
    assert found.value == 0
    one_sided = position_bias([both(0, 1.0, 0.0), both(1, 1.0, 0.0), both(2, 1.0, 1.0), both(3, 0.0, 0.0)])
    assert one_sided is not None
    assert one_sided.value == pytest.approx(25.0)
    assert one_sided.low < 25.0 < one_sided.high
    assert position_bias([Judged(pair(0), (Judgement(1.0),))]) is None
    assert consistency([both(0, 1.0, 0.0), both(1, 1.0, 1.0), both(2, None, 1.0)]) == 0.5


def test_one_order_alone_is_quality_and_no_bias():
    good = [Judged(pair(number), (Judgement(float(number % 4 > 0), True),)) for number in range(20)]
    assert position_bias(good) is None
    report = report_of(good)
    assert report is not None
    assert "eval/judge/position_bias" not in report.metrics()
    assert "first position" not in " ".join(report.lines())


def test_a_drawn_order_cancels_quality_however_the_draw_fell():
    """A fair judge of a model that wins 80 %, with the model first in 15 of 20 pairs."""
    points = [1.0, 1.0, 1.0, 1.0, 0.0] * 4
    judged = [Judged(pair(n), (Judgement(value, n < 15),)) for n, value in enumerate(points)]
    found = position_bias(judged)
    assert found is not None
    assert found.value == pytest.approx(0)
    assert found.low < 0 < found.high
    partial = [*judged, both(20, 1.0, 0.0), both(21, 1.0, 1.0)]
    only_both = position_bias(partial)
    assert only_both is not None
    assert only_both.value == pytest.approx(25)


def test_position_intervals_cover_the_truth_in_95_percent_of_simulations():
    generator = np.random.default_rng(7)
    covered = 0
    for _ in range(SIMULATIONS):
        chance = generator.uniform(0.2, 0.8, 60)
        first, second = generator.random(60) < chance + 0.12, generator.random(60) < chance - 0.12
        found = position_bias([both(i, float(a), float(b)) for i, (a, b) in enumerate(zip(first, second, strict=True))])
        assert found is not None
        covered += found.low <= 12 <= found.high
    assert COVERED[0] <= covered / SIMULATIONS <= COVERED[1]


def test_the_longer_answer_is_counted_whichever_side_it_is_on():
    judged = [
        both(0, 1.0, 1.0, model="long", baseline="b"),
        both(1, 0.0, 0.0, model="m", baseline="long"),
        both(2, 1.0, 0.0, model="m", baseline="long"),
        both(3, 1.0, 1.0, model="same", baseline="size"),
    ]
    found = longer_wins(judged)
    assert found is not None
    assert found.value == pytest.approx(2.5 / 3)


def test_a_pair_with_a_missing_verdict_does_not_count():
    report = report_of([both(0, 1.0, None), both(1, 1.0, 1.0), both(2, 0.0, 1.0)])
    assert report is not None
    assert (report.rate.n_total, report.incomplete, report.unread) == (2, 1, 1)
    assert report.rate.win_rate == 75.0
    assert report_of([both(0, None, 1.0)]) is None


def test_parts_are_reported_where_there_are_several():
    judged = [both(i, 1.0, float(i % 2), dataset="ab"[i % 2]) for i in range(20)]
    report = report_of(judged)
    assert report is not None
    metrics = report.metrics()
    assert metrics["eval/judge/win_rate/a"] == 50.0
    assert metrics["eval/judge/win_rate/b"] == 100.0
    assert metrics["eval/judge/win_rate_low/b"] == pytest.approx(100 * 0.025**0.1)
    assert metrics["eval/judge/win_rate"] == 75.0
    one = report_of([both(i, 1.0, 1.0, dataset="a") for i in range(4)])
    assert one is not None
    assert not one.parts


def test_no_metric_is_not_a_number():
    report = report_of([both(0, 1.0, 0.0)])
    assert report is not None
    assert all(math.isfinite(value) for value in report.metrics().values())
    assert report.lines()
