"""The client engine against a real model behind a real server: ours, and `transformers serve` where it runs."""

import asyncio
import contextlib
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from servers import Server, wait_until
from test_local import needs_embedded_model

from alpaca.engines.exchange import EngineSettings, Reply, Request
from alpaca.engines.local import LocalEngine, model_of, open_local
from alpaca.engines.opening import open_engine
from alpaca.modeling.base import load_model, load_tokenizer

TINY = [Request(f"r{n}", prompt=f"Once {n}", max_tokens=12, seed=n, choices=1 + n % 2, top_p=0.9) for n in range(12)]
CHATS = [
    Request(f"r{n}", messages=({"role": "user", "content": f"Name {n} primary colours."},), max_tokens=12, seed=n)
    for n in range(2, 5)
]


class ModelServer(Server):
    """An OpenAI-compatible server around a `LocalEngine`, which decodes what is asked at the same time together."""

    def __init__(self, model: str):
        super().__init__(self.respond)
        self.loop = asyncio.new_event_loop()
        self.engine: LocalEngine = open_local(EngineSettings("local", model, concurrency=8))

    def __enter__(self) -> "ModelServer":
        self.looping = threading.Thread(target=self.loop.run_forever, daemon=True)
        self.looping.start()
        super().__enter__()
        return self

    def __exit__(self, *reason: object) -> None:
        super().__exit__(*reason)
        asyncio.run_coroutine_threadsafe(self.engine.close(), self.loop).result()
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.looping.join(timeout=240)

    def respond(self, body: dict[str, Any]) -> dict[str, Any]:
        request = Request(
            "served", prompt=body.get("prompt"), messages=tuple(body.get("messages", ())),
            max_tokens=body["max_tokens"], temperature=body["temperature"], top_p=body.get("top_p", 1.0),
            stop=tuple(body.get("stop", ())), choices=body.get("n", 1), seed=body.get("seed"),
        )  # fmt: skip
        reply = asyncio.run_coroutine_threadsafe(self.engine.answer(request), self.loop).result()
        choices = [{"finish_reason": one.finish_reason, "text": one.text,
                    "message": {"role": "assistant", "content": one.text}} for one in reply.answers]  # fmt: skip
        usage = {"prompt_tokens": reply.usage.prompt_tokens, "completion_tokens": reply.usage.completion_tokens}
        return {"model": self.engine.model, "choices": choices, "usage": usage}


def asked(settings: EngineSettings, requests: list[Request]) -> list[Reply]:
    async def work() -> list[Reply]:
        engine = open_engine(settings)
        try:
            for request in requests:
                assert engine.most(request).total > 0
            return await asyncio.gather(*(engine.answer(one) for one in requests))
        finally:
            await engine.close()

    return asyncio.run(work())


@pytest.mark.parametrize(("model", "api", "requests"), [
    ("tiny", "completions", TINY),
    pytest.param("smollm2_135m", "chat", CHATS, marks=[pytest.mark.slow, needs_embedded_model]),
])  # fmt: skip
def test_a_model_says_the_same_behind_a_server_as_in_this_process(model: str, api: str, requests: list[Request]):
    here = asked(EngineSettings("local", model), requests)
    with ModelServer(model) as server:
        there = asked(EngineSettings("openai", model, base_url=server.url, api=api), requests)
        assert sum(one.usage.total for one in there) == server.usage.total
    assert [one.answers for one in there] == [one.answers for one in here]
    assert [one.usage for one in there] == [one.usage for one in here]
    assert {one.model for one in there} == {model}


@contextlib.contextmanager
def transformers_serve(folder: str, log: Path) -> Iterator[str]:
    """`transformers serve` with the model in `folder`; its `base_url`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(sys.executable).with_name("transformers")), "serve", folder, "--host", "127.0.0.1",
               "--port", str(port)]  # fmt: skip
    with log.open("w") as stream:
        child = subprocess.Popen(command, stdout=stream, stderr=stream, env={**os.environ, "HF_HUB_OFFLINE": "1"})
        try:
            wait_until(lambda: child.poll() is not None or _listens(port), seconds=240)
            assert child.poll() is None, log.read_text()
            yield f"http://127.0.0.1:{port}/v1"
        finally:
            child.terminate()
            child.wait(timeout=240)


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


needs_serving = pytest.mark.skipif(
    find_spec("fastapi") is None or find_spec("uvicorn") is None,
    reason="transformers serve needs fastapi and uvicorn: pip install alpaca-ablations[serve]",
)


@needs_serving
def test_transformers_serve_answers_chats_and_completions(tmp_path: Path):
    """A random model behind a well-kept server: the official client is understood, and every token is on the bill."""
    config = model_of("tiny")
    tokenizer = load_tokenizer(config)
    tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}\n{% endfor %}"
    model = load_model(config, tokenizer, seed=0, dtype=torch.float32, device=torch.device("cpu"))
    folder = str(tmp_path / "model")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    with transformers_serve(folder, tmp_path / "serve.log") as url:
        for api, requests in (("chat", CHATS), ("completions", TINY[:4])):
            settings = EngineSettings("openai", folder, base_url=url, api=api, timeout_s=100.0)
            replies = asked(settings, requests)
            assert [len(reply.answers) for reply in replies] == [request.choices for request in requests]
            assert all(0 < reply.usage.completion_tokens <= 12 * len(reply.answers) for reply in replies)
