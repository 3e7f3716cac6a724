"""A budget is never exceeded, in whatever order requests are sent, fail, are retried and answered."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca.engines.budget import Budget, Reservation
from alpaca.engines.exchange import Usage
from alpaca.engines.prices import Prices
from alpaca.errors import UserError

CHEAP = Prices(0.1, 0.4, "test")


def test_a_request_goes_out_only_if_its_most_fits_beside_those_in_flight():
    budget = Budget(tokens=100)
    first = budget.reserve(Usage(10, 50))
    assert first is not None
    assert budget.reserve(Usage(1, 40)) is None
    assert budget.reserve(Usage(0, 40)) is not None
    budget.settle(first, Usage(10, 5))
    assert budget.spent == Usage(10, 5)
    assert budget.reserve(Usage(0, 45)) is not None
    assert budget.in_flight == 2


def test_dollars_are_counted_without_rounding():
    budget = Budget(usd=0.3, prices=Prices(100_000, 0, "test"))  # ten cents a token
    held = [budget.reserve(Usage(1)) for _ in range(4)]
    assert [one is not None for one in held] == [True, True, True, False]
    assert budget.dollars == 0


def test_a_retry_is_paid_for_on_top_of_the_attempt_that_may_have_been_billed():
    budget = Budget(tokens=250)
    held = budget.reserve(Usage(0, 100))
    assert held is not None
    assert held.allows_retry(Usage(0, 0))  # refused before work: nothing more to hold
    assert budget.reserved == Usage(0, 100)
    assert held.allows_retry(Usage(0, 100))
    assert budget.reserved == Usage(0, 200)
    assert not held.allows_retry(Usage(0, 200))
    assert budget.reserved == Usage(0, 200)
    budget.settle(held, Usage(), lost=Usage(0, 200))
    assert (budget.spent, budget.lost, budget.reserved) == (Usage(), Usage(0, 200), Usage())


def test_settling_twice_books_once():
    budget = Budget(tokens=100)
    held = budget.reserve(Usage(0, 60))
    assert held is not None
    budget.settle(held, Usage(0, 30))
    budget.settle(held, Usage(0, 30))
    assert (budget.spent, budget.reserved, budget.in_flight) == (Usage(0, 30), Usage(), 0)
    assert not held.allows_retry(Usage())


def test_what_an_earlier_process_spent_counts():
    budget = Budget(tokens=100)
    budget.book(Usage(0, 50), lost=Usage(0, 20))
    assert budget.reserve(Usage(0, 31)) is None
    assert budget.reserve(Usage(0, 30)) is not None


def test_without_a_limit_everything_fits_and_is_counted():
    budget = Budget(prices=CHEAP)
    held = budget.reserve(Usage(10**9, 10**9))
    assert held is not None
    budget.settle(held, Usage(1_000_000, 1_000_000))
    assert budget.dollars == 0.5


@pytest.mark.parametrize(("limits", "words"), [
    ({"usd": 0}, "budget_usd=0: must be above 0"),
    ({"usd": float("nan"), "prices": CHEAP}, "budget_usd=nan: must be above 0"),
    ({"tokens": -1}, "budget_tokens=-1: must be above 0"),
    ({"usd": 5}, "price_prompt and price_completion"),
])  # fmt: skip
def test_a_budget_that_cannot_be_kept_is_refused(limits: dict, words: str):
    with pytest.raises(UserError, match=words):
        Budget(**limits)


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 2**32), limit=st.integers(1, 4000), in_dollars=st.booleans())
def test_fifty_random_schedules_stay_within_the_limit(seed: int, limit: int, in_dollars: bool):
    draw = random.Random(seed)
    prices = Prices(1.0, 1.0, "test")
    budget = Budget(usd=limit / 1e6, prices=prices) if in_dollars else Budget(tokens=limit)
    flying: list[tuple[Reservation, Usage]] = []  # with what its attempts so far may have cost
    billed, refused, retried = 0, 0, 0
    for _ in range(300):
        if not flying or draw.random() < 0.5:
            most = Usage(draw.randrange(1, 60), draw.randrange(1, 200))
            if (held := budget.reserve(most)) is None:
                refused += 1
            else:
                flying.append((held, Usage()))
        else:
            held, lost = flying.pop(draw.randrange(len(flying)))
            fate = draw.choice(("answered", "lost", "retried"))
            if fate == "retried":
                after = lost + held.most if draw.random() < 0.7 else lost
                if held.allows_retry(after):
                    retried += 1
                    flying.append((held, after))
                else:  # the attempt was made, no other may be
                    budget.settle(held, Usage(), after)
                    billed += after.total
            else:
                actual = Usage(draw.randint(0, held.most.prompt_tokens), draw.randint(0, held.most.completion_tokens))
                actual, lost = (actual, lost) if fate == "answered" else (Usage(), lost + held.most)
                budget.settle(held, actual, lost)
                billed += actual.total + lost.total
        assert billed == (budget.spent + budget.lost).total
        assert (budget.spent + budget.lost + budget.reserved).total <= limit
    for held, lost in flying:
        budget.settle(held, held.most, lost)
    assert (budget.spent + budget.lost).total <= limit
    assert budget.reserved == Usage()
    assert refused + retried > 0
