"""What an interrupt does to requests under way: they are paid for, so the first one waits for them."""

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from alpaca.engines.asking import Asker
from alpaca.engines.budget import Budget
from alpaca.engines.exchange import Answer, BeforeRetry, Reply, Request, Usage, Wanted
from alpaca.engines.ledger import RequestLedger
from alpaca.engines.under_way import UnderWay
from alpaca.errors import UserError

REQUESTS = [Request(f"r{n}", prompt="Hello", max_tokens=10) for n in range(3)]


class Held:
    """An engine that answers when it is told to, and refuses the request `bad`."""

    model = "held"

    def __init__(self) -> None:
        self.released = asyncio.Event()

    def most(self, request: Request) -> Usage:
        return Usage(5, request.max_tokens)

    async def answer(
        self, request: Request, *, before_retry: BeforeRetry | None = None, wanted: Wanted | None = None
    ) -> Reply:
        await self.released.wait()
        if request.id == "bad":
            raise UserError("no such model")
        return Reply(request.id, (Answer(f"to {request.id}", "stop"),), Usage(5, 1))

    async def close(self) -> None:
        """Nothing is held."""


Work = Callable[[UnderWay[str], Held], Awaitable[None]]


def worked(folder: Path, work: Work, *, keeps: bool = False, tokens: int | None = None) -> list[str]:
    """Do `work` on a ledger in `folder`; what the user was told."""
    said: list[str] = []
    ledger = RequestLedger(folder / "requests.jsonl", keeps_under_way=keeps, way_out="")

    async def whole() -> None:
        engine = Held()
        asker = Asker(engine, ledger, Budget(tokens=tokens), None, keeps_under_way=keeps)
        await work(UnderWay(asker, what="answers", say=said.append), engine)

    try:
        asyncio.run(whole())
    finally:
        ledger.close()
    return said


def send(under_way: UnderWay[str], requests: list[Request]) -> list[bool]:
    return [under_way.send(request, request.id) for request in requests]


async def begun() -> None:
    """Every request has come as far as the engine."""
    for _ in range(3):
        await asyncio.sleep(0)


def test_nothing_is_sent_that_the_budget_does_not_hold(tmp_path: Path):
    async def work(under_way: UnderWay[str], engine: Held) -> None:
        assert send(under_way, REQUESTS) == [True, True, False]
        assert len(under_way) == 2
        engine.released.set()
        assert [key for key, _ in await under_way.drain()] == ["r0", "r1"]

    worked(tmp_path, work, tokens=30)


def test_the_first_interrupt_waits_for_what_is_under_way(tmp_path: Path):
    async def work(under_way: UnderWay[str], engine: Held) -> None:
        send(under_way, REQUESTS)
        await begun()
        under_way.interrupt()
        assert under_way.stopping
        assert list(await under_way.arrived()) == [], "an interrupt ends the waiting"
        engine.released.set()
        assert [(key, outcome.answers[0].text) for key, outcome in await under_way.drain()] == [
            ("r0", "to r0"), ("r1", "to r1"), ("r2", "to r2"),
        ]  # fmt: skip
        assert not under_way

    assert worked(tmp_path, work) == ["interrupted: waiting for 3 answers under way; Ctrl-C again stops at once"]


def test_a_second_interrupt_ends_at_once(tmp_path: Path):
    async def work(under_way: UnderWay[str], engine: Held) -> None:
        send(under_way, REQUESTS)
        await begun()
        under_way.interrupt()
        under_way.interrupt()
        assert await under_way.drain() == []

    assert len(worked(tmp_path, work)) == 1


def test_an_engine_that_finds_its_requests_again_is_not_waited_for(tmp_path: Path):
    async def work(under_way: UnderWay[str], engine: Held) -> None:
        send(under_way, REQUESTS)
        await begun()
        under_way.interrupt()
        assert await under_way.drain() == []

    assert worked(tmp_path, work, keeps=True) == []


def test_what_no_retry_mends_is_raised_and_the_rest_is_waited_for(tmp_path: Path):
    async def work(under_way: UnderWay[str], engine: Held) -> None:
        send(under_way, [Request("bad", prompt="Hello", max_tokens=10), *REQUESTS])
        engine.released.set()
        await begun()
        with pytest.raises(UserError, match="no such model"):
            list(await under_way.arrived())
        assert [key for key, _ in await under_way.drain()] == ["r0", "r1", "r2"]

    worked(tmp_path, work)


def test_a_refusal_at_the_end_hides_no_answer(tmp_path: Path):
    async def work(under_way: UnderWay[str], engine: Held) -> None:
        send(under_way, [REQUESTS[0], Request("bad", prompt="Hello", max_tokens=10), REQUESTS[1]])
        engine.released.set()
        assert [key for key, _ in await under_way.drain()] == ["r0", "r1"]

    worked(tmp_path, work)


def test_signals_interrupt_within_the_context_and_go_where_they_went_after_it(tmp_path: Path):
    heard: list[int] = []

    async def work(under_way: UnderWay[str], engine: Held) -> None:
        send(under_way, REQUESTS)
        await begun()
        with under_way.interrupted_by(signal.SIGTERM):
            os.kill(os.getpid(), signal.SIGTERM)
            assert list(await under_way.arrived()) == []
        assert under_way.stopping
        engine.released.set()
        await under_way.drain()

    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        assert "waiting for 3 answers" in worked(tmp_path, work)[0]
        assert heard == []
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)
