"""The engine `openai` against a real server that fails in every way a server can."""

import asyncio
import contextlib
import gzip
import json
import logging
import random
import re
import shutil
import ssl
import subprocess
import sys
import traceback
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest
from servers import FAULTS, Server, question, wait_until

from alpaca.engines.budget import Budget
from alpaca.engines.exchange import EngineSettings, Reply, Request, RequestLost, Usage
from alpaca.engines.openai_server import OpenAIServer
from alpaca.engines.refusals import NoStructure
from alpaca.errors import UserError

HELLO = Request("r", prompt="Hello")
QUICK = 0.01  # the first wait before a retry


def settings(server: Server | None, **given: Any) -> EngineSettings:
    return EngineSettings(
        **{"name": "openai", "model": "m", "base_url": server and server.url, "timeout_s": 5.0, **given}
    )


def using(given: EngineSettings, work: Callable[[OpenAIServer], Coroutine[Any, Any, Any]]) -> Any:
    """Run `work` on an engine of these settings and close it."""

    async def whole() -> Any:
        engine = OpenAIServer(given, first_wait_s=QUICK)
        try:
            return await work(engine)
        finally:
            await engine.close()

    return asyncio.run(whole())


def asked(given: EngineSettings, *requests: Request) -> list[Reply | BaseException]:
    return using(
        given, lambda engine: asyncio.gather(*(engine.answer(one) for one in requests), return_exceptions=True)
    )


def ask(given: EngineSettings, request: Request = HELLO) -> Reply:
    (outcome,) = asked(given, request)
    if isinstance(outcome, BaseException):
        raise outcome
    return outcome


def total(usages: Any) -> Usage:
    return sum(usages, Usage())


@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_request_comes_back_as_its_answers_with_the_servers_bill(api: str):
    with Server(lambda body: [f"{question(body)} {n}" for n in range(body["n"])]) as server:
        reply = ask(settings(server, api=api), Request("r7", prompt="Hello llama", choices=2, stop=("##",), seed=3))
    assert [answer.text for answer in reply.answers] == ["Hello llama 0", "Hello llama 1"]
    assert (reply.request_id, reply.model, reply.attempts, reply.lost) == ("r7", "m", 1, Usage())
    assert reply.usage == server.usage == Usage(2, 6)
    assert server.requests[0]["stop"] == ["##"]
    assert server.requests[0]["seed"] == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_retried_and_only_work_that_may_be_billed_is_booked(fault: str):
    timeout_s = 0.5 if fault == "timeout" else 5.0
    with Server(script=[fault, None]) as server:
        given = settings(server, timeout_s=timeout_s)
        request = Request("r", prompt="Hello", max_tokens=50)
        reply = ask(given, request)
        most = using(given, lambda engine: _value(engine.most(request)))
    assert reply.attempts == 2
    assert reply.usage == server.usage
    assert reply.lost == (most if server.possible.total else Usage())
    assert server.possible.total <= reply.lost.total


async def _value(value: Any) -> Any:
    return value


def test_text_that_no_file_could_hold_is_mended_on_both_ways():
    with Server(lambda body: f"{question(body)} \ud83d") as server:
        reply = ask(settings(server), Request("r", prompt="half \ud83d"))
    assert reply.answers[0].text == "half \ufffd \ufffd"


def test_an_answer_cut_by_its_limit_is_an_answer():
    with Server(script=["length"]) as server:
        reply = ask(settings(server))
    assert (reply.answers[0].finish_reason, reply.attempts) == ("length", 1)


def test_a_request_is_lost_after_its_retries_with_all_that_may_have_been_billed():
    with Server(script=["500", "429", "half_json", "503"]) as server:
        given = settings(server, retries=3)
        with pytest.raises(RequestLost) as lost:
            ask(given, Request("r", prompt="Hello", max_tokens=10))
    assert (lost.value.attempts, len(server.requests)) == (4, 4)
    assert lost.value.lost.completion_tokens == 20
    assert "503" in lost.value.reason


def test_retry_after_holds_the_retry_back():
    with Server(script=["429_retry_after"]) as server:
        assert ask(settings(server)).latency_s >= 0.2


def test_no_attempt_is_retried_that_the_budget_does_not_pay_for():
    request = Request("r", prompt="Hello", max_tokens=100)

    async def work(engine: OpenAIServer) -> Budget:
        most = engine.most(request)
        budget = Budget(tokens=2 * most.total)
        held = budget.reserve(most)
        assert held is not None
        with pytest.raises(RequestLost, match="no budget") as lost:
            await engine.answer(request, before_retry=held.allows_retry)
        budget.settle(held, Usage(), lost.value.lost)
        assert budget.lost == most + most
        return budget

    with Server(script=["500", "500", "500"]) as server:
        using(settings(server), work)
        assert len(server.requests) == 2


@pytest.mark.parametrize("seed", range(3))
def test_a_server_that_fails_half_the_time_bills_no_more_than_the_budget(seed: int):
    requests = [Request(f"r{n}", prompt=f"question number {n}", max_tokens=30) for n in range(40)]
    budget = Budget(tokens=6000)

    async def one(engine: OpenAIServer, request: Request, places: asyncio.Semaphore) -> bool:
        async with places:
            held = budget.reserve(engine.most(request))
            if held is None:
                return False
            try:
                reply = await engine.answer(request, before_retry=held.allows_retry)
            except RequestLost as lost:
                budget.settle(held, Usage(), lost.lost)
            else:
                budget.settle(held, reply.usage, reply.lost)
            return True

    async def work(engine: OpenAIServer) -> list[bool]:
        places = asyncio.Semaphore(8)
        return await asyncio.gather(*(one(engine, request, places) for request in requests))

    faults = dict.fromkeys(("500", "reset_mid_body", "half_json", "429", "empty_choices"), 0.1)
    with Server(lambda body: "word " * 30, faults=faults, seed=seed) as server:
        sent = using(settings(server), work)
    assert any(sent)
    assert not all(sent)
    assert server.usage == budget.spent
    assert (server.usage + server.possible).total <= (budget.spent + budget.lost).total <= 6000
    assert (budget.reserved, budget.in_flight) == (Usage(), 0)


def test_concurrency_is_never_exceeded():
    with Server(delay_s=0.02) as server:
        replies = asked(settings(server, concurrency=3), *(Request(f"r{n}", prompt=f"{n}") for n in range(20)))
    assert all(isinstance(reply, Reply) for reply in replies)
    assert max(server.at_once) <= 3


def test_after_a_refusal_fewer_are_asked_at_once():
    with Server(script=["429_retry_after"] * 16, delay_s=0.2) as server:
        asked(settings(server, concurrency=16), *(Request(f"r{n}", prompt=f"{n}") for n in range(16)))
    assert len(server.requests) == 32
    assert max(server.at_once[16:]) <= 10  # eight, and one more for each window of answers


def test_announced_limits_are_kept():
    empty = {"x-ratelimit-limit-requests": "4", "x-ratelimit-remaining-requests": "0",
             "x-ratelimit-reset-requests": "400ms"}  # fmt: skip

    async def work(engine: OpenAIServer) -> list[Reply]:
        return [await engine.answer(Request(f"r{n}", prompt="Hello")) for n in range(4)]

    with Server(headers=empty) as server:
        replies = using(settings(server), work)
    assert [reply.attempts for reply in replies] == [1] * 4
    assert all(reply.latency_s >= 0.09 for reply in replies[1:])  # one in a tenth of a second


@pytest.mark.parametrize(("status", "error", "words"), [
    (401, {"message": "Incorrect API key provided: KEY"}, "OPENAI_API_KEY"),
    (403, {"message": "KEY may not"}, "does not let this key"),
    (404, {"message": "The model does not exist", "code": "model_not_found"}, "model=m: unknown to"),
    (429, {"message": "You exceeded your current quota", "code": "insufficient_quota"}, "quota or credit"),
])  # fmt: skip
def test_what_no_retry_mends_stops_everything_at_once(
    status: int, error: dict[str, str], words: str, key: str, caplog: pytest.LogCaptureFixture
):
    caplog.set_level(logging.DEBUG)
    error = {name: text.replace("KEY", key) for name, text in error.items()}

    async def work(engine: OpenAIServer) -> list[BaseException]:
        with pytest.raises(UserError) as first:
            await engine.answer(Request("r", prompt="Hello"))
        with pytest.raises(UserError) as second:
            await engine.answer(Request("s", prompt="Hello"))
        return [first.value, second.value]

    with Server(script=[status] * 9, error=error) as server:
        errors = using(settings(server), work)
        assert len(server.requests) == 1
    for raised in errors:
        assert words in str(raised)
        assert "\n" not in str(raised)
        assert key not in "".join(traceback.format_exception(raised))
    assert key not in caplog.text
    assert server.authorizations == [f"Bearer {key}"]


def test_a_setting_that_spoils_every_request_stops_after_the_first_few():
    async def work(engine: OpenAIServer) -> list[BaseException]:
        requests = [Request(f"r{n}", prompt="Hello") for n in range(9)]
        return [(await asyncio.gather(engine.answer(one), return_exceptions=True))[0] for one in requests]

    with Server(script=[400] * 9, error={"message": "max_tokens is too large"}) as server:
        errors = using(settings(server), work)
        assert len(server.requests) == 5
    assert [type(one) for one in errors] == [RequestLost] * 4 + [UserError] * 5
    assert "max_tokens is too large" in str(errors[-1])
    assert "the first 5 requests all; change what it names" in str(errors[-1])


def test_a_bad_row_among_good_ones_is_lost_alone_with_its_reason():
    def check(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        return (400, {"message": "row 3 is bad"}) if question(body) == "3" else None

    with Server(check=check) as server:
        outcomes = asked(settings(server), *(Request(f"r{n}", prompt=f"{n}") for n in range(8)))
    assert [isinstance(one, Reply) for one in outcomes] == [n != 3 for n in range(8)]
    assert isinstance(outcomes[3], RequestLost)
    assert "row 3 is bad" in str(outcomes[3])
    assert outcomes[3].lost == Usage()


def test_waiting_is_said_once_with_its_reason_and_its_end(caplog: pytest.LogCaptureFixture):
    ended = asyncio.Event()

    async def work(engine: OpenAIServer) -> None:
        waiting = [
            asyncio.create_task(engine.answer(Request(f"r{n}", prompt=f"{n}"), wanted=lambda: not ended.is_set()))
            for n in range(3)
        ]
        await asyncio.to_thread(wait_until, lambda: "waiting until" in caplog.text)
        await asyncio.sleep(0.3)
        ended.set()
        await asyncio.gather(*waiting, return_exceptions=True)

    with Server(script=["429"] * 9, headers={"Retry-After": "600"}) as server:
        using(settings(server), work)
    (said,) = [record.getMessage() for record in caplog.records if record.name.startswith("alpaca")]
    assert re.fullmatch(
        r"127.0.0.1:\d+: waiting until \d\d:\d\d:\d\d \((?:600|599) s\): status 429 \(slow down\)", said
    )


@pytest.mark.parametrize("script", [["429"] * 9, [None] * 9], ids=["in the back-off", "at the gate"])
def test_what_is_not_wanted_any_more_is_not_sent_however_long_it_waits(script: list[str | None]):
    """A server that lets nobody in for ten minutes; the end comes after the first request."""
    held = {"Retry-After": "600", "x-ratelimit-limit-requests": "1", "x-ratelimit-remaining-requests": "0",
            "x-ratelimit-reset-requests": "600s"}  # fmt: skip
    ended = asyncio.Event()

    async def work(engine: OpenAIServer) -> list[Any]:
        requests = [Request(f"r{n}", prompt=f"{n}") for n in range(4)]
        waiting = [asyncio.create_task(engine.answer(one, wanted=lambda: not ended.is_set())) for one in requests]
        await asyncio.to_thread(wait_until, lambda: len(server.requests) > 0 and server.under_way == 0)
        await asyncio.sleep(0.05)
        ended.set()
        async with asyncio.timeout(30):
            return await asyncio.gather(*waiting, return_exceptions=True)

    with Server(script=script, headers=held) as server:
        outcomes = using(settings(server, concurrency=1), work)
        assert len(server.requests) == 1
    lost = [one for one in outcomes if isinstance(one, RequestLost)]
    assert len(lost) == 4 - (script[0] is None)
    assert {one.lost for one in lost} == {Usage()}
    assert all("nobody needs its answer" in str(one) for one in lost)
    assert sum(one.attempts for one in lost) == (script[0] is not None)


@pytest.mark.parametrize("refuses", [False, True], ids=["ignores n", "refuses n"])
def test_a_server_that_gives_one_choice_at_a_time_is_asked_for_the_others(refuses: bool):
    def check(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        return (400, {"message": "Only one completion choice is allowed"}) if refuses and "n" in body else None

    def one(body: dict[str, Any]) -> list[str]:
        return [f"seed {body['seed']}"]

    request = Request("r", prompt="Hello", choices=3, seed=2**31 - 1, max_tokens=5)
    with Server(one, check=check) as server:
        given = settings(server)
        reply = ask(given, request)
        most = using(given, lambda engine: _value(engine.most(request)))
        assert len(server.requests) == 3 + refuses
    assert [answer.text for answer in reply.answers] == ["seed 2147483647", "seed 0", "seed 1"]
    assert reply.usage == server.usage
    assert most.prompt_tokens >= reply.usage.prompt_tokens
    assert most.completion_tokens >= reply.usage.completion_tokens


def test_what_came_of_several_choices_is_kept_when_the_rest_is_lost():
    with Server(lambda body: ["one"], script=[None, "503", "503"]) as server:
        reply = ask(settings(server, retries=1), Request("r", prompt="Hello", choices=3))
        assert reply.usage == server.usage
    assert [answer.text for answer in reply.answers] == ["one"]


def test_a_request_that_is_too_long_is_lost_alone():
    def check(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        long = len(question(body)) > 20
        return (400, {"message": "too long", "code": "context_length_exceeded"}) if long else None

    with Server(check=check) as server:
        long, short = asked(settings(server), Request("long", prompt="x" * 30), Request("short", prompt="x"))
    assert isinstance(long, RequestLost)
    assert (long.attempts, long.lost) == (1, Usage())
    assert isinstance(short, Reply)


def test_a_model_of_another_dialect_is_understood_once(caplog: pytest.LogCaptureFixture):
    def check(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        for name in ("max_tokens", "temperature", "stop"):
            if name in body:
                return 400, {
                    "message": f"Unsupported parameter: '{name}'",
                    "param": name,
                    "code": "unsupported_parameter",
                }
        return None

    async def work(engine: OpenAIServer) -> list[Reply]:
        first = await engine.answer(Request("r0", prompt="Hello", stop=("b",)))
        return [first, *await asyncio.gather(*(engine.answer(Request(f"r{n}", prompt="Hello", stop=("b",)))
                                               for n in range(1, 9)))]  # fmt: skip

    with Server(lambda body: "a b c", check=check) as server:
        replies = using(settings(server), work)
    assert [reply.answers[0].text for reply in replies] == ["a "] * 9
    assert [reply.attempts for reply in replies] == [4] + [1] * 8
    assert {reply.lost for reply in replies} == {Usage()}
    assert len(server.requests) == 12
    assert sorted(record.args[1] for record in caplog.records if record.name.startswith("alpaca")) == [
        "stop", "temperature",
    ]  # fmt: skip


class Saying(Server):
    """A server that answers with given statuses, content types and bodies, the last one for ever."""

    def __init__(self, *said: tuple[int, str, bytes], **given: Any):
        super().__init__(**given)
        self.said = said

    def _answer(self, http: Any, body: dict[str, Any], fault: str | int | None) -> None:
        http.send_content(*self.said[min(len(self.requests), len(self.said)) - 1])


GOOD = json.dumps({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]}).encode()


@pytest.mark.parametrize("kind", ["text/plain; charset=utf-8", "application/octet-stream", "text/html"])
def test_json_is_read_under_any_content_type(kind: str):
    with Saying((200, kind, GOOD)) as server:
        assert ask(settings(server)).answers[0].text == "hi"


@pytest.mark.parametrize(("said", "words"), [
    ((422, "application/json", b'{"detail": "the prompt is weird"}'), "the prompt is weird"),
    ((400, "text/plain", b"Bad request: prompt is weird"), "Bad request: prompt is weird"),
    ((400, "application/json", b'[{"error": {"code": 400, "message": "odd", "status": "INVALID_ARGUMENT"}}]'), "odd"),
    ((200, "application/json", b'{"error": {"message": "odd one", "code": 422}}'), "odd one"),
    ((413, "text/html", b"<html><h1>413 Request Entity Too Large</h1></html>"), "Entity Too Large"),
    ((400, "text/plain", b"\x1b[31mred\x00 sk-marker-5b1d0c7e \n bearer abcdefgh12345678"), "red [key] bearer [key]"),
    ((400, "application/json", b"[" * 100_000), "status|refuses"),
])  # fmt: skip
def test_a_refusal_is_shown_in_the_servers_own_words_whatever_their_form(said: tuple[int, str, bytes], words: str):
    with Saying(said) as server, pytest.raises(RequestLost) as lost:
        ask(settings(server, retries=0))
    assert re.search(words if "|" in words else re.escape(words), lost.value.reason)


@pytest.mark.parametrize(("code", "error"), [(402, UserError), (401, UserError), (413, RequestLost)])
def test_an_error_under_a_status_of_success_is_treated_as_its_code(code: int, error: type[Exception]):
    body = json.dumps({"error": {"message": "insufficient credits", "code": code}}).encode()
    with Saying((200, "application/json", body)) as server:
        with pytest.raises(error):
            ask(settings(server, retries=3))
        assert len(server.requests) == 1


def test_a_server_that_refuses_parameters_one_after_another_is_asked_without_them():
    refusals = [
        (422, b'{"detail": [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are bad"}]}'),
        (400, b'{"error": {"message": "Unknown name \\"stop\\": Cannot find field."}}'),
        (500, b'{"error": {"message": "create() got an unexpected keyword argument \'temperature\'"}}'),
    ]  # fmt: skip
    said = [(status, "application/json", content) for status, content in refusals]
    with Saying(*said, (200, "application/json", GOOD)) as server:
        reply = ask(settings(server), Request("r", prompt="Hello", seed=3, stop=("x",)))
        assert set(server.requests[-1]) == {"model", "messages", "max_tokens"}
    assert (reply.answers[0].text, reply.attempts, reply.lost) == ("hi", 4, Usage())


def test_parameters_are_left_out_by_hand():
    with Server() as server:
        ask(settings(server, leave_out=("seed", "temperature")), Request("r", prompt="Hello", seed=3))
        assert set(server.requests[0]) == {"model", "messages", "max_tokens"}


@pytest.mark.parametrize("said", [
    (500, b"{\"error\": {\"message\": \"1 validation error: 'loc': ('body', 'response_format', 'type')\"}}"),
    (400, b'{"detail": "json_schema is not supported"}'), (404, b'{"message": "no endpoint with structured outputs"}'),
    (501, b"guided decoding is off"), (200, b'{"error": {"message": "response_format unavailable", "code": 422}}'),
])  # fmt: skip
def test_a_refusal_of_structured_output_stops_at_once_under_any_status(said: tuple[int, bytes]):
    with Saying((said[0], "application/json", said[1])) as server:
        with pytest.raises(NoStructure, match="gives no structured output"):
            ask(settings(server), Request("r", prompt="Hello", schema={"type": "object"}))
        assert len(server.requests) == 1


@pytest.mark.parametrize(("said", "words"), [
    (("text/html", b"<!doctype html><title>Welcome to nginx</title>"), "Welcome to nginx"),
    (("text/event-stream", b'data: {"choices": []}\n\ndata: [DONE]\n'), "a stream of events"),
    (("application/json", b'{"choices": []}'), "no choices"), (("application/json", b""), "an empty body"),
    (("application/json", b"{" * 200_000), "not whole JSON"), (("application/json", b"[" * 200_000), "not whole JSON"),
    (("application/json", GOOD[:-9]), "not whole JSON"),
])  # fmt: skip
def test_bodies_malformed_in_the_same_way_stop_everything_after_five(said: tuple[str, bytes], words: str):
    requests = [Request(f"r{n}", prompt="Hello") for n in range(3)]

    async def work(engine: OpenAIServer) -> list[Any]:
        return [(await asyncio.gather(engine.answer(one), return_exceptions=True))[0] for one in requests]

    with Saying((200, *said)) as server:
        outcomes = using(settings(server, retries=9), work)
        assert len(server.requests) == 5
    assert {type(one) for one in outcomes} == {UserError}
    assert words in str(outcomes[-1])
    assert "the first 5 answers are all like this" in str(outcomes[-1])


@pytest.mark.parametrize(("variable", "proxy", "words"), [
    ("all_proxy", "socks5://user:secret@127.0.0.1:9", "socks5://127.0.0.1:9 cannot be used (Using SOCKS proxy"),
    ("http_proxy", "ftp://127.0.0.1:9", "the proxy ftp://127.0.0.1:9 cannot be used"),
    ("http_proxy", "http://user:secret@127.0.0.1:9", "through the proxy http://127.0.0.1:9, which the"),
])  # fmt: skip
def test_a_proxy_that_does_not_work_is_named(monkeypatch: pytest.MonkeyPatch, variable: str, proxy: str, words: str):
    monkeypatch.setenv(variable, proxy)
    with pytest.raises(UserError) as refused:
        ask(EngineSettings("openai", "m", base_url="http://alpaca.invalid/v1", retries=1))
    assert words in str(refused.value)
    assert "secret" not in str(refused.value)


def test_a_server_without_tls_under_https_is_said_to_be_one():
    with Server() as server, pytest.raises(UserError, match=r"TLS failed .* begin base_url with http://"):
        ask(settings(server, base_url=server.url.replace("http:", "https:")))


def test_a_certificate_that_is_not_trusted_is_said_to_be_one(tmp_path: Path):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl to make a certificate with")
    files = ["-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")]
    make = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *files]
    subprocess.run([*make, "-subj", "/CN=127.0.0.1", "-days", "2"], check=True, capture_output=True, timeout=30)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    with Server() as server:
        server._http.socket = context.wrap_socket(server._http.socket, server_side=True)
        with pytest.raises(UserError, match=r"certificate verify failed.*SSL_CERT_FILE"):
            ask(settings(server, base_url=server.url.replace("http:", "https:")))


def test_too_many_open_files_are_said_to_be_the_reason():
    with Server() as server:
        code = (
            "import asyncio, resource, sys\n"
            "from alpaca.engines.exchange import EngineSettings, Request\n"
            "from alpaca.engines.openai_server import OpenAIServer\n"
            f"engine = OpenAIServer(EngineSettings('openai', 'm', base_url={server.url!r}))\n"
            "async def main():\n"
            "    held = []\n"
            "    await engine.answer(Request('r', prompt='Hello'))\n"
            "    await engine.close()\n"
            f"    second = OpenAIServer(EngineSettings('openai', 'm', base_url={server.url!r}))\n"
            "    resource.setrlimit(resource.RLIMIT_NOFILE, (40, 40))\n"
            "    try:\n"
            "        while True: held.append(open('/dev/null'))\n"
            "    except OSError: pass\n"
            "    try: await second.answer(Request('r', prompt='Hello'))\n"
            "    except Exception as error: print(type(error).__name__, error)\n"
            "asyncio.run(main())\n"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("UserError too many open files: lower concurrency"), done.stdout + done.stderr


def test_a_body_that_cannot_be_unpacked_is_a_broken_answer():
    class Packed(Server):
        def _answer(self, http: Any, body: dict[str, Any], fault: str | int | None) -> None:
            http.send_content(200, "application/json", b"no gzip", **{"Content-Encoding": "gzip"})

    with Packed() as server, pytest.raises(RequestLost, match="connection broke before the answer was whole"):
        ask(settings(server, retries=0))


@pytest.mark.parametrize("packed", [False, True])
def test_a_body_without_end_is_given_up(packed: bool):
    class Endless(Server):
        def _answer(self, http: Any, body: dict[str, Any], fault: str | int | None) -> None:
            chunk = bytes(1 << 20) if not packed else gzip.compress(random.Random(0).randbytes(1 << 20))
            http.send_head(200, "application/json", 1 << 40, **({"Content-Encoding": "gzip"} if packed else {}))
            with contextlib.suppress(OSError):
                while not self.closing.is_set():
                    http.wfile.write(chunk)

    with Endless() as server, pytest.raises(RequestLost, match="a body of more than"):
        ask(settings(server, retries=0, timeout_s=30.0))


def test_an_address_where_nobody_listens_is_said_to_be_one():
    with Server() as server:
        gone = settings(server, retries=2)
    with pytest.raises(UserError, match="no server answers there"):
        ask(gone)


@pytest.mark.parametrize("first", [None, "503"])
def test_a_server_that_went_away_loses_the_request_alone(first: str | None):
    async def work(engine: OpenAIServer) -> None:
        await asyncio.gather(engine.answer(HELLO), return_exceptions=True)
        server.__exit__()
        with pytest.raises(RequestLost, match="cannot be reached") as lost:
            await engine.answer(HELLO)
        assert lost.value.lost == Usage()

    server = Server(script=[first], headers={"Connection": "close"}).__enter__()
    using(settings(server, retries=0), work)


def test_a_page_instead_of_an_answer_is_named_as_the_reason():
    with Server(script=["wrong_content_type"]) as server, pytest.raises(RequestLost, match="content type text/html"):
        ask(settings(server, retries=0))


@pytest.mark.parametrize(("base_url", "words"), [
    ("localhost:8000", "not an http address"), ("ftp://x", "not an http address"), ("http://", "not an http address"),
    ("http://x:port/v1", "not an address"), ("http://user:secret@x/v1", "OPENAI_API_KEY"),
])  # fmt: skip
def test_a_bad_address_is_refused_before_anything_is_sent(base_url: str, words: str):
    with pytest.raises(UserError, match=words) as refused:
        OpenAIServer(EngineSettings("openai", "m", base_url=base_url))
    assert "secret" not in str(refused.value)


def test_a_missing_key_is_an_error_only_where_a_key_is_needed(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(UserError, match="OPENAI_API_KEY is not set"):
        OpenAIServer(EngineSettings("openai", "m"))
    with Server() as server:
        ask(settings(server))


def test_a_key_that_cannot_be_one_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-one\nsk-two")
    with pytest.raises(UserError, match="characters that no key has") as refused:
        OpenAIServer(EngineSettings("openai", "m"))
    assert "sk-one" not in str(refused.value)


@pytest.mark.parametrize("count", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_with_faults_in_three_of_ten_requests_every_reply_comes_once_and_the_bill_adds_up(count: int):
    faults = dict.fromkeys((*FAULTS, "length"), 0.3 / (len(FAULTS) + 1))
    requests = [Request(f"r{n}", prompt=f"question number {n}", max_tokens=20) for n in range(count)]
    with Server(lambda body: f"answer to {question(body)}", faults=faults, seed=1, hold_s=5.0) as server:
        outcomes = asked(settings(server, concurrency=32, timeout_s=3.0), *requests)
        made = dict(server.faults_made)
    replies = [one for one in outcomes if isinstance(one, Reply)]
    lost = [one for one in outcomes if isinstance(one, RequestLost)]
    assert len(replies) + len(lost) == count
    assert len(lost) <= count / 100
    assert [one.request_id for one in outcomes] == [request.id for request in requests]
    for reply in replies:
        assert [answer.text for answer in reply.answers] == [f"answer to question number {reply.request_id[1:]}"]
    assert total(reply.usage for reply in replies) == server.usage
    booked = total(one.lost for one in [*replies, *lost])
    assert server.possible.prompt_tokens <= booked.prompt_tokens
    assert server.possible.completion_tokens <= booked.completion_tokens
    assert sum(one.attempts for one in [*replies, *lost]) == len(server.requests)
    assert set(made) == set(faults)
