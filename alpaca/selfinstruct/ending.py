"""How a generation is ended from outside: Ctrl-C and SIGTERM alike, gently the first time.

While requests are under way both go to the pipeline; before and after that they are a `KeyboardInterrupt`.
Only a process's main thread hears signals; elsewhere nothing is changed.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def terminated_as_interrupted() -> Iterator[None]:
    """Within this context SIGTERM does what Ctrl-C does."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def heard_by(callback: Callable[[], None]) -> Iterator[None]:
    """Within this context, in a running loop, the signals call `callback`; what heard them before hears them after."""
    loop = asyncio.get_running_loop()
    before = {number: signal.getsignal(number) for number in SIGNALS}
    heard = []
    with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # not in the main thread
        for number in SIGNALS:
            loop.add_signal_handler(number, callback)
            heard.append(number)
    try:
        yield
    finally:
        for number in heard:
            loop.remove_signal_handler(number)
            signal.signal(number, before[number])
