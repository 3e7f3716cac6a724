"""How fast an engine asks follows what the server bears; on a clock that only the test moves."""

import math

import pytest

from alpaca.engines.limits import Limits, duration_s


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def admitted(limits: Limits, tokens: int = 1) -> int:
    """How many requests are let out now."""
    count = 0
    while limits.admit(tokens) == 0:
        count += 1
    return count


def answered(limits: Limits, count: int) -> None:
    for _ in range(count):
        limits.ended()
        limits.succeeded()


def test_no_more_than_concurrency_are_in_flight(clock: Clock):
    limits = Limits(8, clock)
    assert admitted(limits) == 8
    assert limits.admit(1) == math.inf
    answered(limits, 3)
    assert admitted(limits) == 3


def test_a_refusal_halves_the_window_once_for_all_that_were_under_way(clock: Clock):
    limits = Limits(16, clock)
    admitted(limits)
    clock.now += 1
    for _ in range(5):
        limits.ended()
        limits.refused(sent_at=1000.0)
    assert limits.window == 8
    limits.refused(sent_at=1002.0)
    assert limits.window == 4


def test_a_window_full_of_answers_makes_it_one_larger_up_to_concurrency(clock: Clock):
    limits = Limits(8, clock)
    limits.refused(clock.now)
    assert limits.window == 4
    for _ in range(4):
        limits.succeeded()
    assert limits.window == pytest.approx(4.9, abs=0.1)
    for _ in range(100):
        limits.succeeded()
    assert limits.window == 8


def test_below_one_at_a_time_the_pace_halves_and_grows_back(clock: Clock):
    limits = Limits(1, clock)
    for _ in range(20):
        assert limits.admit(1) == 0
        answered(limits, 1)
        clock.now += 0.5
    limits.refused(clock.now)
    assert limits.pace == pytest.approx(1.0)  # two a second, halved
    assert limits.admit(1) == 0
    limits.ended()
    assert limits.admit(1) == pytest.approx(1.0)
    clock.now += 1.0
    assert limits.admit(1) == 0
    answered(limits, 1)
    for _ in range(20):
        limits.succeeded()
    assert limits.pace is None


def test_retry_after_holds_everybody_back(clock: Clock):
    limits = Limits(8, clock)
    limits.refused(clock.now, retry_after=20)
    assert limits.admit(1) == 20
    clock.now += 19
    assert limits.admit(1) == 1
    clock.now += 1
    assert limits.admit(1) == 0


def test_announced_tokens_are_not_overdrawn_and_refill_until_the_reset(clock: Clock):
    limits = Limits(100, clock)
    limits.learn({"x-ratelimit-limit-tokens": "10000", "x-ratelimit-remaining-tokens": "4000",
                  "x-ratelimit-reset-tokens": "1m0s"})  # fmt: skip
    assert admitted(limits, tokens=1000) == 4
    wait = limits.admit(1000)
    assert wait == pytest.approx(10.0)  # 6,000 a minute
    clock.now += 30
    assert admitted(limits, tokens=1000) == 3


def test_announced_requests_are_not_overdrawn(clock: Clock):
    limits = Limits(100, clock)
    limits.learn({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "3",
                  "x-ratelimit-reset-requests": "57s"})  # fmt: skip
    assert admitted(limits) == 3
    assert limits.admit(1) == pytest.approx(1.0)


@pytest.mark.parametrize("reset", ["1764050030", "1764050030000", "1764050030.5"])
def test_a_reset_may_be_a_moment_since_1970(reset: str, clock: Clock):
    limits = Limits(100, clock, wall_clock=lambda: 1764050000.0)
    limits.learn({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0",
                  "x-ratelimit-reset-requests": reset})  # fmt: skip
    assert limits.admit(1) == pytest.approx(0.5, abs=0.1)  # 60 in half a minute
    clock.now += 31
    assert admitted(limits) == 60


def test_at_its_reset_a_limit_is_whole_again_whatever_was_used_since(clock: Clock):
    limits = Limits(1000, clock)
    limits.learn({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "59",
                  "x-ratelimit-reset-requests": "60s"})  # fmt: skip
    assert admitted(limits) == 59
    clock.now += 60
    assert admitted(limits) == 60


def test_a_full_limit_that_is_used_up_refills(clock: Clock):
    limits = Limits(1000, clock)
    limits.learn({"x-ratelimit-limit-requests": "10", "x-ratelimit-remaining-requests": "10",
                  "x-ratelimit-reset-requests": "60s"})  # fmt: skip
    assert admitted(limits) == 10
    waited = 0.0
    for _ in range(20):
        while (wait := limits.admit(1)) > 0:
            assert wait <= 60
            clock.now += wait + 1e-6
            waited += wait
    assert waited <= 180


def test_a_reset_years_away_limits_nothing(clock: Clock):
    limits = Limits(3, clock, wall_clock=lambda: 0.0)
    limits.learn({"x-ratelimit-limit-requests": "60", "x-ratelimit-remaining-requests": "0",
                  "x-ratelimit-reset-requests": "1764050000"})  # fmt: skip
    assert admitted(limits) == 3


def test_a_request_larger_than_the_whole_limit_goes_out_when_the_limit_is_full(clock: Clock):
    limits = Limits(4, clock)
    limits.learn({"x-ratelimit-limit-tokens": "100", "x-ratelimit-remaining-tokens": "100",
                  "x-ratelimit-reset-tokens": "0s"})  # fmt: skip
    assert limits.admit(5000) == 0


@pytest.mark.parametrize("headers", [
    {"x-ratelimit-limit-tokens": "many", "x-ratelimit-remaining-tokens": "1", "x-ratelimit-reset-tokens": "1s"},
    {"x-ratelimit-limit-tokens": "10", "x-ratelimit-remaining-tokens": "-3", "x-ratelimit-reset-tokens": "1s"},
    {"x-ratelimit-limit-tokens": "0", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "1s"},
    {"x-ratelimit-limit-tokens": "10", "x-ratelimit-remaining-tokens": "0", "x-ratelimit-reset-tokens": "soon"},
    {"x-ratelimit-limit-tokens": "10"},
])  # fmt: skip
def test_headers_that_make_no_sense_limit_nothing(headers: dict[str, str], clock: Clock):
    limits = Limits(3, clock)
    limits.learn(headers)
    assert admitted(limits, tokens=10**6) == 3


@pytest.mark.parametrize(("text", "seconds"), [
    ("20ms", 0.02), ("6m0s", 360), ("1d2h", 93600), ("2m59.56s", 179.56), ("7", 7), ("7.5s", 7.5),
    ("", None), ("soon", None), ("5s later", None), (None, None), ("nan", None),
])  # fmt: skip
def test_durations_are_read_as_servers_write_them(text: str | None, seconds: float | None):
    assert duration_s(text) == (None if seconds is None else pytest.approx(seconds))
