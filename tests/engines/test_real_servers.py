"""The engine `openai` against a server of other people's: llmock, found on the PATH (`pip install llmock`)."""

import asyncio
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from servers import wait_until

from alpaca.engines.exchange import EngineSettings, Reply, Request, RequestLost, Usage
from alpaca.engines.openai_server import OpenAIServer

LLMOCK = shutil.which("llmock")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(LLMOCK is None, reason="llmock is not installed: pip install llmock, anywhere on the PATH"),
]
SCHEMA = {"type": "object", "properties": {"verdict": {"type": "string", "enum": ["A", "B"]}}, "required": ["verdict"],
          "additionalProperties": False}  # fmt: skip


@contextmanager
def llmock(folder: Path, *options: str) -> Iterator[str]:
    """Its address, while it runs; the tests' own packages are not on its path."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(LLMOCK), "serve", "--host", "127.0.0.1", "--port", str(port), *options]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    with (folder / "llmock.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log, env=clean)
        try:
            wait_until(lambda: _listens(port), 60)
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            process.terminate()
            process.wait(30)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def asked(url: str, *requests: Request, **given: object) -> list[Reply | BaseException]:
    async def whole() -> list[Reply | BaseException]:
        engine = OpenAIServer(EngineSettings("openai", "gpt-4.1-mini", base_url=url, **given), first_wait_s=0.05)
        try:
            return await asyncio.gather(*(engine.answer(one) for one in requests), return_exceptions=True)
        finally:
            await engine.close()

    return asyncio.run(whole())


def test_texts_json_and_bills_are_read(tmp_path: Path):
    text = Request("t", prompt="Name three colours of the rainbow, please.", seed=1, stop=("###",), max_tokens=50)
    verdict = Request("j", prompt="Which is better, A or B?", schema=SCHEMA)
    with llmock(tmp_path) as url:
        plain, structured = asked(url, text, verdict)
    assert isinstance(plain, Reply)
    assert isinstance(structured, Reply)
    assert plain.answers[0].text
    assert plain.usage.total > 0
    assert '"verdict"' in structured.answers[0].text


def test_refusals_at_random_lose_nothing(tmp_path: Path):
    requests = [Request(f"r{n}", prompt=f"Say hello to number {n} in the row.", max_tokens=20) for n in range(40)]
    with llmock(tmp_path, "--error-rate", "429=0.3") as url:
        replies = asked(url, *requests, retries=20)
    assert all(isinstance(one, Reply) for one in replies), replies
    assert {one.lost for one in replies if isinstance(one, Reply)} == {Usage()}


def test_a_prompt_too_long_is_lost_alone_in_the_servers_words(tmp_path: Path):
    with llmock(tmp_path, "--context-window", "50") as url:
        long, short = asked(url, Request("l", prompt="word " * 500), Request("s", prompt="Hello there."))
    assert isinstance(long, RequestLost)
    assert "maximum context length is 50 tokens" in long.reason
    assert isinstance(short, Reply)
