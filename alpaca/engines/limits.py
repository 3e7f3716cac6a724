"""How much may be asked at once and how fast, by the share of requests the server refuses and by what it announces.

Pure logic on an injected clock, without waiting. A request goes out when all limits let it: a window of
requests in flight, halved when the server refuses (429) most of a round of requests and growing after
every other round; at a window of one, a pause between requests that doubles with each refusal and shrinks with each
answer; and the requests and tokens per minute that rate-limit headers announce, which refill until their reset.

A server may refuse at random (an overloaded gateway) or because of our own pace. Asking for less mends the second
only, so single refusals change nothing: the request is sent again after its own back-off.
"""

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from alpaca.engines.failures import OLDEST_EPOCH_MS, OLDEST_EPOCH_S, clock_of

Clock = Callable[[], float]

ROUND = 16  # outcomes, at least, over which the share of refusals is measured
MOST_REFUSED = 0.6  # share of a round above which the window halves
REFUSED_FROM_THE_START = 5  # refusals without any answer that end a round early
GROWTH = 1.25  # of the window after a round with fewer refusals
LEAST_ROW = 5  # answers in a row, and at least a window of them, that make the window one larger
SHRINK = 0.7  # of the pause with each answer, and faster with each one in a row
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.5, 30.0  # between requests where even one at a time is too much
NO_WAIT_S = 1e-6  # below what a clock can add to its time
LONGEST_RESET_S = 86_400.0  # the longest limit that servers announce is one a day
LOOK_S = 0.2  # between two questions whether a request that waits is still wanted
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass
class _Announced:
    """One limit a server announced: what was left at `at`, and how fast it refills up to `limit`.

    At `reset_at` all of it is there again: what was announced before says nothing about the time after.
    `stated` is what was left when it was announced.
    """

    limit: float
    left: float
    refill: float  # per second
    at: float
    reset_at: float
    stated: float

    def available(self, now: float) -> float:
        if now >= self.reset_at:
            self.left, self.at, self.reset_at = self.limit, self.reset_at, math.inf
        return min(self.limit, self.left + self.refill * (now - self.at))

    def take(self, amount: float, now: float) -> None:
        self.left, self.at = self.available(now) - amount, now

    def use_up(self, now: float) -> None:
        """Nothing is left, and nothing comes before the reset."""
        if now < self.reset_at < math.inf:
            self.left, self.at, self.refill = 0.0, now, 0.0

    def wait(self, amount: float, now: float) -> float:
        lacking = min(amount, self.limit) - self.available(now)
        if lacking <= 0:
            return 0.0
        return min(lacking / self.refill if self.refill else math.inf, self.reset_at - now)


class Limits:
    """The state of all limits of one engine."""

    def __init__(self, concurrency: int, clock: Clock = time.monotonic, wall_clock: Clock = time.time):
        """At most `concurrency` requests in flight, whatever the server would bear; `wall_clock` reads dates."""
        self._most, self._clock, self._wall_clock = concurrency, clock, wall_clock
        self.window = float(concurrency)
        self.in_flight = 0
        self.pause = 0.0  # seconds between requests; 0 is as fast as the window lets
        self._paused_until = -math.inf
        self._next_at = -math.inf
        self._round_began = -math.inf
        self._answers = self._refusals = 0  # of this round
        self._in_a_row = 0  # answers since the last refusal, or since the window grew for them
        self._tokens: deque[int] = deque()  # of the requests in flight
        self._announced: dict[str, _Announced] = {}
        self._at_once: set[str] = set()  # limits that come back at their reset, not bit by bit

    def admit(self, tokens: int) -> float:
        """0 and a place in the window for a request of about `tokens`; else seconds to wait before asking again.

        Infinity means: until a request in flight ends.
        """
        now = self._clock()
        if self.in_flight >= math.floor(self.window):
            return math.inf
        needs = {"requests": 1.0, "tokens": float(tokens)}
        waits = [limit.wait(needs[kind], now) for kind, limit in self._announced.items()]
        wait = max([self._paused_until - now, self._next_at - now, *waits])
        if wait > NO_WAIT_S:
            return wait
        for kind, limit in self._announced.items():
            limit.take(needs[kind], now)
        self._next_at = now + self.pause
        self.in_flight += 1
        self._tokens.append(tokens)
        return 0.0

    def ended(self) -> None:
        """A request in flight is over, however it went."""
        self.in_flight -= 1
        self._tokens.popleft()  # not always its own, but about as many

    @property
    def pace(self) -> float | None:
        """Requests per second while the server takes hardly one at a time; None is as fast as the window lets."""
        return 1 / self.pause if self.pause else None

    def succeeded(self) -> None:
        """The server answered."""
        if self.pause:
            self._in_a_row += 1
            self.pause *= SHRINK**self._in_a_row
            if self.pause < FIRST_PAUSE_S:
                self.pause = 0.0
                self._next_round()
            self._next_at = min(self._next_at, self._clock() + self.pause)
            return
        self._answers += 1
        self._in_a_row += 1
        if self._in_a_row >= max(LEAST_ROW, self.window):
            self._in_a_row = 0
            self.window = min(float(self._most), self.window + 1)
        self._judge_round()

    def refused(self, sent_at: float, retry_after: float | None = None) -> None:
        """The server said 429 to a request sent at `sent_at`; everybody waits `retry_after` seconds if it said so.

        Requests that were already under way when the window was halved say nothing new.
        """
        now = self._clock()
        if retry_after is not None:
            self._paused_until = max(self._paused_until, now + retry_after)
        for kind, limit in self._announced.items():
            if limit.stated <= self._needed(kind):  # requests in flight had used it up
                self._at_once.add(kind)
                limit.use_up(now)
        if sent_at < self._round_began:
            return
        self._in_a_row = 0
        if self.pause:
            self._pause(2 * self.pause)
            return
        self._refusals += 1
        self._judge_round()

    def _judge_round(self) -> None:
        count = self._answers + self._refusals
        whole = max(ROUND, math.floor(self.window))
        none_answered = not self._answers and self._refusals >= REFUSED_FROM_THE_START
        too_many = none_answered or self._refusals > MOST_REFUSED * whole
        if not too_many and count < whole:
            return
        if not too_many:
            self.window = min(float(self._most), GROWTH * self.window)
        elif self.window >= 2:
            self.window /= 2
        else:
            self.window = 1.0
            self._pause(FIRST_PAUSE_S)
        self._next_round(reduced=too_many)

    def _next_round(self, *, reduced: bool = False) -> None:
        self._answers = self._refusals = 0
        if reduced:
            self._round_began = self._clock()

    def _pause(self, seconds: float) -> None:
        self.pause = min(LONGEST_PAUSE_S, seconds)
        self._next_at = self._clock() + self.pause

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take over the limits that a response's headers announce; missing and unreadable ones do nothing."""
        now = self._clock()
        for kind in ("requests", "tokens"):
            limit = _number(headers.get(f"x-ratelimit-limit-{kind}"))
            left = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
            reset = reset_s(headers.get(f"x-ratelimit-reset-{kind}"), clock_of(headers, self._wall_clock()))
            if limit is None or left is None or reset is None or limit <= 0 or not 0 <= left <= limit:
                continue
            # a bucket that fills until the reset; a full one has no such time, a limit a minute is usual
            whole_s = reset if reset > 0 else 60.0
            refill = 0.0 if kind in self._at_once else (limit - left if left < limit else limit) / whole_s
            usable = max(0.0, left - self._needed(kind))
            before = self._announced.get(kind)
            if kind in self._at_once and before is not None and now < before.reset_at < math.inf:
                usable = min(usable, before.available(now))  # answers overtake each other
            self._announced[kind] = _Announced(limit, usable, min(refill, limit), now, now + whole_s, left)

    def _needed(self, kind: str) -> float:
        """What the requests in flight take of a limit: the server may not have counted them yet."""
        return float(self.in_flight if kind == "requests" else sum(self._tokens))


async def patience(seconds: float, wanted: Callable[[], bool] | None = None) -> bool:
    """Sleep; False at once when `wanted` says that there is nothing to wait for any more."""
    until = time.monotonic() + seconds
    while wanted is None or wanted():
        left = until - time.monotonic()
        if left <= 0:
            return True
        await asyncio.sleep(left if wanted is None else min(left, LOOK_S))
    return False


class Gate:
    """Waiting on `Limits` in an event loop, first come, first served."""

    def __init__(self, limits: Limits):
        self._limits = limits
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()

    async def enter(
        self,
        tokens: int,
        wanted: Callable[[], bool] | None = None,
        on_wait: Callable[[float], None] = lambda seconds: None,
    ) -> bool:
        """Return True when a request of about `tokens` may be sent, and `leave` must follow.

        `on_wait` is told how long the server's limits hold everybody back.
        False as soon as `wanted` says that it need not be, however long the server wants everybody to wait.
        """
        async with self._turn:
            while wanted is None or wanted():
                if (wait := self._limits.admit(tokens)) == 0:
                    return True
                if wait < math.inf:
                    on_wait(wait)
                self._changed.clear()
                try:
                    async with asyncio.timeout(min(wait, LOOK_S)):
                        await self._changed.wait()
                except TimeoutError:
                    pass
            return False

    def leave(self) -> None:
        """The request is over."""
        self._limits.ended()
        self._changed.set()


def reset_s(text: str | None, now: float) -> float | None:
    """Seconds until a reset, written as a duration or as a moment (seconds or milliseconds since 1970).

    None for what no limit means: more than `LONGEST_RESET_S` from `now`, or long ago.
    """
    seconds = duration_s(text)
    if seconds is None:
        return None
    if seconds >= OLDEST_EPOCH_MS:
        seconds /= 1000
    if seconds >= OLDEST_EPOCH_S:
        seconds = max(0.0, seconds - now)
    return seconds if 0 <= seconds <= LONGEST_RESET_S else None


def duration_s(text: str | None) -> float | None:
    """Seconds of a duration as rate-limit headers write it (`20ms`, `6m0s`, `1d2h`, or plain seconds)."""
    if text is None:
        return None
    if (plain := _number(text)) is not None:
        return plain
    parts = _DURATION.findall(text)
    if not parts or "".join(number + unit for number, unit in parts) != text.strip():
        return None
    return sum(float(number) * _SECONDS[unit] for number, unit in parts)


def _number(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        return None
    return value if value is not None and math.isfinite(value) else None
