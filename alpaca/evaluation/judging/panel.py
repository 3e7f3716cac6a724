"""Asking the judge: many questions at once, each paid for before it is sent and on disk before it counts.

What the ledger has is not asked again, nor what the cache has. When the loop ends early (interrupt,
budget, a refusal, a server that answers nothing) it waits for the questions under way, which are paid for.
"""

import asyncio
import contextlib
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from alpaca.engines.asking import Asker
from alpaca.engines.exchange import Answer, Reply, Request, Usage
from alpaca.engines.ledger import Outcome, RequestLedger, digest
from alpaca.errors import RunFailed
from alpaca.evaluation.judging import cache


@dataclass
class Counts:
    """Where judgements came from: `asked` in this process, from the `ledger` of an earlier one, from the `cache`."""

    asked: int = 0
    ledger: int = 0
    cache: int = 0


class Panel:
    """One judge at work on one ledger and budget.

    Attributes:
        counts: where the judgements came from.
        outcomes: question to its outcome, as far as there is one.
        on_judged: called after each outcome with how many there are and how many there will be.
    """

    def __init__(
        self,
        asker: Asker,
        ledger: RequestLedger,
        *,
        judge: str,
        concurrency: int,
        give_up_after: int,
        keeps_under_way: bool,
        readable: Callable[[Answer], bool],
        say: Callable[[str], None],
    ):
        """Nothing is asked yet.

        Args:
            judge: its name, written into the cache.
            keeps_under_way: the engine finds its requests again after a restart, so nobody waits for them.
            readable: whether an answer has a verdict; only such go into the cache.
        """
        self.counts = Counts()
        self.outcomes: dict[str, Outcome] = {}
        self.on_judged: Callable[[int, int], None] = lambda done, total: None
        self._asker, self._ledger, self._judge = asker, ledger, judge
        self._concurrency, self._give_up_after = concurrency, give_up_after
        self._keeps, self._readable, self._say = keeps_under_way, readable, say
        self._under_way: dict[asyncio.Task[Outcome], Request] = {}
        self._stopping = asyncio.Event()
        self._lost_in_a_row = 0
        self._total = 0

    def interrupt(self) -> None:
        """Ask for nothing more and end when what is under way has arrived; a second time ends at once."""
        if self._stopping.is_set() or self._keeps:
            for task in self._under_way:
                task.cancel()
        elif self._under_way:
            self._say(f"interrupted: waiting for {len(self._under_way)} judgements under way; Ctrl-C again stops now")
        self._stopping.set()
        self._asker.ending = True

    async def run(self, questions: Sequence[Request]) -> None:
        """Fill `outcomes`, a question that stands twice being asked once.

        Raises:
            RunFailed: the budget holds no further question, or nothing answered for too many in a row.
            UserError: what no retry mends: key, model, quota.
            KeyboardInterrupt: `interrupt` was called.
        """
        unique = list({question.id: question for question in questions}.values())
        self._total = len(unique)
        waiting = [question for question in unique if not self._known(question)][::-1]
        self.on_judged(len(self.outcomes), self._total)
        try:
            while (waiting or self._under_way) and not self._stopping.is_set():
                self._send(waiting)
                if not self._under_way:
                    raise RunFailed(self._spent())
                for task in await self._some_finished():
                    question = self._under_way.pop(task)
                    if not task.cancelled():
                        self._take(question, task.result())
            self._asker.done = not waiting and not self._under_way
        finally:
            await self._drain()
        if self._stopping.is_set() and len(self.outcomes) < self._total:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def hearing_interrupts(self) -> Iterator[None]:
        """Ctrl-C calls `interrupt` inside the block; what heard it before hears it after."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = signal.getsignal(signal.SIGINT)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGINT, self.interrupt)
        try:
            yield
        finally:
            loop.remove_signal_handler(signal.SIGINT)
            signal.signal(signal.SIGINT, before)

    def _known(self, question: Request) -> bool:
        """Whether ledger or cache has an answer; the cache's is written into the ledger, at no cost."""
        past = self._ledger.past.outcomes.get(question.id)
        if past is not None and not past.lost:
            self.counts.ledger += 1
            self.outcomes[question.id] = past
            self._keep(question, past)
            return True
        stored = cache.kept(question.id)
        if stored is None or not self._readable(stored):
            return False
        asked = digest(question)
        reply = Reply(question.id, (stored,), Usage(), attempts=0, model=f"{self._judge} (cache)")
        self._ledger.answered(reply, asked, 0.0, 0.0, 0.0)
        self.counts.cache += 1
        self.outcomes[question.id] = Outcome((stored,), asked)
        return True

    def _send(self, waiting: list[Request]) -> None:
        while waiting and len(self._under_way) < self._concurrency:
            reservation = self._asker.reserve(waiting[-1])
            if reservation is None:
                return
            question = waiting.pop()
            self._under_way[asyncio.create_task(self._asker.ask(question, reservation))] = question

    def _take(self, question: Request, outcome: Outcome) -> None:
        self.outcomes[question.id] = outcome
        self.counts.asked += 1
        self._lost_in_a_row = self._lost_in_a_row + 1 if outcome.lost else 0
        self._keep(question, outcome)
        self.on_judged(len(self.outcomes), self._total)
        if self._lost_in_a_row >= self._give_up_after:
            raise RunFailed(
                f"{self._lost_in_a_row} judgements in a row were lost after all their retries: the judge gives no "
                f"answers; {len(self.outcomes):,} of {self._total:,} are kept, and the same command continues from here"
            )

    def _keep(self, question: Request, outcome: Outcome) -> None:
        if outcome.answers and self._readable(outcome.answers[0]):
            cache.keep(question.id, outcome.answers[0], self._judge)

    async def _some_finished(self) -> list[asyncio.Task[Outcome]]:
        """Wait for an answer or for the interrupt."""
        stop = asyncio.create_task(self._stopping.wait())
        try:
            finished, _ = await asyncio.wait({*self._under_way, stop}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            stop.cancel()
        return [task for task in self._under_way if task in finished]

    async def _drain(self) -> None:
        """End what is under way: wait for it and count it, or let go of it where the engine finds it again."""
        self._asker.ending = True
        if self._keeps:
            for task in self._under_way:
                task.cancel()
        if self._under_way:
            await asyncio.gather(*self._under_way, return_exceptions=True)
        for task, question in self._under_way.items():
            if not task.cancelled() and task.exception() is None and not task.result().lost:
                self.outcomes[question.id] = task.result()
                self.counts.asked += 1
                self._keep(question, task.result())
        self._under_way.clear()

    def _spent(self) -> str:
        return (
            f"the budget holds no further judgement: {len(self.outcomes):,} of {self._total:,} are made and kept; "
            "raise evaluation.judge.budget_usd or evaluation.judge.budget_tokens and give the same command to continue"
        )
