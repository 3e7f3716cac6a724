"""How a generation is ended from outside: SIGTERM like Ctrl-C.

While requests are under way both go to them (`alpaca/engines/under_way.py`); before and after that they are a
`KeyboardInterrupt`. Only a process's main thread hears signals; elsewhere nothing is changed.
"""

import contextlib
import signal
import threading
from collections.abc import Iterator
from typing import Any


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
