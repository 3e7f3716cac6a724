"""A real OpenAI-compatible server on loopback that answers, counts what it bills, and fails on demand."""

import hashlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from alpaca.engines.exchange import Usage

FAULTS = (
    "429", "429_retry_after", "429_retry_after_ms", "500", "503", "reset_before", "reset_mid_body",
    "timeout", "half_json", "cut_body", "empty_choices", "wrong_content_type",
)  # fmt: skip
HARMLESS = ("length",)  # an answer cut by its limit is an answer
BILLED = ("500", "reset_before", "reset_mid_body", "timeout", "half_json", "cut_body", "empty_choices",
          "wrong_content_type")  # fmt: skip

Responder = Callable[[dict[str, Any]], str | Sequence[str] | dict[str, Any]]


def words(body: dict[str, Any]) -> str:
    """A deterministic answer: a few words that depend on the whole question."""
    draw = random.Random(hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest())
    return " ".join(draw.choice(("wool", "grass", "llama", "andes", "herd", "shear")) for _ in range(5))


def question(body: dict[str, Any]) -> str:
    """All text of a request's prompt or messages."""
    return str(body.get("prompt") or "\n\n".join(message["content"] for message in body.get("messages", ())))


class Server:
    """`with Server(responder, faults=...) as server:` serves `server.url` until the block ends.

    Args:
        responder: from a request's body to the text of each choice, one text for all, or a whole body.
        faults: name of a fault to its probability (see `FAULTS`, `HARMLESS`).
        script: faults of the first requests, one each; None is a good answer. An int is an HTTP status with
            the error object `error`.
        seed: draws the faults, by the number of the request.
        error: the `error` object that goes with statuses of `script`.
        check: from a request's body to a status and error object it is refused with, or None.
        headers: added to every response.
        hold_s: how long the fault `timeout` keeps a request.
        delay_s: how long a good answer takes.

    Attributes:
        requests: all bodies received, in order of arrival.
        usage: tokens of the answers delivered whole.
        possible: tokens of work done for which no whole answer was delivered.
        faults_made: how often each fault happened.
        authorizations: the header of that name of each request.
        at_once: requests under way at each arrival, the new one included.
    """

    def __init__(
        self,
        responder: Responder = words,
        *,
        faults: Mapping[str, float] | None = None,
        script: Sequence[str | int | None] = (),
        seed: int = 0,
        error: dict[str, Any] | None = None,
        check: Callable[[dict[str, Any]], tuple[int, dict[str, Any]] | None] = lambda body: None,
        headers: Mapping[str, str] | None = None,
        hold_s: float = 3.0,
        delay_s: float = 0.0,
    ):
        self.responder, self.faults, self.script, self.seed = responder, dict(faults or {}), script, seed
        self.error, self.check, self.headers = error or {}, check, dict(headers or {})
        self.hold_s, self.delay_s = hold_s, delay_s
        self.requests: list[dict[str, Any]] = []
        self.authorizations: list[str] = []
        self.usage, self.possible = Usage(), Usage()
        self.faults_made: Counter[str] = Counter()
        self.under_way = 0
        self.at_once: list[int] = []
        self.lock = threading.Lock()
        self.closing = threading.Event()

    def __enter__(self) -> "Server":
        self._http = _Listener(("127.0.0.1", 0), _handler(self))
        self._thread = threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.closing.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join(timeout=240)

    @property
    def url(self) -> str:
        """The `base_url`."""
        return f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def fault_of(self, number: int) -> str | int | None:
        """The fault of the request that arrived as `number`."""
        if number < len(self.script):
            return self.script[number]
        drawn = random.Random(f"{self.seed}:{number}").random()
        for name, share in self.faults.items():
            if (drawn := drawn - share) < 0:
                return name
        return None

    def completion(self, body: dict[str, Any]) -> dict[str, Any]:
        """The whole body of a good answer."""
        made = self.responder(body)
        if isinstance(made, dict):
            return made
        texts = [made] * body.get("n", 1) if isinstance(made, str) else list(made)
        chat = "messages" in body
        choices = [
            {"index": index, "finish_reason": "stop", **({"message": {"role": "assistant", "content": text}} if chat
             else {"text": text})}
            for index, text in enumerate(texts)
        ]  # fmt: skip
        prompt, completion = len(question(body).split()), sum(len(text.split()) for text in texts)
        usage = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
        return {"id": "answer", "object": "chat.completion" if chat else "text_completion", "model": body.get("model"),
                "choices": choices, "usage": usage}  # fmt: skip

    def handle(self, http: "_Http", method: str, path: str, content: bytes) -> None:
        """Answer one HTTP request; subclasses add paths."""
        if method != "POST" or not path.endswith(("/chat/completions", "/completions")):
            http.send_json(404, {"error": {"message": f"no such path: {path}"}})
            return
        body = json.loads(content)
        with self.lock:
            number = len(self.requests)
            self.requests.append(body)
            self.under_way += 1
            self.at_once.append(self.under_way)
        try:
            self._answer(http, body, self.fault_of(number))
        finally:
            with self.lock:
                self.under_way -= 1

    def _answer(self, http: "_Http", body: dict[str, Any], fault: str | int | None) -> None:
        if fault is not None:
            with self.lock:
                self.faults_made[str(fault)] += 1
        if isinstance(fault, int):
            http.send_json(fault, {"error": self.error})
            return
        if refusal := self.check(body):
            http.send_json(refusal[0], {"error": refusal[1]})
            return
        made = self.completion(body)
        billed = Usage(made["usage"]["prompt_tokens"], made["usage"]["completion_tokens"]) if "usage" in made else None
        if fault in BILLED:
            with self.lock:
                self.possible += billed or Usage()
        whole = json.dumps(made).encode()
        if fault is None or fault == "length":
            if fault:
                made["choices"][0]["finish_reason"] = "length"
            if self.delay_s:
                self.closing.wait(self.delay_s)
            http.send_json(200, made)
            with self.lock:
                self.usage += billed or Usage()
        elif fault.startswith("429"):
            extra = {
                "429": {},
                "429_retry_after": {"Retry-After": "0.2"},
                "429_retry_after_ms": {"retry-after-ms": "50"},
            }
            http.send_json(429, {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, **extra[fault])
        elif fault in ("500", "503"):
            http.send_json(int(fault), {"error": {"message": "out of order"}})
        elif fault == "timeout":
            self.closing.wait(self.hold_s)
            http.close_connection = True
        elif fault == "reset_before":
            http.reset()
        elif fault == "reset_mid_body":
            http.send_head(200, "application/json", len(whole))
            http.wfile.write(whole[: len(whole) // 2])
            http.wfile.flush()
            http.reset()
        elif fault == "cut_body":
            http.send_head(200, "application/json", len(whole))
            http.wfile.write(whole[: len(whole) // 2])
            http.close_connection = True
        elif fault == "half_json":
            http.send_content(200, "application/json", whole[: len(whole) // 2])
        elif fault == "empty_choices":
            http.send_json(200, {**made, "choices": []})
        elif fault == "wrong_content_type":
            http.send_content(200, "text/html", b"<html><body>Welcome</body></html>")
        else:
            raise ValueError(f"no such fault: {fault}")


class _Listener(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is part of the tests."""


class _Http(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    owner: Server

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_POST(self) -> None:
        self._serve("POST")

    def do_GET(self) -> None:
        self._serve("GET")

    def _serve(self, method: str) -> None:
        content = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with self.owner.lock:
            self.owner.authorizations.append(self.headers.get("Authorization", ""))
        self.owner.handle(self, method, self.path, content)

    def send_head(self, status: int, kind: str, length: int, **headers: str) -> None:
        """Status line and headers."""
        self.send_response(status)
        for name, value in {**self.owner.headers, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.end_headers()

    def send_content(self, status: int, kind: str, content: bytes, **headers: str) -> None:
        """A whole response."""
        self.send_head(status, kind, len(content), **headers)
        self.wfile.write(content)
        self.wfile.flush()

    def send_json(self, status: int, content: Any, **headers: str) -> None:
        """A whole response of JSON."""
        self.send_content(status, "application/json", json.dumps(content).encode(), **headers)

    def reset(self) -> None:
        """Break the connection at once, with a reset instead of an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()

    def log_message(self, *_: object) -> None:
        """Nothing on the terminal."""


def _handler(owner: Server) -> type[_Http]:
    return type("Handler", (_Http,), {"owner": owner})


def wait_until(holds: Callable[[], bool], seconds: float = 10.0) -> None:
    """Return when `holds()` is true; fail when it does not become so."""
    deadline = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)
