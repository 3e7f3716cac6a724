"""How much may be asked at once and how fast: additive increase, multiplicative decrease, and what a server says.

Pure logic on an injected clock, without waiting. A request goes out when all limits let it: a window of
requests in flight, halved when the server refuses with 429 and growing by one for each window of answers;
below one request at a time a pace in requests per second, which halves and grows in the same way; and the
requests and tokens per minute that `x-ratelimit-*` headers announce, which refill until their reset.
"""

import asyncio
import math
import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from alpaca.engines.failures import OLDEST_EPOCH_MS, OLDEST_EPOCH_S

Clock = Callable[[], float]

RATE_WINDOW_S = 10.0  # over which the pace before a refusal is measured
SLOWEST_PACE = 1 / 60  # requests per second
PACE_STEPS = 10  # answers in which a halved pace is back where it was; then it is lifted
LONGEST_RESET_S = 86_400.0  # the longest limit that servers announce is one a day
LOOK_S = 0.2  # between two questions whether a request that waits is still wanted
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)")
_SECONDS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass
class _Announced:
    """One limit a server announced: what was left at `at`, and how fast it refills up to `limit`.

    At `reset_at` all of it is there again: what was announced before says nothing about the time after.
    """

    limit: float
    left: float
    refill: float  # per second
    at: float
    reset_at: float

    def available(self, now: float) -> float:
        if now >= self.reset_at:
            self.left, self.at, self.reset_at = self.limit, self.reset_at, math.inf
        return min(self.limit, self.left + self.refill * (now - self.at))

    def take(self, amount: float, now: float) -> None:
        self.left, self.at = self.available(now) - amount, now

    def wait(self, amount: float, now: float) -> float:
        lacking = min(amount, self.limit) - self.available(now)
        return min(lacking / self.refill, self.reset_at - now) if lacking > 0 else 0.0


class Limits:
    """The state of all limits of one engine."""

    def __init__(self, concurrency: int, clock: Clock = time.monotonic, wall_clock: Clock = time.time):
        """At most `concurrency` requests in flight, whatever the server would bear; `wall_clock` reads dates."""
        self._most, self._clock, self._wall_clock = concurrency, clock, wall_clock
        self.window = float(concurrency)
        self.in_flight = 0
        self.pace: float | None = None  # requests per second; None is as fast as the window lets
        self._pace_before = math.inf
        self._paused_until = -math.inf
        self._next_at = -math.inf
        self._halved_at = -math.inf
        self._sent: deque[float] = deque()
        self._announced: dict[str, _Announced] = {}

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
        if wait > 0:
            return wait
        for kind, limit in self._announced.items():
            limit.take(needs[kind], now)
        if self.pace is not None:
            self._next_at = now + 1 / self.pace
        self._sent.append(now)
        while self._sent[0] < now - RATE_WINDOW_S:
            self._sent.popleft()
        self.in_flight += 1
        return 0.0

    def ended(self) -> None:
        """A request in flight is over, however it went."""
        self.in_flight -= 1

    def succeeded(self) -> None:
        """The server answered: what was halved last grows back first."""
        if self.pace is None:
            self.window = min(float(self._most), self.window + 1 / self.window)
            return
        self.pace += self._pace_before / 2 / PACE_STEPS
        if self.pace >= self._pace_before:
            self.pace = None

    def refused(self, sent_at: float, retry_after: float | None = None) -> None:
        """The server said 429 to a request sent at `sent_at`; everybody waits `retry_after` seconds if it said so.

        Requests that were already under way at the last halving say nothing new: they do not halve again.
        """
        now = self._clock()
        if retry_after is not None:
            self._paused_until = max(self._paused_until, now + retry_after)
        if sent_at < self._halved_at:
            return
        self._halved_at = now
        if self.window >= 2:
            self.window /= 2
            return
        self.window = 1.0
        measured = max(1, sum(at >= now - RATE_WINDOW_S for at in self._sent)) / RATE_WINDOW_S
        self._pace_before = max(self.pace or measured, 2 * SLOWEST_PACE)
        self.pace = self._pace_before / 2

    def learn(self, headers: Mapping[str, str]) -> None:
        """Take over the limits that a response's headers announce; missing and unreadable ones do nothing."""
        now = self._clock()
        for kind in ("requests", "tokens"):
            limit = _number(headers.get(f"x-ratelimit-limit-{kind}"))
            left = _number(headers.get(f"x-ratelimit-remaining-{kind}"))
            reset = reset_s(headers.get(f"x-ratelimit-reset-{kind}"), self._wall_clock())
            if limit is None or left is None or reset is None or limit <= 0 or not 0 <= left <= limit:
                continue
            # a bucket that fills until the reset; a full one has no such time, a limit a minute is usual
            whole_s = reset if reset > 0 else 60.0
            refill = (limit - left if left < limit else limit) / whole_s
            self._announced[kind] = _Announced(limit, left, min(refill, limit), now, now + whole_s)


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

    async def enter(self, tokens: int, wanted: Callable[[], bool] | None = None) -> bool:
        """Return True when a request of about `tokens` may be sent, and `leave` must follow.

        False as soon as `wanted` says that it need not be, however long the server wants everybody to wait.
        """
        async with self._turn:
            while wanted is None or wanted():
                if (wait := self._limits.admit(tokens)) == 0:
                    return True
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
