"""One request from its reservation to a line in the ledger, however it ends; shared by all who ask an engine.

The budget is settled and the ledger written in the same breath, so what a process reports and what the next
one reads are the same.
"""

import time

from alpaca.engines.budget import Budget, Reservation
from alpaca.engines.exchange import Engine, Request, RequestLost, Usage
from alpaca.engines.ledger import Outcome, RequestLedger, digest
from alpaca.engines.prices import Prices
from alpaca.errors import UserError


class Asker:
    """Asks an engine on one budget and one ledger.

    Attributes:
        ending: the job ends early: what is under way is waited for, nothing is retried.
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
        """What the ledger says was spent is booked into the budget.

        Args:
            keeps_under_way: the engine finds its requests again after a restart.
        """
        self._engine, self._ledger, self._budget, self._prices = engine, ledger, budget, prices
        self._keeps = keeps_under_way
        self.ending = self.done = False
        self.sent = ledger.past.sent
        budget.book(ledger.past.spent, ledger.past.lost)

    def reserve(self, request: Request) -> Reservation | None:
        """Room in the budget for `request`, and its line in the ledger; None where it does not fit (now)."""
        reservation = self._budget.reserve(self._engine.most(request))
        if reservation is not None:
            self._ledger.sent(request, reservation.most)
            self.sent += 1
        return reservation

    async def ask(self, request: Request, reservation: Reservation) -> Outcome:
        """Ask once, retrying what may pass; the outcome is on disk when this returns.

        Raises:
            UserError: what no retry mends.
        """
        lost, asked, let_go = Usage(), digest(request), False

        def pay_again(so_far: Usage) -> bool:
            nonlocal lost, let_go
            lost, let_go = so_far, self.ending
            if let_go or not reservation.allows_retry(so_far):
                return False
            self._ledger.retry(request, so_far)
            return True

        try:
            reply = await self._engine.answer(request, before_retry=pay_again)
        except RequestLost as error:
            self._budget.settle(reservation, Usage(), error.lost)
            if let_go:  # not its fate: the next process asks it again
                self._ledger.refused(request, "no retry after the end", error.lost)
            else:
                self._ledger.lost(error, asked, self._cost(error.lost), time.time())
            return Outcome((), asked, lost=True)
        except UserError as error:
            self._budget.settle(reservation, Usage(), lost)
            self._ledger.refused(request, str(error), lost)
            raise
        except BaseException:  # cancelled: nobody will know what it cost
            found_again = self._keeps and not self.done
            self._budget.settle(reservation, Usage(), Usage() if found_again else lost + reservation.most)
            if self._keeps and self.done:
                self._ledger.refused(request, "not needed any more", lost + reservation.most)
            raise
        self._budget.settle(reservation, reply.usage, reply.lost)
        self._ledger.answered(reply, asked, self._cost(reply.usage), self._cost(reply.lost), time.time())
        return Outcome(reply.answers, asked)

    def _cost(self, usage: Usage) -> float | None:
        return None if self._prices is None else self._prices.cost(usage)
