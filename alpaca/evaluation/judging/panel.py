"""Asking the judge: many questions at once, each paid for before it is sent and on disk before it counts.

What the ledger has is not asked again, nor what the cache has. When the loop ends early (interrupt,
budget, a refusal, a server that answers nothing) it waits for the questions under way, which are paid for.
"""

import contextlib
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from alpaca.engines.asking import Asker
from alpaca.engines.exchange import Answer, Reply, Request, Usage
from alpaca.engines.ledger import Outcome, RequestLedger, digest
from alpaca.engines.losses import OF_A_KIND, Losses
from alpaca.engines.protocol import emptiness
from alpaca.engines.under_way import UnderWay
from alpaca.errors import RunFailed
from alpaca.evaluation.judging import cache


@dataclass
class Counts:
    """Judgements that were given: `asked` for in this process, from the `ledger` of an earlier one, from the `cache`.

    `lost` are those without an answer, `unreadable` those of any origin without a verdict.
    """

    asked: int = 0
    ledger: int = 0
    cache: int = 0
    lost: int = 0
    unreadable: int = 0

    @property
    def made(self) -> int:
        """Judgements with a verdict."""
        return self.asked + self.ledger + self.cache - self.unreadable


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
        cached: bool,
        readable: Callable[[Answer], bool],
        say: Callable[[str], None],
    ):
        """Nothing is asked yet.

        Args:
            judge: its name, written into the cache.
            cached: take judgements from the cache, and keep them there.
            readable: whether an answer has a verdict; only such go into the cache.
        """
        self.counts = Counts()
        self.outcomes: dict[str, Outcome] = {}
        self.on_judged: Callable[[int, int], None] = lambda done, total: None
        self._asker, self._ledger, self._judge = asker, ledger, judge
        self._concurrency, self._give_up_after = concurrency, give_up_after
        self._cached, self._readable = cached, readable
        self._under_way: UnderWay[Request] = UnderWay(asker, what="judgements", say=say)
        self._lost, self._vain = Losses(), Losses()
        self._lost_in_a_row = 0
        self._total = 0
        self._begins = ""

    async def run(self, questions: Sequence[Request]) -> None:
        """Fill `outcomes`, a question that stands twice being asked once.

        Raises:
            RunFailed: the budget holds no further question, or nothing answered for too many in a row.
            UserError: what no retry mends: key, model, quota.
            KeyboardInterrupt: interrupted.
        """
        unique = list({question.id: question for question in questions}.values())
        self._total = len(unique)
        waiting = [question for question in unique if not self._known(question)][::-1]
        self.on_judged(len(self.outcomes), self._total)
        try:
            while (waiting or self._under_way) and not self._under_way.stopping:
                if self._vain.hopeless is None:
                    self._send(waiting)
                elif not self._under_way:  # those under way had their chance
                    raise RunFailed(
                        f"judgements are paid for in vain: of the first {self.counts.asked}, {self._vain.hopeless}"
                    )
                if not self._under_way:
                    raise RunFailed(self._spent())
                for question, outcome in await self._under_way.arrived():
                    self._take(question, outcome)
            self._asker.done = not waiting and not self._under_way
        finally:
            await self._drain()
        if self._under_way.stopping and len(self.outcomes) < self._total:
            raise KeyboardInterrupt

    def interrupted_by(self, *signals: signal.Signals) -> contextlib.AbstractContextManager[None]:
        """`UnderWay.interrupted_by`."""
        return self._under_way.interrupted_by(*signals)

    def _known(self, question: Request) -> bool:
        """Whether ledger or cache has a verdict; the cache's is written into the ledger, at no cost."""
        past = self._ledger.past.outcomes.get(question.id)
        if past is not None and past.answers and self._readable(past.answers[0]):
            self.counts.ledger += 1
            self.outcomes[question.id] = past
            self._count(past)
            self._keep(question, past)
            return True
        stored = cache.kept(question.id) if self._cached else None
        if stored is None or not self._readable(stored):
            return False
        asked = digest(question)
        reply = Reply(question.id, (stored,), Usage(), attempts=0, model=f"{self._judge} (cache)")
        self._ledger.answered(reply, asked, 0.0, 0.0, time.time(), durable=False)
        self.counts.cache += 1
        self._vain.useful()
        self.outcomes[question.id] = Outcome((stored,), asked)
        return True

    def _send(self, waiting: list[Request]) -> None:
        while waiting and len(self._under_way) < self._concurrency and self._under_way.send(waiting[-1], waiting[-1]):
            waiting.pop()

    def _take(self, question: Request, outcome: Outcome) -> None:
        self.outcomes[question.id] = outcome
        if outcome.lost:
            self.counts.lost += 1
            self._lost_in_a_row += 1
            self._lost.add(outcome.reason)
        else:
            self.counts.asked += 1
            self._lost_in_a_row = 0
            self._lost.useful()
            if (reason := self._count(outcome)) is not None:
                self._vain.add(reason)
        self._keep(question, outcome)
        self.on_judged(len(self.outcomes), self._total)
        if (count := self._lost_in_a_row) >= self._give_up_after:
            raise RunFailed(
                f"{count} judgements in a row were lost after all their retries: {self._lost.commonest()}; "
                f"{self._made()}, and the same command continues from here"
            )

    def _count(self, outcome: Outcome) -> str | None:
        """Count whether it has a verdict; why not, where it has none."""
        if outcome.answers and self._readable(outcome.answers[0]):
            self._vain.useful()
            return None
        self.counts.unreadable += 1
        if (empty := emptiness(outcome.answers[:1])) is not None:
            return f"{OF_A_KIND} had no text; what came was {empty}"
        self._begins = self._begins or " ".join(outcome.answers[0].text.split())[:60]
        return (
            f"{OF_A_KIND} could not be read (one begins {self._begins!r}); raise evaluation.judge.max_tokens, set "
            "evaluation.judge.form=line, or choose a stronger judge"
        )

    def _made(self) -> str:
        return f"{self.counts.made:,} of {self._total:,} have a verdict and are kept"

    def _keep(self, question: Request, outcome: Outcome) -> None:
        if self._cached and outcome.answers and self._readable(outcome.answers[0]):
            cache.keep(question.id, outcome.answers[0], self._judge)

    async def _drain(self) -> None:
        """End what is under way, and count what came of it."""
        for question, outcome in await self._under_way.drain():
            if not outcome.lost:
                self.outcomes[question.id] = outcome
                self.counts.asked += 1
                self._count(outcome)
                self._keep(question, outcome)

    def _spent(self) -> str:
        return (
            f"the budget holds no further judgement: {self._made()}; "
            "raise evaluation.judge.budget_usd or evaluation.judge.budget_tokens and give the same command to continue"
        )
