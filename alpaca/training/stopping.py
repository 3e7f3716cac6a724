"""SIGINT, SIGTERM, SIGHUP, SIGUSR1 and SIGUSR2 during training: the step is finished and saved, then the run ends.

A second signal, a moment later, ends it at once. Outside of training a signal interrupts right away.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Iterator
from typing import Any

from alpaca.startup import heard

# A terminal that goes away sends SIGHUP; Slurm and submitit warn by the last two.
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
SAME_PRESS_S = 1.0  # one Ctrl-C may arrive twice: from the terminal and from the launcher


class Stopped(KeyboardInterrupt):
    """The run ended because a signal asked for it, after its step and its checkpoint were complete."""


class Stopping:
    """Whether a signal asked this run to end."""

    def __init__(self, announce: Callable[[str], None] = lambda text: None):
        self.asked = False
        self._announce = announce
        self._patient = False
        self._since = 0.0
        self._on_stop: Callable[[], None] = lambda: None

    @contextlib.contextmanager
    def installed(self) -> Iterator[None]:
        """Signals come here within this context; only a process's main thread may."""
        before = {number: signal.signal(number, self._received) for number in heard(*SIGNALS)}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextlib.contextmanager
    def between_steps(self, on_stop: Callable[[], None]) -> Iterator[None]:
        """Within this context a first signal waits for the end of the step; `on_stop` then saves."""
        self._patient, self._on_stop = True, on_stop
        try:
            yield
        finally:
            self._patient = False
        if self.asked:
            raise KeyboardInterrupt

    def stop(self) -> None:
        """Called between two steps once every rank knows: save and end."""
        self._on_stop()
        raise Stopped

    def _received(self, number: int, frame: Any) -> None:
        now = time.monotonic()
        if self.asked and number == signal.SIGHUP:  # a shell repeats it, and one may follow Ctrl-C
            return
        if self.asked and now - self._since < SAME_PRESS_S:
            return
        if self.asked or not self._patient:
            raise KeyboardInterrupt
        self.asked, self._since = True, now
        self._announce(
            f"{signal.Signals(number).name}: finishing this step and saving a checkpoint; again to end at once"
        )
