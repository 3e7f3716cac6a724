"""One request from its reservation to a line in the ledger, however it ends; shared by all who ask an engine.

The budget is settled and the ledger written in the same breath, so what a process reports and what the next
one reads are the same.
"""

import logging
import time
from dataclasses import replace

from alpaca.engines.budget import Budget, Reservation
from alpaca.engines.exchange import Engine, Request, RequestLost, Usage
from alpaca.engines.ledger import Outcome, RequestLedger, digest
from alpaca.engines.prices import Prices
from alpaca.errors import UserError

log = logging.getLogger(__name__)
ENDED = "no retry after the end"


class Asker:
    """Asks an engine on one budget and one ledger.

    Attributes:
        keeps_under_way: the engine finds its requests again after a restart.
        ending: the job ends early: what is under way is waited for, nothing more is sent.
        done: the job is complete: what is still under way is not needed any more.
        sent: requests that went out, in earlier processes too.
    """

    def __init__(
        self,
        engine: Engine,
        ledger: RequestLedger,
        budget: Budget,
        prices: Prices | None,
        *,
        keeps_under_way: bool,
    ):
        """What the ledger says was spent is booked into the budget."""
        self._engine, self._ledger, self._budget, self._prices = engine, ledger, budget, prices
        self.keeps_under_way = keeps_under_way
        self._bounds = ledger.past.bounds
        self._lost_of = dict(ledger.past.lost_of) if keeps_under_way else {}
        self._bound_of: dict[Reservation, Usage] = {}  # of requests under way, as the engine gives it
        self._told = False
        self.ending = self.done = False
        self.sent = ledger.past.sent
        budget.book(ledger.past.spent, ledger.past.lost)

    def reserve(self, request: Request) -> Reservation | None:
        """Room in the budget for `request`, and its line in the ledger; None where it does not fit (now)."""
        bound = self._engine.most(request)
        reservation = self._budget.reserve(self._bounds.of(bound))
        if reservation is not None:
            self._bound_of[reservation] = bound
            self._ledger.sent(request, reservation.most, bound)
            self.sent += 1
        return reservation

    async def ask(self, request: Request, reservation: Reservation) -> Outcome:
        """Ask once, retrying what may pass; the outcome is on disk when this returns.

        Raises:
            UserError: what no retry mends.
        """
        try:
            return await self._ask(request, reservation, self._bound_of[reservation])
        finally:
            del self._bound_of[reservation]

    async def _ask(self, request: Request, reservation: Reservation, bound: Usage) -> Outcome:
        lost, asked, let_go = Usage(), digest(request), False

        def pay_again(so_far: Usage) -> bool:
            nonlocal lost, let_go
            lost, let_go = self._bounds.of_lost(bound, so_far), self.ending
            if let_go or not reservation.allows_retry(lost):
                return False
            self._ledger.retry(request, lost)
            return True

        def wanted() -> bool:
            nonlocal let_go
            let_go = let_go or self.ending
            return not let_go

        try:
            reply = await self._engine.answer(request, before_retry=pay_again, wanted=wanted)
        except RequestLost as error:
            lost = self._bounds.of_lost(bound, error.lost)
            self._settle(request, reservation, Usage(), lost)
            if let_go:  # not its fate: the next process asks it again
                self.sent -= not error.attempts
                self._ledger.refused(request, ENDED, lost, attempts=error.attempts)
            else:
                error.lost = lost
                self._ledger.lost(error, asked, self._cost(lost), time.time())
            return Outcome((), asked, lost=True, reason=error.reason)
        except UserError as error:
            lost = self._at_least(request, lost)
            self._settle(request, reservation, Usage(), lost)
            self._ledger.refused(request, str(error), lost)
            raise
        except BaseException:  # cancelled: nobody will know what it cost
            found_again = self.keeps_under_way and not self.done
            lost = self._at_least(request, Usage() if found_again else lost + reservation.most)
            self._settle(request, reservation, Usage(), lost)
            if self.keeps_under_way and self.done:
                self._ledger.refused(request, "not needed any more", lost)
            raise
        lost = self._bounds.of_lost(bound, reply.lost)
        self._learn(bound, reply.usage)
        if let_go and len(reply.answers) < request.choices:  # the end cut its other responses off
            lost += reply.usage
            self._settle(request, reservation, Usage(), lost)
            self._ledger.refused(request, ENDED, lost)
            return Outcome((), asked, lost=True)
        self._settle(request, reservation, reply.usage, lost)
        self._ledger.answered(replace(reply, lost=lost), asked, self._cost(reply.usage), self._cost(lost), time.time())
        return Outcome(reply.answers, asked)

    def _settle(self, request: Request, reservation: Reservation, actual: Usage, lost: Usage) -> None:
        """Book what the request cost; an engine that keeps its requests counts `lost` over all processes."""
        self._budget.settle(reservation, actual, lost)
        if self.keeps_under_way:
            before = self._lost_of.get(request.id, Usage())
            self._budget.book(Usage(), Usage(-before.prompt_tokens, -before.completion_tokens))
            self._lost_of[request.id] = lost

    def _at_least(self, request: Request, lost: Usage) -> Usage:
        """`lost`, or what the ledger has of this request where the engine did not come to count that again."""
        before = self._lost_of.get(request.id, Usage())
        return max(lost, before, key=lambda usage: usage.total)

    def _learn(self, bound: Usage, billed: Usage) -> None:
        """A bill above its bound: whatever is under way or follows must be expected to cost as much more."""
        if not self._bounds.learn(bound, billed):
            return
        if not self._told:
            self._told = True
            log.warning(
                "model=%s bills %d tokens for a request of at most %d: the budget counts on that from now on",
                self._engine.model, billed.total, bound.total,
            )  # fmt: skip
        for reservation, own in self._bound_of.items():
            reservation.raise_to(self._bounds.of(own))

    def _cost(self, usage: Usage) -> float | None:
        return None if self._prices is None else self._prices.cost(usage)
