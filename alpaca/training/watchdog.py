"""Which rank stands still: every rank says how far it is, and one that does not move for too long is named.

In a collective operation all ranks wait for the slowest, so a stuck run looks the same everywhere. But each
rank has told the common store what it did last; the one that is least far is the one that stands.
"""

import contextlib
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from alpaca.training.world import World

LOOK_EVERY = 10  # looks per time limit


class Beats:
    """Signs of life of this rank; alone they cost nothing and go nowhere."""

    def __init__(self, world: World, limit_s: float):
        self._world, self._every_s = world, limit_s / LOOK_EVERY
        self._count, self._doing, self._pulse = 0, "starting", 0

    def beat(self, doing: str | None = None) -> None:
        """One more thing is done; `doing` names what comes now."""
        if self._world.alone:
            return
        self._count += 1
        self._doing = doing or self._doing
        self._tell()

    def _tell(self) -> None:
        self._world.store.set(f"beat/{self._world.rank}", json.dumps([self._count, self._doing, self._pulse]))

    @contextlib.contextmanager
    def while_working(self, doing: str) -> Iterator[None]:
        """For work on files and networks that may take long without being stuck: downloads, uploads, hashing."""
        if self._world.alone:
            yield
            return
        ended = threading.Event()

        def go_on() -> None:
            while not ended.wait(self._every_s):
                self._pulse += 1  # a sign of life, no progress: ranks are compared by what they have done
                with contextlib.suppress(RuntimeError):  # the store is gone: the run is ending
                    self._tell()

        self.beat(doing)
        thread = threading.Thread(target=go_on, name="beats", daemon=True)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()


class Watchdog:
    """A thread that calls `on_stuck(message)` when no rank has moved for `limit_s` seconds."""

    def __init__(self, world: World, limit_s: float, on_stuck: Callable[[str], None]):
        self._world, self._limit, self._on_stuck = world, limit_s, on_stuck
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if not self._world.alone:
            self._store = self._world.store.clone()  # a connection of its own: the main thread may block in its
            self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)

    def _watch(self) -> None:
        seen: list[Any] = []
        since = time.monotonic()
        while not self._ended.wait(self._limit / LOOK_EVERY):
            with contextlib.suppress(RuntimeError):  # the store is gone: the run is ending
                now = [self._last(rank) for rank in range(self._world.size)]
                if now != seen:
                    seen, since = now, time.monotonic()
                elif time.monotonic() - since > self._limit:
                    self._on_stuck(stuck_message([beat[:2] for beat in seen], self._limit))
                    return

    def _last(self, rank: int) -> list[Any]:
        key = f"beat/{rank}"
        return json.loads(self._store.get(key)) if self._store.check([key]) else [0, "starting", 0]


def stuck_message(beats: list[Any], limit_s: float) -> str:
    """Names the ranks that are least far; `beats` holds [things done, doing] of each rank."""
    least = min(count for count, _ in beats)
    names = [f"rank {rank} in {doing}" for rank, (count, doing) in enumerate(beats) if count == least]
    if len(names) == len(beats):
        return (
            f"no rank has moved for {limit_s:g} s ({beats[0][1]}); raise parallelism.timeout_s if a step takes so long"
        )
    return (
        f"{', '.join(names)} has not moved for {limit_s:g} s and the others wait for it; look at that process or "
        "machine, or raise parallelism.timeout_s if a step takes so long"
    )
