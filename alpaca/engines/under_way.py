"""The requests that are under way at once, and their end: shared by all loops that ask an engine for many answers.

What is under way is paid for. So an interrupt sends nothing more and waits for it, and only a second one ends at once;
an engine that finds its requests again after a restart is not waited for at all.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

from alpaca.engines.asking import Asker
from alpaca.engines.exchange import Request
from alpaca.engines.ledger import Outcome

Key = TypeVar("Key")


class UnderWay(Generic[Key]):
    """Requests that were sent and have no outcome yet, each under the key that its asker knows it by."""

    def __init__(self, asker: Asker, *, what: str, say: Callable[[str], None]):
        """Nothing is sent yet.

        Args:
            what: what the requests are for, in the plural: answers, judgements.
            say: a line for the user.
        """
        self._asker, self._what, self._say = asker, what, say
        self._tasks: dict[asyncio.Task[Outcome], Key] = {}
        self._stopping = asyncio.Event()

    def __len__(self) -> int:
        return len(self._tasks)

    @property
    def stopping(self) -> bool:
        """Whether an interrupt came."""
        return self._stopping.is_set()

    def interrupt(self) -> None:
        """Ask for nothing more and end when what is under way has arrived; a second time ends at once."""
        if self.stopping or self._asker.keeps_under_way:
            self._let_go()
        elif self._tasks:
            self._say(f"interrupted: waiting for {len(self)} {self._what} under way; Ctrl-C again stops at once")
        self._stopping.set()
        self._asker.ending = True

    def _interrupted(self, number: signal.Signals) -> None:
        if not (self.stopping and number == signal.SIGHUP):  # a shell repeats it
            self.interrupt()

    @contextlib.contextmanager
    def interrupted_by(self, *signals: signal.Signals) -> Iterator[None]:
        """Within this context, in a running loop, `signals` interrupt; what heard them before hears them after.

        Only a process's main thread hears signals; elsewhere nothing is changed.
        """
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in signals}
        heard = []
        with contextlib.suppress(ValueError, RuntimeError, NotImplementedError):  # not in the main thread
            for number in signals:
                loop.add_signal_handler(number, self._interrupted, number)
                heard.append(number)
        try:
            yield
        finally:
            for number in heard:
                loop.remove_signal_handler(number)
                if (handler := before[number]) is not None:
                    signal.signal(number, handler)

    def send(self, request: Request, key: Key) -> bool:
        """Send `request` if the budget holds it (now); returns whether it does."""
        reservation = self._asker.reserve(request)
        if reservation is None:
            return False
        self._tasks[asyncio.create_task(self._asker.ask(request, reservation))] = key
        return True

    async def arrived(self) -> Iterator[tuple[Key, Outcome]]:
        """Wait for an outcome or for the interrupt; then all that is there, each no longer under way once it is taken.

        Raises:
            UserError: (while they are taken) what no retry mends.
        """
        stop = asyncio.create_task(self._stopping.wait())
        try:
            finished, _ = await asyncio.wait({*self._tasks, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        return self._taken([task for task in self._tasks if task in finished])

    async def drain(self) -> list[tuple[Key, Outcome]]:
        """End what is under way: wait for it, or let go of it where the engine finds it again; returns what came."""
        self._asker.ending = True
        if self._asker.keeps_under_way:
            self._let_go()
        if self._tasks:
            await asyncio.gather(*self._tasks, return_exceptions=True)
        came = [task for task in self._tasks if not task.cancelled() and task.exception() is None]
        found = list(self._taken(came))
        self._tasks.clear()
        return found

    def _taken(self, tasks: list[asyncio.Task[Outcome]]) -> Iterator[tuple[Key, Outcome]]:
        for task in tasks:
            key = self._tasks.pop(task)
            if not task.cancelled():
                yield key, task.result()

    def _let_go(self) -> None:
        for task in self._tasks:
            task.cancel()
