"""A limit in dollars or tokens that is never exceeded, whatever order requests are sent, lost and answered in.

Before a request is sent its most is reserved; it goes out only if what is spent plus all that is reserved
stays within the limit. An attempt that may have been billed although no answer came is paid for out of the
reservation, so the reservation grows before a retry, and a retry that does not fit is not sent. What an
engine reports can then never exceed what was reserved for it; where a server bills more than its bound, that
is held against whatever follows (`Reservation.raise_to`). One thread (the event loop) calls all of this.
"""

import math
from fractions import Fraction

from alpaca.engines.exchange import Usage
from alpaca.engines.prices import Prices
from alpaca.errors import UserError


class Reservation:
    """Room in a budget for one request: its most, and what attempts before the current one may have cost."""

    def __init__(self, budget: "Budget", most: Usage):
        self.most, self.held, self.settled, self._budget = most, most, False, budget

    def allows_retry(self, lost: Usage) -> bool:
        """Grow to hold `lost`, all attempts so far, plus one more; False where the budget has no room.

        This is the `before_retry` of `Engine.answer`.
        """
        return not self.settled and self._budget._grow(self, lost + self.most)

    def raise_to(self, most: Usage) -> None:
        """Hold each attempt at a most that turned out to be higher; it is under way, so whether that fits or not."""
        if self.settled:
            return
        attempts = max(1, self.held.total // max(1, self.most.total))
        held = Usage(attempts * most.prompt_tokens, attempts * most.completion_tokens)
        self._budget.reserved += _minus(held, self.held)
        self.most, self.held = most, held


class Budget:
    """Spending of one job against its limits; no limit is None.

    Attributes:
        spent: usage of answers that arrived.
        lost: the most that lost attempts may have been billed; counts against the limits like `spent`.
        reserved: requests under way, at their most.
        in_flight: how many requests those are.
    """

    def __init__(self, *, usd: float | None = None, tokens: int | None = None, prices: Prices | None = None):
        """Limits in dollars and in tokens (prompt and completion together); either, both or none.

        Raises:
            UserError: a limit that is not above 0, or one in dollars without known prices.
        """
        for key, value in (("budget_usd", usd), ("budget_tokens", tokens)):
            if value is not None and not (math.isfinite(value) and value > 0):
                raise UserError(f"{key}={value}: must be above 0; leave it out (null) to spend without a limit")
        if usd is not None and prices is None:
            raise UserError(
                f"budget_usd={usd:g}: the price of this model is not known; give price_prompt and price_completion "
                "in dollars per million tokens, or limit tokens with budget_tokens"
            )
        self._usd = None if usd is None else Fraction(str(usd))
        self._tokens, self._prices = tokens, prices
        self.spent, self.lost, self.reserved = Usage(), Usage(), Usage()
        self.in_flight = 0

    def reserve(self, most: Usage) -> Reservation | None:
        """Room for a request of at most `most`; None where it does not fit (now).

        While other requests are in flight they may settle for less, so ask again then; with none in
        flight the budget is used up for requests of this size.
        """
        if not self._fits(self.spent + self.lost + self.reserved + most):
            return None
        self.reserved += most
        self.in_flight += 1
        return Reservation(self, most)

    def settle(self, reservation: Reservation, actual: Usage, lost: Usage | None = None) -> None:
        """Give a reservation back and book what the request cost; a second call for it changes nothing."""
        if reservation.settled:
            return
        reservation.settled = True
        self.reserved = _minus(self.reserved, reservation.held)
        self.in_flight -= 1
        self.book(actual, lost)

    def book(self, actual: Usage, lost: Usage | None = None) -> None:
        """Count spending that was not reserved here: what an earlier process did, read from its ledger."""
        self.spent += actual
        self.lost += lost or Usage()

    @property
    def dollars(self) -> float | None:
        """Dollars spent or possibly lost so far; None without prices."""
        return None if self._prices is None else self._prices.cost(self.spent + self.lost)

    def _grow(self, reservation: Reservation, needed: Usage) -> bool:
        more = _minus(needed, reservation.held)
        if not self._fits(self.spent + self.lost + self.reserved + more):
            return False
        self.reserved += more
        reservation.held = needed
        return True

    def _fits(self, total: Usage) -> bool:
        if self._tokens is not None and total.total > self._tokens:
            return False
        return self._usd is None or self._prices is None or self._prices.exact_cost(total) <= self._usd


def _minus(one: Usage, other: Usage) -> Usage:
    return Usage(one.prompt_tokens - other.prompt_tokens, one.completion_tokens - other.completion_tokens)
