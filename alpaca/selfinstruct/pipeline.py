"""Asking, in any order; taking, in the order of requests: the loop between a stage, an engine and the ledger.

Money first: a request goes out only when the budget holds its most, and its answer is on disk before
it counts. What the ledger already has is taken from there and not asked again. When the loop ends early
(interrupt, budget, a refusal) it waits for the requests under way, which are paid for, and retries none.
"""

import asyncio
import contextlib
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from alpaca.engines.asking import Asker
from alpaca.engines.budget import Budget
from alpaca.engines.exchange import Engine, Request
from alpaca.engines.ledger import Outcome, digest
from alpaca.engines.losses import OF_A_KIND, Losses
from alpaca.engines.prices import Prices
from alpaca.engines.protocol import emptiness
from alpaca.engines.under_way import UnderWay
from alpaca.errors import RunFailed, UserError
from alpaca.selfinstruct.judging import KEPT, Judged
from alpaca.selfinstruct.ledger import Ledger
from alpaca.selfinstruct.stages import Stage


class BudgetSpent(RunFailed):
    """The budget does not hold another request."""


@dataclass
class Tally:
    """What happened so far, earlier processes included.

    Attributes:
        verdicts: candidates by verdict.
        answered: requests taken with an answer; `unanswered` without one.
        similarities: of each candidate that novelty looked at, the highest ROUGE-L F, and whether it was kept.
        replayed: requests taken from the ledger.
        missing: responses that servers left out of their answers, although they were asked for.
    """

    verdicts: Counter[str] = field(default_factory=Counter)
    answered: int = 0
    unanswered: int = 0
    replayed: int = 0
    missing: int = 0
    similarities: list[tuple[float, bool]] = field(default_factory=list)

    @property
    def candidates(self) -> int:
        """All candidates that were judged."""
        return self.verdicts.total()

    @property
    def acceptance(self) -> float:
        """Share of the candidates that were kept."""
        return self.verdicts[KEPT] / self.candidates if self.candidates else 0.0


class Pipeline:
    """One generation at work; its stages run one after another on the same budget and ledger.

    Attributes:
        tally: what happened so far.
        report: called after each request taken.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: Ledger,
        budget: Budget,
        prices: Prices | None,
        *,
        concurrency: int,
        give_up_after: int,
        keeps_under_way: bool = False,
        say: Callable[[str], None] = lambda text: None,
    ):
        """Nothing is asked yet; what the ledger says was spent is booked into the budget.

        Args:
            keeps_under_way: the engine finds its requests again after a restart, so nobody waits for them.
            say: a line for the user.
        """
        self.tally = Tally()
        self._asker = Asker(engine, ledger, budget, prices, keeps_under_way=keeps_under_way)
        self._ledger, self._budget = ledger, budget
        self._concurrency, self._give_up_after = concurrency, give_up_after
        self._say = say
        self.report: Callable[[Stage], None] = lambda stage: None
        self._under_way: UnderWay[int] = UnderWay(self._asker, what="answers", say=say)
        self._barren = self._silent = 0
        self._lost, self._empty, self._reasons = Losses(), Losses(), Losses()

    @property
    def sent(self) -> int:
        """Requests that went out, in earlier processes too."""
        return self._asker.sent

    def interrupted_by(self, *signals: signal.Signals) -> contextlib.AbstractContextManager[None]:
        """`UnderWay.interrupted_by`."""
        return self._under_way.interrupted_by(*signals)

    async def run(self, stage: Stage) -> None:
        """Ask until the stage is done.

        Raises:
            BudgetSpent: no room for another request.
            RunFailed: nothing was kept, or nothing answered, for too many requests in a row.
            UserError: what no retry mends: key, model, quota, a ledger made by other settings.
            KeyboardInterrupt: interrupted.
        """
        past = self._past_of(stage)
        arrived: dict[int, Outcome] = {}
        taken = sent = 0
        self._barren = self._silent = 0
        self._lost, self._empty = Losses(), Losses()
        self._asker.ending, self._asker.done = self._under_way.stopping, False
        try:
            while not stage.done:
                while taken in arrived and not (stage.done or self._under_way.stopping):
                    self._take(stage, taken, arrived.pop(taken))
                    taken += 1
                    await asyncio.sleep(0)  # a long replay hears an interrupt too
                if stage.done or self._under_way.stopping:
                    break
                sent = self._ask_ahead(stage, sent, past, arrived)
                if taken in arrived:
                    continue
                if not self._under_way:
                    self._check_vain()
                    raise BudgetSpent(self._spent(stage))
                arrived.update(await self._under_way.arrived())
            await self._ask_again(stage)
        finally:
            self._asker.done = stage.done and not (self._under_way.stopping and stage.lost)
            await self._under_way.drain()
        if self._under_way.stopping and (stage.lost or not stage.done):
            raise KeyboardInterrupt

    async def _ask_again(self, stage: Stage) -> None:
        """Ask once more for what each row of a stage lost, as far as the budget goes."""
        waiting = list(stage.lost)[::-1]
        if not waiting or self._under_way.stopping:
            return
        self._say(f"{len(waiting):,} requests were lost: they are asked once more")
        while (waiting or self._under_way) and not self._under_way.stopping:
            while waiting and len(self._under_way) < self._concurrency:
                if not self._under_way.send(stage.request(waiting[-1]), waiting[-1]):
                    break
                waiting.pop()
            if not self._under_way:
                return  # the budget holds none
            for k, outcome in await self._under_way.arrived():
                if outcome.lost:
                    self._reasons.add(outcome.reason)
                    continue
                judged = stage.take_again(k, outcome.answers)
                self._ledger.judged(f"{stage.prefix}-{k:06d}", judged)
                self.tally.unanswered -= 1
                self._count(judged, outcome, stage.choices)
                self.report(stage)

    @property
    def losses(self) -> str:
        """Why requests were lost in this process, the commonest reasons with their counts; "" for none."""
        return self._reasons.commonest()

    def _past_of(self, stage: Stage) -> dict[int, Outcome]:
        """What the ledger has of this stage; requests lost after the last answered one are asked again."""
        opening = f"{stage.prefix}-"
        outcomes = {
            int(name.removeprefix(opening)): outcome
            for name, outcome in self._ledger.past.outcomes.items()
            if name.startswith(opening) and name.removeprefix(opening).isdecimal()
        }
        last = max((k for k, outcome in outcomes.items() if not outcome.lost), default=-1)
        return {k: outcome for k, outcome in outcomes.items() if k <= last}

    def _ask_ahead(self, stage: Stage, sent: int, past: dict[int, Outcome], arrived: dict[int, Outcome]) -> int:
        """Send what may be sent, with what the ledger has in between; returns the number of the next request."""
        while stage.ready(sent):
            if sent in past:
                arrived[sent] = self._replay(stage.request(sent), past.pop(sent))
            elif not self._may_send(stage, len(arrived)) or not self._under_way.send(stage.request(sent), sent):
                break
            sent += 1
        return sent

    def _check_vain(self) -> None:
        """Raise `RunFailed` where the first answers all had no text: those under way had their chance."""
        if (reason := self._empty.hopeless) is not None:
            raise RunFailed(
                f"answers are paid for in vain: {OF_A_KIND} or more had no text and nothing was kept; what came was "
                f"{reason}"
            )

    def _may_send(self, stage: Stage, waiting: int) -> bool:
        """Whether one more request under way is of use: enough for the target, and no more at once than allowed."""
        under_way = len(self._under_way)
        if self._empty.hopeless:
            return False
        return under_way < self._concurrency and under_way + waiting < stage.wanted()

    def _replay(self, request: Request, outcome: Outcome) -> Outcome:
        if outcome.digest != digest(request):
            raise UserError(
                f"requests.jsonl: {request.id} asked something else than these settings ask; continue with the "
                "settings and the version that began it, or start anew with another output_dir=DIR"
            )
        self.tally.replayed += 1
        return replace(outcome, replayed=True)

    def _take(self, stage: Stage, k: int, outcome: Outcome) -> None:
        name = f"{stage.prefix}-{k:06d}"
        judged = stage.take(k, outcome.answers, self._ledger.known(name))
        self._ledger.judged(name, judged)
        if not self.tally.missing and 0 < len(outcome.answers) < stage.choices:
            given = f"{len(outcome.answers)} of {stage.choices} responses asked for in one request"
            self._say(f"the server gave {given}; the missing ones are counted as responses_missing")
        self._count(judged, outcome, stage.choices)
        self.report(stage)
        if stage.done:
            return
        if self._silent >= self._give_up_after:
            raise RunFailed(
                f"{self._silent} requests in a row were lost after all their retries: {self._lost.commonest()}; "
                f"{self.tally.verdicts[KEPT]:,} candidates are kept so far, and the same command continues from here"
            )
        if self._barren >= self._give_up_after:
            reasons = [(name, count) for name, count in self.tally.verdicts.most_common() if name != KEPT][:3]
            named = ", ".join(f"{name} ({count:,})" for name, count in reasons) or self._empty.commonest()
            raise RunFailed(
                f"nothing was kept from the last {self._barren} requests ({stage.kept:,} of {stage.target:,} so far); "
                f"most often: {named}. Look into tasks.jsonl, change prompt, model or filters, or go on with "
                f"generation.give_up_after={self._barren * 4}"
            )

    def _count(self, judged: list[Judged], outcome: Outcome, asked_for: int) -> None:
        tally, kept = self.tally, False
        for one in judged:
            tally.verdicts[one.verdict] += 1
            kept = kept or one.verdict == KEPT
            if "similarity" in one.facts:
                tally.similarities.append((one.facts["similarity"], one.verdict == KEPT))
        if outcome.lost:
            tally.unanswered += 1
            if not outcome.replayed:  # a server that was down once may be up now
                self._silent += 1
                self._lost.add(outcome.reason)
                self._reasons.add(outcome.reason)
            return
        tally.answered += 1
        tally.missing += max(0, asked_for - len(outcome.answers))
        self._silent = 0
        self._lost.useful()
        if kept:
            self._empty.useful()
        elif not outcome.replayed and (reason := emptiness(outcome.answers)) is not None:
            self._empty.add(reason)
        self._barren = 0 if kept else self._barren + 1

    def _spent(self, stage: Stage) -> str:
        budget = self._budget
        used = budget.spent + budget.lost
        dollars = f"${budget.dollars:.4f} and " if budget.dollars is not None else ""
        return (
            f"the budget holds no further request: {stage.kept:,} of {stage.target:,} after {dollars}{used.total:,} "
            "tokens; raise generation.budget_usd or generation.budget_tokens and give the same command to continue"
        )
