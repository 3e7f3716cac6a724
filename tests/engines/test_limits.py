"""How fast an engine asks follows what the server bears; on a clock that only the test moves."""

import heapq
import math
import random
from collections import Counter
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca.engines.limits import LONGEST_PAUSE_S, REFUSED_FROM_THE_START, ROUND, Limits, duration_s


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


def test_a_server_that_refuses_everything_halves_the_window_once_for_all_that_were_under_way(clock: Clock):
    limits = Limits(16, clock)
    admitted(limits)
    clock.now += 1
    for _ in range(16):
        limits.ended()
        limits.refused(sent_at=1000.0)
    assert limits.window == 8


def test_a_single_refusal_among_answers_changes_nothing(clock: Clock):
    limits = Limits(8, clock)
    for _ in range(50):
        limits.refused(clock.now)
        for _ in range(3):
            limits.succeeded()
    assert (limits.window, limits.pause) == (8, 0)


def test_the_window_grows_back_after_refusals(clock: Clock):
    limits = Limits(8, clock)
    for _ in range(REFUSED_FROM_THE_START):
        limits.refused(clock.now)
    assert limits.window == 4
    for _ in range(5 * ROUND):
        limits.succeeded()
    assert limits.window == 8


def test_below_one_at_a_time_a_pause_doubles_up_to_its_limit_and_shrinks_with_answers(clock: Clock):
    limits = Limits(1, clock)
    for _ in range(50):
        clock.now += 1
        limits.refused(clock.now)
    assert limits.pause == LONGEST_PAUSE_S
    assert limits.admit(1) == LONGEST_PAUSE_S
    for _ in range(8):
        limits.succeeded()
    assert limits.pause == 0
    assert limits.admit(1) == 0


class Simulated:
    """An hour of virtual time with a server that refuses, and requests that come back after their own back-off."""

    def __init__(
        self,
        refuses: Callable[[float, float], bool],
        *,
        concurrency: int,
        latency_s: float,
        seed: int = 0,
        headers: Callable[[float], dict[str, str]] = lambda now: {},
        until: float = 3600.0,
    ):
        """`refuses` is given the time and a random number from 0 to 1."""
        draw = random.Random(seed)
        now = 0.0
        limits = Limits(concurrency, clock=lambda: now, wall_clock=lambda: now)
        ready, number = [0] * concurrency, 0
        events: list[tuple[float, int, float | None, bool, int, dict[str, str]]] = []
        self.answered: list[float] = []
        self.refused: list[float] = []
        while now < until:
            wait = limits.admit(500) if ready else math.inf
            number += 1
            if wait == 0:
                failed, bad = ready.pop(), refuses(now, draw.random())
                arrives = now + latency_s * draw.uniform(0.5, 1.5)
                heapq.heappush(events, (arrives, number, now, bad, failed, headers(now)))
                continue
            now = min([now + wait, *(event[0] for event in events[:1])])
            while events and events[0][0] <= now:
                _, _, sent_at, bad, failed, announced = heapq.heappop(events)
                if sent_at is None:
                    ready.append(failed)
                    continue
                limits.ended()
                limits.learn(announced)
                if bad:
                    limits.refused(sent_at)
                    self.refused.append(now)
                    back = now + draw.uniform(0, min(60.0, 2.0**failed))
                    number += 1
                    heapq.heappush(events, (back, number, None, False, failed + 1, {}))
                else:
                    limits.succeeded()
                    self.answered.append(now)
                    ready.append(0)


@pytest.mark.parametrize(("share", "goal"), [(0.1, 0.85), (0.2, 0.7), (0.3, 0.5)])
@pytest.mark.parametrize(("concurrency", "latency_s"), [(8, 1.0), (1, 2.0), (64, 8.0)])
def test_refusals_at_random_cost_little_more_than_their_share(
    share: float, goal: float, concurrency: int, latency_s: float
):
    refusing = Simulated(lambda now, drawn: drawn < share, concurrency=concurrency, latency_s=latency_s, until=1800)
    free = Simulated(lambda now, drawn: False, concurrency=concurrency, latency_s=latency_s, until=1800)
    assert len(refusing.answered) >= goal * (1 - share) * len(free.answered)


@settings(max_examples=12, deadline=None, derandomize=True)
@given(
    share=st.floats(0, 0.3),
    concurrency=st.integers(1, 16),
    latency_s=st.floats(2.0, 20.0),
    burst_s=st.floats(0, 300),
    seed=st.integers(0, 9),
)
def test_after_a_burst_of_refusals_the_pace_comes_back(
    share: float, concurrency: int, latency_s: float, burst_s: float, seed: int
):
    """Whatever the share of random refusals, and although everything is refused for a while."""
    run = Simulated(
        lambda now, drawn: drawn < share or 300 < now < 300 + burst_s,
        concurrency=concurrency, latency_s=latency_s, seed=seed, until=1800,
    )  # fmt: skip
    back = sum(now >= 900 for now in run.answered)
    possible = concurrency * 900 / latency_s * (1 - share)
    assert back >= 0.5 * possible - 3 * concurrency


@pytest.mark.parametrize("concurrency", [1, 8, 64])
@pytest.mark.parametrize("limit", [6, 60, 600])
def test_a_stated_limit_is_used_and_not_exceeded(limit: int, concurrency: int):
    """So many a minute, all of them back at the turn of the minute, and each answer says what is left."""
    arrived: Counter[float] = Counter()

    def refuses(now: float, drawn: float) -> bool:
        arrived[now // 60] += 1
        return arrived[now // 60] > limit

    def headers(now: float) -> dict[str, str]:
        left = max(0, limit - arrived[now // 60])
        return {"x-ratelimit-limit-requests": str(limit), "x-ratelimit-remaining-requests": str(left),
                "x-ratelimit-reset-requests": f"{60 - now % 60:.3f}s"}  # fmt: skip

    run = Simulated(refuses, concurrency=concurrency, latency_s=0.5, headers=headers)
    assert len(run.refused) <= max(concurrency, 0.02 * len(run.answered))
    assert len(run.answered) >= 0.8 * min(60 * limit, 3600 * concurrency / 0.5)


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
