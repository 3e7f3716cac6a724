"""What passes between an engine and whoever asks it: a request, its reply, and what both cost.

Self-Instruct, the judge and generated evaluations all speak in these terms, whatever the engine is.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

KEY = "OPENAI_API_KEY"  # the environment variable that holds the key, its only place
ADDRESS = "OPENAI_BASE_URL"  # the environment variable with the server's address where the config has none


@dataclass(frozen=True)
class Usage:
    """Tokens that were, or at most will be, billed."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def total(self) -> int:
        """Prompt and completion together."""
        return self.prompt_tokens + self.completion_tokens

    def __add__(self, other: "Usage") -> "Usage":
        return Usage(
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True)
class Request:
    """One question to a model.

    Attributes:
        id: the asker's own name for it, unique within one output; the key of ledgers.
        prompt: text to continue; None where `messages` are given.
        messages: a chat, dicts of `role` and `content`; empty where `prompt` is given.
        max_tokens: longest answer in tokens, for each of `choices`.
        temperature, top_p: sampling; temperature 0 is greedy.
        stop: strings that end the answer and are no part of it.
        choices: how many answers are wanted; a server that knows no such thing gives one.
        seed: passed on to engines that take one.
        schema: JSON schema of the answer, for engines with structured output (`local` has none); None is free text.
            An object must require all its properties and allow no others (`additionalProperties: false`).
    """

    id: str
    prompt: str | None = None
    messages: tuple[dict[str, str], ...] = ()
    max_tokens: int = 1024
    temperature: float = 1.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()
    choices: int = 1
    seed: int | None = None
    schema: dict[str, Any] | None = None


@dataclass(frozen=True)
class Answer:
    """One choice: its text and why it ended (`stop`, `length`, `content_filter`, `refusal`, ...)."""

    text: str
    finish_reason: str


@dataclass(frozen=True)
class Reply:
    """The answers to one request.

    Attributes:
        usage: what the server says it billed for the answers that arrived; `Engine.most` where it says nothing.
        lost: the most that attempts without a delivered answer may have been billed (time-outs, broken bodies).
        attempts: requests sent, the successful one included.
        latency_s: seconds from the first attempt to the answer.
        model: the model's name as the server gave it.
    """

    request_id: str
    answers: tuple[Answer, ...]
    usage: Usage
    lost: Usage = field(default_factory=Usage)
    attempts: int = 1
    latency_s: float = 0.0
    model: str = ""


class RequestLost(Exception):
    """No answer after all retries; `lost` is the most it may have been billed. Other requests go on."""

    def __init__(self, request_id: str, reason: str, lost: Usage, attempts: int):
        super().__init__(f"{request_id}: {reason}")
        self.request_id, self.reason, self.lost, self.attempts = request_id, reason, lost, attempts


BeforeRetry = Callable[[Usage], bool]
"""Asked before every attempt after the first, with the most that the attempts so far may have been billed.

Returns whether one more attempt, at `Engine.most(request)`, may be paid for on top; `Budget.allows_retry` is one.
"""

Wanted = Callable[[], bool]
"""Asked right before anything is sent, and from time to time while a request waits for that moment.

Whether the answer is still of use: False after an interrupt, or when the target was reached meanwhile.
"""

NOT_SENT = "not sent: nobody needs its answer any more"


class Engine(Protocol):
    """A source of text. Many `answer` calls run at once; an engine that batches gathers them itself.

    Errors that no retry mends (no key, unknown model, exhausted quota) are raised as `UserError` with one line.
    """

    model: str

    def most(self, request: Request) -> Usage:
        """The most one attempt at `request` can be billed; never below what it will be."""
        ...

    async def answer(
        self, request: Request, *, before_retry: BeforeRetry | None = None, wanted: Wanted | None = None
    ) -> Reply:
        """Ask once, retrying what may pass; raises `RequestLost` or `UserError`.

        No attempt is retried that `before_retry` refuses to pay for, and none is sent that `wanted` does not
        want: the request is lost then. A call that is cancelled may have been billed for the attempt under way.
        """
        ...

    async def close(self) -> None:
        """Give back connections, processes and memory."""
        ...


@dataclass(frozen=True)
class EngineSettings:
    """Which engine and how to reach it; no key is ever here, keys come from the environment.

    Attributes:
        name: openai, openai_batch, local or vllm.
        model: the server's name of the model; for `local` and `vllm` a hub id, folder or package reference.
        base_url: of an OpenAI-compatible server; None is api.openai.com.
        api: chat or completions.
        concurrency: requests in flight at once.
        timeout_s: of one attempt.
        retries: attempts after the first.
        state_dir: where an engine keeps what it needs to go on after a restart (batches under way); None keeps nothing.
        poll_s: between two looks at a batch under way (`openai_batch`).
        leave_out: parameters that are not sent to a server.
        gather_s: how long an engine that batches waits for more requests after the last one came; None is 0.02 s
            for `local` and 2 s for `openai_batch`.
    """

    name: str
    model: str
    base_url: str | None = None
    api: str = "chat"
    concurrency: int = 8
    timeout_s: float = 120.0
    retries: int = 6
    state_dir: str | None = None
    poll_s: float = 30.0
    leave_out: tuple[str, ...] = ()
    gather_s: float | None = None
