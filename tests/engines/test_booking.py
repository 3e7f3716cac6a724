"""What requests cost is booked once, whatever a server bills and however often a process starts again."""

import asyncio
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchServer
from hypothesis import given
from hypothesis import strategies as st
from servers import Server, wait_until

from alpaca.engines.asking import Asker
from alpaca.engines.bounds import Bounds
from alpaca.engines.budget import Budget
from alpaca.engines.exchange import Engine, EngineSettings, Request, Usage
from alpaca.engines.ledger import Outcome, RequestLedger
from alpaca.engines.openai_batch import OpenAIBatch
from alpaca.engines.openai_server import OpenAIServer

ONE = Request("r", prompt="Hello", max_tokens=10)


async def asked_in_turn(asker: Asker, requests: list[Request], concurrency: int) -> list[Outcome]:
    """Ask as a pipeline does: as many at once as allowed, as long as the budget holds another one."""
    under_way: set[asyncio.Task[Outcome]] = set()
    outcomes = []
    left = iter(requests)
    request = next(left, None)
    while request is not None or under_way:
        while request is not None and len(under_way) < concurrency:
            reservation = asker.reserve(request)
            if reservation is None:
                break
            under_way.add(asyncio.create_task(asker.ask(request, reservation)))
            request = next(left, None)
        if not under_way:
            break
        finished, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
        outcomes += [task.result() for task in finished]
    return outcomes


def process(
    folder: Path,
    engine: Callable[[], Engine],
    work: Callable[[Asker], Any],
    *,
    keeps: bool,
    budget: Budget | None = None,
) -> Budget:
    """What one process does with the ledger in `folder`: opens it, does `work`, closes; its budget."""
    budget = budget or Budget()
    ledger = RequestLedger(folder / "requests.jsonl", keeps_under_way=keeps, way_out="")

    async def whole() -> None:
        opened = engine()
        try:
            await work(Asker(opened, ledger, budget, None, keeps_under_way=keeps))
        finally:
            await opened.close()

    try:
        asyncio.run(whole())
    finally:
        ledger.close()
    again = RequestLedger(folder / "requests.jsonl", keeps_under_way=keeps, way_out="")
    again.close()
    assert (again.past.spent, again.past.lost) == (budget.spent, budget.lost), "the next process would read otherwise"
    return budget


def greedy(factor: int) -> Callable[[dict[str, Any]], dict[str, Any]]:
    """A server that bills `factor` times `max_tokens` for every answer, and a system prompt of its own."""

    def respond(body: dict[str, Any]) -> dict[str, Any]:
        usage = {"prompt_tokens": 900, "completion_tokens": factor * body["max_tokens"]}
        choice = {"message": {"role": "assistant", "content": "so"}, "finish_reason": "stop"}
        return {"model": "m", "choices": [choice], "usage": usage}

    return respond


@pytest.mark.parametrize("concurrency", [1, 4])
def test_a_bill_above_its_bound_is_held_against_all_that_follows(tmp_path: Path, concurrency: int):
    requests = [Request(f"r{n}", prompt="Hello", max_tokens=100) for n in range(200)]
    one = 900 + 300
    for part, limit in enumerate((10 * one + 500, 15 * one + 700)):  # the second process goes on with more money
        with Server(greedy(3)) as server:
            settings = EngineSettings("openai", "m", base_url=server.url)
            budget = process(
                tmp_path,
                lambda settings=settings: OpenAIServer(settings),  # type: ignore[misc]
                lambda asker, part=part: asked_in_turn(asker, requests[100 * part :], concurrency),  # type: ignore[misc]
                keeps=False,
                budget=Budget(tokens=limit),
            )
            assert budget.spent.total <= limit
            assert budget.spent.total > limit - one
            assert budget.reserved == Usage()


def test_what_is_under_way_when_a_bill_is_too_high_is_held_at_the_new_bound():
    budget = Budget(tokens=10_000)
    held = budget.reserve(Usage(10, 90))
    assert held is not None
    assert held.allows_retry(Usage(10, 90))
    held.raise_to(Usage(20, 180))
    assert (held.most, budget.reserved) == (Usage(20, 180), Usage(40, 360))
    budget.settle(held, Usage(20, 100), Usage(20, 180))
    assert budget.reserved == Usage()


@given(st.lists(st.tuples(st.integers(0, 500), st.integers(1, 500), st.integers(0, 5000), st.integers(0, 5000))))
def test_a_learned_bound_covers_every_bill_it_learned_from(bills: list[tuple[int, int, int, int]]):
    bounds = Bounds()
    for prompt, completion, billed, spoken in bills:
        bounds.learn(Usage(prompt, completion), Usage(billed, spoken))
    for prompt, completion, billed, spoken in bills:
        widened = bounds.of(Usage(prompt, completion))
        assert widened.prompt_tokens >= max(prompt, billed)
        assert widened.completion_tokens >= max(completion, spoken)
        assert not bounds.learn(Usage(prompt, completion), Usage(billed, spoken))
        assert bounds.of_lost(Usage(prompt, completion), Usage(prompt, completion)).total >= widened.total


def batches(server: BatchServer, state: Path) -> Callable[[], OpenAIBatch]:
    settings = EngineSettings(
        "openai_batch", "m", base_url=server.url, poll_s=0.02, gather_s=0.05, state_dir=str(state)
    )
    return lambda: OpenAIBatch(settings, first_wait_s=0.01)


async def ask_one(asker: Asker) -> None:
    reservation = asker.reserve(ONE)
    assert reservation is not None
    await asker.ask(ONE, reservation)


def test_what_batches_lost_is_booked_once_however_often_it_is_counted_again(tmp_path: Path):
    with BatchServer(items=["empty"] * 3) as server:
        first = process(tmp_path, batches(server, tmp_path), ask_one, keeps=True)
        assert first.lost.completion_tokens == 20  # lost in two batches
        second = process(tmp_path, batches(server, tmp_path), ask_one, keeps=True)
        assert len(server.lines) == 4
        assert second.lost.completion_tokens == 30  # and in a third one, before the fourth answered
        assert second.spent == server.usage
        third = process(tmp_path, batches(server, tmp_path), ask_one, keeps=True)
        assert (third.lost, len(server.lines)) == (second.lost, 4)


def test_a_batch_that_was_not_needed_is_lost_until_its_answer_is_taken_after_all(tmp_path: Path):
    async def end_meanwhile(asker: Asker) -> None:
        task = asyncio.create_task(ask_one(asker))
        await asyncio.to_thread(wait_until, lambda: bool(server.looks))
        asker.done = True
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    with BatchServer(polls=None) as server:
        ended = process(tmp_path, batches(server, tmp_path), end_meanwhile, keeps=True)
        assert ended.lost.completion_tokens == 10
        server.finish()
        taken = process(tmp_path, batches(server, tmp_path), ask_one, keeps=True)
        assert (taken.spent, taken.lost) == (server.usage, Usage())


def test_what_never_went_out_is_no_request_that_was_sent(tmp_path: Path):
    held = {"Retry-After": "600"}

    async def work(asker: Asker) -> None:
        requests = [Request(f"r{n}", prompt=f"{n}") for n in range(5)]
        tasks = []
        for request in requests:
            reservation = asker.reserve(request)
            assert reservation is not None
            tasks.append(asyncio.create_task(asker.ask(request, reservation)))
        await asyncio.to_thread(wait_until, lambda: bool(server.requests) and server.under_way == 0)
        asker.ending = True
        await asyncio.gather(*tasks)
        assert asker.sent == len(server.requests) == 1

    with Server(script=[429] * 9, headers=held) as server:
        settings = EngineSettings("openai", "m", base_url=server.url, concurrency=1)
        budget = process(tmp_path, lambda: OpenAIServer(settings), work, keeps=False)
        ledger = RequestLedger(tmp_path / "requests.jsonl", keeps_under_way=False, way_out="")
        ledger.close()
    assert (ledger.past.sent, ledger.past.outcomes, budget.lost) == (1, {}, Usage())


@pytest.mark.parametrize("seed", range(10))
def test_a_budget_that_holds_for_honest_servers_holds_for_one_that_bills_more(tmp_path: Path, seed: int):
    draw = random.Random(seed)
    factor, concurrency = draw.randint(2, 6), draw.choice([1, 3, 8])
    one = 900 + factor * 100
    limit = draw.randint(2 * concurrency, 60) * one + draw.randrange(one)
    requests = [Request(f"r{n}", prompt="Hello", max_tokens=100) for n in range(100)]
    with Server(greedy(factor), faults={"503": 0.1, "empty_choices": 0.1}, seed=seed) as server:
        settings = EngineSettings("openai", "m", base_url=server.url, concurrency=concurrency)
        budget = process(
            tmp_path,
            lambda: OpenAIServer(settings, first_wait_s=0.01),
            lambda asker: asked_in_turn(asker, requests, concurrency),
            keeps=False,
            budget=Budget(tokens=limit),
        )
    assert (server.usage + server.possible).total <= limit
    assert server.usage == budget.spent
    assert server.usage.total > 0
