"""A run behind OpenAI's protocol: requests, streams and errors by the handlers of `transformers serve`, words by ours.

Prompts are those of the terminal chat, answers end where the run's do. What a client asks for and this
server cannot do is refused with a sentence, never left out silently.
"""

import asyncio
import contextlib
import copy
import random
import signal
import socket
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import JSONResponse
from transformers import BatchEncoding
from transformers.cli.serving.chat_completion import ChatCompletionHandler
from transformers.cli.serving.completion import CompletionHandler
from transformers.cli.serving.model_manager import ModelManager
from transformers.cli.serving.utils import GenerateManager, GenerationState, _StreamError

from alpaca.chatting.opening import Speaker
from alpaca.chatting.port import HOST
from alpaca.chatting.prompts import Turn, prompt_ids, question
from alpaca.chatting.replies import LENGTH, Reply
from alpaca.chatting.sampling import Sampling
from alpaca.engines.protocol import sound
from alpaca.errors import RunFailed, UserError

GRACE_S = 5  # for answers that are being sent when the server is told to stop
NEUTRAL: dict[str, Any] = {
    "n": 1,
    "best_of": 1,
    "echo": False,
    "logprobs": False,
    "frequency_penalty": 0,
    "presence_penalty": 0,
    "logit_bias": {},
    "tools": [],
    "functions": [],
    "generation_config": None,
    "response_format": {"type": "text"},
}  # what is not done here, and the value of each that asks for nothing


def serve_forever(speaker: Speaker, sampling: Sampling, listening: socket.socket) -> None:
    """Answer on the socket `listening` until Ctrl-C or SIGTERM; `sampling` holds where a request says nothing."""
    stopping = threading.Event()
    app = application(speaker, sampling, closing=stopping.is_set)
    server = _Server(uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=GRACE_S), stopping)
    address = f"http://{HOST}:{listening.getsockname()[1]}/v1"
    with contextlib.suppress(KeyboardInterrupt):  # uvicorn hands the signal on when it has closed
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        print(f"serving    {speaker.name}: {speaker.about}")
        print(f"address    {address}    model {speaker.name!r}, any key; Ctrl-C ends it", flush=True)
        server.run(sockets=[listening])
    print("stopped", flush=True)


class _Server(uvicorn.Server):
    """A server that says when it is told to stop, so that answers in the making end."""

    def __init__(self, config: uvicorn.Config, stopping: threading.Event):
        super().__init__(config)
        self._stopping = stopping

    def handle_exit(self, sig: int, frame: Any) -> None:
        """A signal to end."""
        self._stopping.set()
        super().handle_exit(sig, frame)


def application(speaker: Speaker, sampling: Sampling, *, closing: Callable[[], bool] = lambda: False) -> FastAPI:
    """The web application; answers in the making end when `closing` says so."""
    manager, state = _OneModel(speaker), _State(_Decoding(speaker, sampling, closing))
    stop = speaker.prompting.template.stop
    chat, text = _Chat(manager, state, sampling, stop), _Text(manager, state, sampling, stop)

    async def chat_completions(request: Request) -> Any:
        return await chat.handle_request(await _body(request), f"chatcmpl-{uuid.uuid4().hex}")

    async def completions(request: Request) -> Any:
        return await text.handle_request(await _body(request), f"cmpl-{uuid.uuid4().hex}")

    app = FastAPI(title=speaker.name, docs_url=None, redoc_url=None, openapi_url=None)
    app.add_api_route("/v1/chat/completions", chat_completions, methods=["POST"], response_model=None)
    app.add_api_route("/v1/completions", completions, methods=["POST"], response_model=None)
    app.add_api_route("/v1/models", lambda: {"object": "list", "data": manager.get_gen_models()})
    app.add_api_route("/health", lambda: {"status": "ok"})
    app.add_exception_handler(HTTPException, _refusal)
    return app


async def _refusal(_: Request, error: Any) -> JSONResponse:
    """An error as OpenAI's clients read it."""
    kind = "invalid_request_error" if error.status_code < 500 else "server_error"
    content = {"error": {"message": str(error.detail), "type": kind, "param": None, "code": None}}
    return JSONResponse(content, status_code=error.status_code)


async def _body(request: Request) -> dict[str, Any]:
    try:
        found = await request.json()
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise HTTPException(400, "the body must be a JSON object")
    return found


@dataclass
class _Wanted:
    """What a request asks for; the handlers read `max_new_tokens` to say whether an answer was cut off."""

    max_new_tokens: int
    sampling: Sampling
    seeded: bool
    stop: tuple[str, ...]


class _OneModel(ModelManager):
    """The loaded model under its name, and no other."""

    def __init__(self, speaker: Speaker):
        super().__init__()
        self.force_model = speaker.name
        tokenizer: Any = copy.copy(speaker.tokenizer)
        tokenizer.apply_chat_template = lambda messages, **_: _encoded(speaker, messages)
        self._pair = speaker.model, tokenizer
        self._since = int(time.time())

    @staticmethod
    def process_model_name(model_id: str) -> str:
        """Its name as it is."""
        return model_id

    def load_model_and_processor(self, *_: Any, **__: Any) -> Any:
        """It is loaded."""
        return self._pair

    def get_gen_models(self, *_: Any) -> list[dict[str, Any]]:  # type: ignore[override]
        """The one model, as a list of models."""
        return [{"id": self.force_model, "object": "model", "created": self._since, "owned_by": "alpaca"}]


class _State(GenerationState):
    """One way of decoding for every request."""

    def __init__(self, decoding: "_Decoding"):
        super().__init__()
        self._decoding = decoding

    def get_manager(self, *_: Any, **__: Any) -> GenerateManager:
        """It."""
        return self._decoding


class _Stream:
    """What a handler holds of an answer that is streamed."""

    def __init__(self) -> None:
        self.total_tokens = 0
        self._cancelled = threading.Event()

    def cancel(self) -> None:
        """The client is gone."""
        self._cancelled.set()

    def is_cancelled(self) -> bool:
        """Whether nobody waits any more."""
        return self._cancelled.is_set()


class _Decoding(GenerateManager):
    """Answers one after another, in a thread of their own."""

    def __init__(self, speaker: Speaker, sampling: Sampling, closing: Callable[[], bool]):
        super().__init__()
        self._speaker, self._closing = speaker, closing
        self._draws = random.Random(sampling.seed)

    def generate_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str, response_parser: Any = None
    ) -> Any:
        """A queue of pieces of text, None last, and the handle to cancel."""
        loop, queue, stream = asyncio.get_running_loop(), asyncio.Queue[Any](), _Stream()
        reply = self._reply(inputs, gen_config)

        def put(item: Any) -> None:
            loop.call_soon_threadsafe(queue.put_nowait, item)

        def work() -> None:
            try:
                for piece in self._pieces(reply, gen_config, stream.is_cancelled):
                    stream.total_tokens = reply.tokens
                    if piece:
                        put(piece)
                stream.total_tokens = reply.tokens
                put(None)
            except Exception as error:
                put(_StreamError(" ".join(str(error).replace('"', "'").split())))

        self.submit(work)
        return queue, stream

    async def generate_non_streaming(
        self, model: Any, processor: Any, inputs: Any, gen_config: Any, request_id: str
    ) -> Any:
        """Text, length of the prompt, and the tokens made."""
        reply = self._reply(inputs, gen_config)
        try:
            await self.async_submit(lambda: list(self._pieces(reply, gen_config, lambda: False)))
        except RunFailed as error:
            raise HTTPException(503, str(error)) from None
        return reply.text, inputs["input_ids"].shape[-1], reply.made

    def _pieces(self, reply: Reply, wanted: _Wanted, cancelled: Callable[[], bool]) -> Any:
        while reply.ended is None and not cancelled() and not self._closing():
            yield reply.step()
        wanted.max_new_tokens = reply.tokens + (reply.ended != LENGTH)  # all that `finish_reason` is made from

    def _reply(self, inputs: Any, wanted: _Wanted) -> Reply:
        ids = inputs["input_ids"][0].tolist()
        draws = random.Random(wanted.sampling.seed) if wanted.seeded else self._draws
        try:
            return Reply(self._speaker, ids, wanted.sampling, draws, stop=wanted.stop)
        except UserError as error:
            raise HTTPException(400, str(error)) from None


class _Asked:
    """How requests are read, for both handlers."""

    model_manager: Any

    def __init__(self, manager: _OneModel, state: _State, sampling: Sampling, own_stop: tuple[str, ...]):
        super().__init__(model_manager=manager, generation_state=state)  # type: ignore[call-arg]
        self._sampling, self._own_stop = sampling, own_stop

    def _build_generation_config(self, body: dict[str, Any], *_: Any, **__: Any) -> Any:
        for name, neutral in NEUTRAL.items():
            if body.get(name) not in (None, neutral):
                raise HTTPException(400, f"{name}: this server cannot do that; leave it out")
        length = body.get("max_completion_tokens") or body.get("max_tokens")
        asked = {"max_new_tokens": length, **{name: body.get(name) for name in ("temperature", "top_p", "seed")}}
        sampling = self._sampling
        try:
            for name, value in asked.items():
                if value is not None:
                    sampling = sampling.changed(name, str(value))
        except UserError as error:
            raise HTTPException(400, str(error)) from None
        stop = body.get("stop") or []
        stop = [stop] if isinstance(stop, str) else stop
        if not (isinstance(stop, list) and all(isinstance(mark, str) for mark in stop)):
            raise HTTPException(400, "stop: must be a string or a list of strings")
        return _Wanted(sampling.max_new_tokens, sampling, asked["seed"] is not None, (*self._own_stop, *stop))

    def _streaming(self, *given: Any, **named: Any) -> Any:
        response = super()._streaming(*given, **named)  # type: ignore[misc]
        response.body_iterator = _closed(response.body_iterator)
        return response


class _Chat(_Asked, ChatCompletionHandler):
    """`/v1/chat/completions`."""

    async def handle_request(self, body: dict[str, Any], request_id: str) -> Any:
        """Answer, once the messages are known to be messages of text."""
        messages = body.get("messages")
        if not isinstance(messages, list) or not all(map(_is_text, messages)):
            raise HTTPException(400, "messages: must be a list of {role, content}, content a text or parts of text")
        return await super().handle_request(body, request_id)


def _is_text(message: Any) -> bool:
    if not isinstance(message, dict) or not isinstance(message.get("role"), str) or message.get("tool_calls"):
        return False
    content = message.get("content")
    parts = content if isinstance(content, list) else [{"type": "text", "text": content}]
    return all(
        isinstance(part, dict) and part.get("type") == "text" and isinstance(part.get("text"), str) for part in parts
    )


class _Text(_Asked, CompletionHandler):
    """`/v1/completions`: the text as it is, without the template."""


async def _closed(events: Any) -> AsyncIterator[str]:
    """The events, and the one that closes a stream, which some clients wait for."""
    try:
        async for event in events:
            yield event
        yield "data: [DONE]\n\n"
    finally:
        await events.aclose()


def _encoded(speaker: Speaker, messages: list[dict[str, Any]]) -> BatchEncoding:
    """The prompt of a conversation."""
    try:
        system, earlier, asked = _conversation(messages)
        ids = prompt_ids(speaker, question(asked), earlier, system=system)
    except UserError as error:
        raise HTTPException(400, str(error)) from None
    return BatchEncoding({"input_ids": torch.tensor([ids])})


def _conversation(messages: list[dict[str, Any]]) -> tuple[str, list[Turn], str]:
    """System text, earlier turns and the last question."""
    pairs = [(str(message.get("role")), sound(str(message.get("content") or ""))) for message in messages]
    system = pairs.pop(0)[1] if pairs and pairs[0][0] in ("system", "developer") else ""
    expected = ["user" if place % 2 == 0 else "assistant" for place in range(len(pairs))]
    if [role for role, _ in pairs] != expected or len(pairs) % 2 == 0:
        raise UserError("messages: must alternate between user and assistant, the last one from the user")
    texts = [text for _, text in pairs]
    turns = [Turn(question(asked), answer) for asked, answer in zip(texts[:-1:2], texts[1::2], strict=True)]
    return system, turns, texts[-1]
