"""The Batch API against a real server that speaks it: gathered, collected, found again, never paid for twice."""

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchServer
from servers import question, wait_until

from alpaca.engines.batch_files import parts_of
from alpaca.engines.batch_journal import Journal, Record
from alpaca.engines.exchange import EngineSettings, Reply, Request, RequestLost, Usage
from alpaca.engines.openai_batch import OpenAIBatch
from alpaca.errors import UserError


def settings(server: BatchServer, state: Path | None = None, **given: Any) -> EngineSettings:
    return EngineSettings(**{
        "name": "openai_batch", "model": "m", "base_url": server.url, "timeout_s": 5.0, "poll_s": 0.02,
        "gather_s": 0.05, "state_dir": state and str(state), **given,
    })  # fmt: skip


def questions(count: int) -> list[Request]:
    return [Request(f"r{n}", prompt=f"question {n}", max_tokens=10) for n in range(count)]


def using(given: EngineSettings, work: Callable[[OpenAIBatch], Coroutine[Any, Any, Any]], **limits: Any) -> Any:
    async def whole() -> Any:
        engine = OpenAIBatch(given, first_wait_s=0.01, **limits)
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(whole())


def asked(given: EngineSettings, *requests: Request, **limits: Any) -> list[Any]:
    async def work(engine: OpenAIBatch) -> list[Any]:
        return await asyncio.gather(*(engine.answer(one) for one in requests), return_exceptions=True)

    return using(given, work, **limits)


def echo(body: dict[str, Any]) -> str:
    return f"answer to {question(body)}"


def texts(outcomes: list[Any]) -> list[str]:
    return [one.answers[0].text if isinstance(one, Reply) else repr(one) for one in outcomes]


def stopped(given: EngineSettings, server: BatchServer, *requests: Request) -> None:
    """Ask, and end when the server was first looked at for the batch."""
    before = len(server.looks)

    async def work(engine: OpenAIBatch) -> None:
        waiting = [asyncio.create_task(engine.answer(one)) for one in requests]
        await asyncio.to_thread(wait_until, lambda: len(server.looks) > before)
        for one in waiting:
            one.cancel()

    using(given, work)


EXPECTED = [f"answer to question {n}" for n in range(6)]


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_what_is_asked_in_one_moment_goes_into_one_batch(api: str):
    with BatchServer(echo) as server:
        replies = asked(settings(server, api=api), *questions(6))
        assert texts(replies) == EXPECTED
        assert list(server.batches) == ["batch-0"]
        assert server.requests == []  # nothing was asked outside of the batch
        assert sum((reply.usage for reply in replies), Usage()) == server.usage
        assert {(reply.attempts, reply.lost) for reply in replies} == {(1, Usage())}


def test_a_batch_holds_no_more_requests_than_it_may():
    with BatchServer(echo) as server:
        assert texts(asked(settings(server), *questions(6), most_requests=4)) == EXPECTED
        assert len(server.batches) == 2


def test_closing_leaves_nobody_waiting():
    async def work(engine: OpenAIBatch) -> list[Any]:
        waiting = [asyncio.create_task(engine.answer(one)) for one in questions(3)]
        await asyncio.sleep(0.01)
        await engine.close()
        return await asyncio.gather(*waiting, return_exceptions=True)

    with BatchServer(echo, hold_create=True) as server:
        for gather_s in (5.0, 0.0):  # while requests are gathered, and while the batch is created
            ended = using(settings(server, gather_s=gather_s), work)
            assert [type(one) for one in ended] == [asyncio.CancelledError] * 3


def test_a_batch_holds_no_more_bytes_than_it_may():
    lines = [("d", "r", b"x" * size, None) for size in (4, 4, 4, 20, 1)]
    parts = [[len(one[2]) for one in part] for part in parts_of(lines, 10, 9)]  # type: ignore[arg-type]
    assert parts == [[4, 4], [4], [20], [1]]


def test_after_a_restart_the_running_batch_is_collected_and_not_asked_again(tmp_path: Path):
    with BatchServer(echo, polls=None) as server:
        stopped(settings(server, tmp_path), server, *questions(6))
        server.finish()
        assert texts(asked(settings(server, tmp_path), *questions(6))) == EXPECTED
        assert texts(asked(settings(server, tmp_path), *questions(6))) == EXPECTED  # also when it ended long ago
        assert (len(server.batches), len(server.lines)) == (1, 6)


ASKING = """
import asyncio, sys
from alpaca.engines.exchange import EngineSettings, Request
from alpaca.engines.openai_batch import OpenAIBatch

async def work(url, state):
    engine = OpenAIBatch(EngineSettings("openai_batch", "m", base_url=url, state_dir=state, poll_s=0.02, gather_s=0.05))
    await asyncio.gather(*(engine.answer(Request(f"r{n}", prompt=f"question {n}", max_tokens=10)) for n in range(6)))

asyncio.run(work(*sys.argv[1:]))
"""


@pytest.mark.parametrize("unanswered", [False, True], ids=["while it runs", "before its creation was answered"])
def test_after_a_kill_the_batch_is_collected_and_not_asked_again(unanswered: bool, tmp_path: Path):
    with BatchServer(echo, polls=None, hold_create=unanswered) as server:
        child = subprocess.Popen([sys.executable, "-c", ASKING, server.url, str(tmp_path)])
        wait_until(lambda: bool(server.batches if unanswered else server.looks), seconds=60)
        child.send_signal(signal.SIGKILL)
        child.wait(timeout=240)
        server.finish()
        assert texts(asked(settings(server, tmp_path), *questions(6))) == EXPECTED
        assert (len(server.batches), len(server.lines)) == (1, 6)


def test_a_batch_whose_creation_was_not_written_down_is_found_again(tmp_path: Path):
    with BatchServer(echo, polls=None) as server:
        for _ in range(3):  # several pages of the server's list lie before it
            stopped(settings(server), server, *questions(1))
        stopped(settings(server, tmp_path), server, *questions(1))
        (file,) = tmp_path.glob("batch-*.json")
        record = json.loads(file.read_text())
        assert record["batch_id"] == "batch-3"
        file.write_text(json.dumps({**record, "batch_id": None}))  # as if killed before the id was kept
        for _ in range(3):
            stopped(settings(server), server, *questions(1))
        server.finish()
        assert texts(asked(settings(server, tmp_path), *questions(1))) == EXPECTED[:1]
        assert len(server.batches) == 7


def test_a_batch_that_was_noted_but_never_created_is_created(tmp_path: Path):
    with BatchServer(echo, polls=None) as server:
        stopped(settings(server, tmp_path), server, *questions(1))
        (file,) = tmp_path.glob("batch-*.json")
        file.write_text(json.dumps({**json.loads(file.read_text()), "batch_id": None}))
        server.batches.clear()
        server.finish()
        assert texts(asked(settings(server, tmp_path), *questions(1))) == EXPECTED[:1]
        assert not file.exists()


def test_a_batch_whose_creation_was_not_answered_is_not_created_twice():
    with BatchServer(echo, lose_create=1) as server:
        assert texts(asked(settings(server), *questions(6))) == EXPECTED
        assert len(server.batches) == 1


def test_a_batch_that_was_created_twice_after_all_is_done_once(caplog: pytest.LogCaptureFixture):
    with BatchServer(echo, lose_create=1, late=1) as server:  # not there when it is looked for, but soon after
        assert texts(asked(settings(server), *questions(6))) == EXPECTED
        assert len(server.batches) == 2
        assert server.cancelled == ["batch-1"]
        assert "created twice" in caplog.text


def test_a_batch_that_never_ends_is_cancelled_and_what_it_gave_is_taken():
    with BatchServer(echo, polls=None, items=[None, "missing"]) as server:
        outcomes = asked(settings(server), *questions(2), window_s=0.2)
        assert server.cancelled[0] == "batch-0"
        assert texts(outcomes) == EXPECTED[:2]
        assert [one.attempts for one in outcomes] == [1, 2]


def test_a_batch_that_cannot_even_be_cancelled_is_given_up_and_booked():
    with BatchServer(echo, polls=None, cancels=False) as server:
        (lost,) = asked(settings(server), *questions(1), window_s=0.1, cancel_s=0.1)
    assert isinstance(lost, RequestLost)
    assert "is not over after" in str(lost)
    assert (lost.attempts, lost.lost.completion_tokens) == (2, 20)
    assert server.cancelled == ["batch-0", "batch-1"]


def test_after_a_restart_an_old_dialect_is_no_reason_to_stop(tmp_path: Path):
    error = {"message": "Unsupported parameter: 'max_tokens'", "param": "max_tokens", "code": "unsupported_parameter"}

    async def one_by_one(engine: OpenAIBatch) -> list[Any]:
        return [(await asyncio.gather(engine.answer(one), return_exceptions=True))[0] for one in questions(2)]

    with BatchServer(echo, items=[400, 400], error=error) as server:
        assert texts(asked(settings(server, tmp_path), *questions(2))) == EXPECTED[:2]
        assert texts(using(settings(server, tmp_path), one_by_one)) == EXPECTED[:2]  # the second knows better by then
        assert len(server.lines) == 4


def test_after_a_restart_what_was_refused_then_is_asked_again(tmp_path: Path):
    with BatchServer(echo, items=[403, 400], error={"message": "not today"}) as server:
        first = asked(settings(server, tmp_path), *questions(2))
        assert [type(one) for one in first] == [UserError, RequestLost]
        assert texts(asked(settings(server, tmp_path), *questions(2))) == EXPECTED[:2]
        assert len(server.lines) == 4


def test_the_same_id_with_another_question_is_another_request(tmp_path: Path):
    with BatchServer(echo) as server:
        asked(settings(server, tmp_path), Request("r", prompt="one"))
        assert texts(asked(settings(server, tmp_path), Request("r", prompt="two"))) == ["answer to two"]


@pytest.mark.parametrize("fate", ["expired", "missing", "broken", "empty", 429, 500])
def test_what_fails_in_one_batch_goes_into_one_more(fate: str | int):
    with BatchServer(echo, items=[None, fate, None]) as server:
        outcomes = asked(settings(server), *questions(3))
    assert texts(outcomes) == EXPECTED[:3]
    assert [one.attempts for one in outcomes] == [1, 2, 1]
    assert len(server.batches) == 2
    assert len(server.lines) == 4
    assert (outcomes[1].lost != Usage()) == (fate in ("empty", 500))


def test_what_fails_in_two_batches_is_lost_alone_and_tried_again_by_a_later_run(tmp_path: Path):
    with BatchServer(echo, items=[None, "empty", "empty"]) as server:
        good, lost = asked(settings(server, tmp_path), *questions(2))
        assert isinstance(good, Reply)
        assert isinstance(lost, RequestLost)
        assert (lost.attempts, lost.lost.completion_tokens) == (2, 20)
        again = asked(settings(server, tmp_path), *questions(2))
        assert texts(again) == EXPECTED[:2]
        assert len(server.lines) == 4
        assert again[1].lost.completion_tokens == 20  # what the two batches before may have cost


def test_no_second_batch_is_made_that_the_budget_does_not_pay_for():
    async def work(engine: OpenAIBatch) -> Any:
        with pytest.raises(RequestLost, match="no budget"):
            await engine.answer(questions(1)[0], before_retry=lambda lost: False)

    with BatchServer(echo, items=["expired"]) as server:
        using(settings(server), work)
        assert len(server.batches) == 1


def test_a_dialect_is_learned_from_a_batch():
    error = {"message": "Unsupported parameter: 'max_tokens'", "param": "max_tokens", "code": "unsupported_parameter"}
    with BatchServer(echo, items=[400, 400], error=error) as server:
        assert texts(asked(settings(server), *questions(2))) == EXPECTED[:2]
        assert server.lines[-1]["body"]["max_completion_tokens"] == 10


def test_a_batch_that_is_refused_stops_with_one_line_and_can_be_mended(tmp_path: Path):
    with BatchServer(echo, refusals=[{"code": "model_not_found", "message": "no model m"}]) as server:
        outcomes = asked(settings(server, tmp_path), *questions(2))
        assert [type(one) for one in outcomes] == [UserError, UserError]
        assert "no model m" in str(outcomes[0])
        assert texts(asked(settings(server, tmp_path), *questions(2))) == EXPECTED[:2]


def test_a_full_queue_is_waited_for():
    full = {"code": "token_limit_exceeded", "message": "Enqueued token limit reached"}
    with BatchServer(echo, refusals=[full]) as server:
        assert texts(asked(settings(server), *questions(2))) == EXPECTED[:2]
        assert len(server.batches) == 2
    with BatchServer(echo, refusals=[full] * 9) as server:
        (outcome,) = asked(settings(server, retries=1, poll_s=0.005), *questions(1))
        assert isinstance(outcome, UserError)
        assert "lower concurrency" in str(outcome)


def test_a_batch_unknown_to_the_server_is_not_paid_for_again(tmp_path: Path):
    with BatchServer(echo) as server:
        asked(settings(server, tmp_path), *questions(1))
        server.batches.clear()
        (outcome,) = asked(settings(server, tmp_path), *questions(1))
    assert isinstance(outcome, UserError)
    (file,) = tmp_path.glob("batch-*.json")
    assert str(file) in str(outcome)


def test_the_key_is_in_no_state_file(tmp_path: Path, key: str):
    with BatchServer(echo) as server:
        asked(settings(server, tmp_path), *questions(3))
        assert f"Bearer {key}" in server.authorizations
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert files
    assert not any(key in file.read_text() for file in files)


def test_a_journal_is_read_as_it_was_written_and_says_which_file_is_none(tmp_path: Path):
    journal = Journal(tmp_path)
    record = Record("token", "server", 1.0, {"digest": "r1"})
    journal.write(record)
    assert Journal(tmp_path).holding("digest", "server") == [record]
    assert Journal(tmp_path).holding("digest", "elsewhere") == []
    named = journal.named(record, "batch-7")
    assert Journal(tmp_path).holding("digest", "server") == [named]
    (tmp_path / "batch-token.json").write_text("{")
    with pytest.raises(UserError, match=r"batch-token\.json: no record of a batch"):
        Journal(tmp_path)
