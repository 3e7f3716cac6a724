"""The bodies of OpenAI-compatible servers: a request written as one, and the answers read from one. Pure.

Servers and models differ in what they accept. `Dialect` holds what a 400 has taught about one model: the
limit on the answer's length under its other name, parameters that are left out.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeGuard

from alpaca.engines.exchange import Answer, Request, Usage

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
CHAT_OVERHEAD = 256  # tokens a server may put around the messages of its own: roles, its template, a system prompt
MESSAGE_OVERHEAD = 16
MOST_TOKENS = 10**9  # that one answer may be billed; no server has ever written as many
LEAVABLE = ("temperature", "top_p", "stop", "seed", "n")
_ONE_CHOICE = "one completion choice"  # a refusal of `n` that does not name it
_REFUSALS = (
    "unsupported",
    "not support",
    "unrecognized",
    "unknown parameter",
    "unexpected",
    "not permitted",
    _ONE_CHOICE,
)


Read = tuple[tuple[Answer, ...], Usage, str]  # what a body holds: answers, usage, model


class Malformed(ValueError):
    """A body that is no answer: its text says what is wrong with it."""


@dataclass
class Dialect:
    """What one model does not take; learned once and used for every request after."""

    length_key: str = "max_tokens"
    left_out: set[str] = field(default_factory=set)

    def learn(self, error: Mapping[str, Any], sent: Mapping[str, Any]) -> str | None:
        """Adapt to a 400 that names a parameter the model does not take.

        Args:
            error: the `error` object of the body.
            sent: the request's body that was refused.

        Returns:
            The parameter that is now written otherwise or left out (also when another request taught it
            meanwhile), None where the error is about something else.
        """
        message = str(error.get("message", ""))
        lowered, code = message.lower(), str(error.get("code", ""))
        if not (code.startswith("unsupported") or any(sign in lowered for sign in _REFUSALS)):
            return None
        named = "n" if _ONE_CHOICE in lowered else str(error.get("param") or "")
        for key in ("max_tokens", *LEAVABLE):
            if key not in sent or not (named == key or (not named and f"'{key}'" in message.replace('"', "'"))):
                continue
            if key == "max_tokens" and "messages" not in sent:
                return None  # completions know no other name for it
            if key == "max_tokens":
                self.length_key = "max_completion_tokens"
            else:
                self.left_out.add(key)
            return key
        return None


def body_of(request: Request, *, model: str, api: str, dialect: Dialect) -> dict[str, Any]:
    """The JSON body of a request to `/chat/completions` or `/completions`."""
    body: dict[str, Any] = {"model": model}
    if api == "chat":
        body["messages"] = messages_of(request)
    else:
        body["prompt"] = prompt_text(request)
    body[dialect.length_key if api == "chat" else "max_tokens"] = request.max_tokens
    optional: dict[str, Any] = {"temperature": request.temperature}
    if request.top_p != 1.0:
        optional["top_p"] = request.top_p
    if request.stop:
        optional["stop"] = list(request.stop)
    if request.seed is not None:
        optional["seed"] = request.seed
    body.update({key: value for key, value in optional.items() if key not in dialect.left_out})
    if request.choices > 1 and "n" not in dialect.left_out:
        body["n"] = request.choices
    if request.schema is not None:
        named = {"name": "answer", "schema": request.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    return body


def prompt_text(request: Request) -> str:
    """The request as one text: its prompt, or the contents of its messages joined by blank lines."""
    if request.prompt is not None:
        return sound(request.prompt)
    return sound("\n\n".join(message["content"] for message in request.messages))


def messages_of(request: Request) -> list[dict[str, str]]:
    """The request as a chat: its messages, or its prompt as a user's message."""
    messages = request.messages or ({"role": "user", "content": request.prompt or ""},)
    return [{key: sound(value) for key, value in message.items()} for message in messages]


def sound(text: str) -> str:
    """`text` as it can be written in UTF-8: halves of a surrogate pair that stand alone become U+FFFD.

    JSON can spell such halves, so models do; a file or a request with one in it could not be written.
    """
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def most_of(request: Request) -> Usage:
    """An upper bound of what a server can bill for one attempt, without knowing its tokenizer.

    A token of a byte-level vocabulary stands for at least one byte of UTF-8, so a prompt has at most as
    many tokens as bytes, plus what the server writes around it. The prompt counts once for each choice: a
    server that gives one at a time is asked as often.
    """
    messages = messages_of(request)
    text = sum(len(part.encode("utf-8")) for message in messages for part in message.values())
    schema = len(json.dumps(request.schema)) if request.schema is not None else 0
    around = CHAT_OVERHEAD + MESSAGE_OVERHEAD * len(messages)
    return Usage((text + schema + around) * request.choices, request.max_tokens * request.choices)


def likely_tokens(request: Request) -> int:
    """What rate limiters count for a request: its longest answers, and a token for every four bytes of prompt."""
    most = most_of(request)
    return most.prompt_tokens // (4 * request.choices) + most.completion_tokens


def answers_of(payload: Any, request: Request) -> Read:
    """Answers, usage and model of a response's body; the most where the server gives no usage.

    Raises:
        Malformed: no choices, or choices that are none.
    """
    if not isinstance(payload, dict):
        raise Malformed("the body is no JSON object")
    choices = payload.get("choices")
    if not isinstance(choices, list) or not choices:
        raise Malformed("the body has no choices")
    answers = tuple(_answer(choice, request) for choice in choices)
    asked = replace(request, choices=len(answers))
    return answers, _usage(payload.get("usage"), asked, answers), str(payload.get("model") or "")


def _answer(choice: Any, request: Request) -> Answer:
    if not isinstance(choice, dict):
        raise Malformed("a choice is no JSON object")
    reason = str(choice.get("finish_reason") or "stop")
    message = choice.get("message")
    if message is None and "text" in choice:
        text = choice["text"]
    elif isinstance(message, dict):
        text = message.get("content")
        if not text and message.get("refusal"):
            text, reason = message["refusal"], "refusal"
    else:
        raise Malformed("a choice has no message")
    if text is not None and not isinstance(text, str):
        raise Malformed("a choice's text is no text")
    whole = sound(text or "")
    ended = cut_at_stop(whole, request.stop)  # for a model that takes no stop strings; others have cut there already
    return Answer(ended, "stop" if ended != whole else reason)


def cut_at_stop(text: str, stop: tuple[str, ...]) -> str:
    """The text before the first of the stop strings."""
    ends = [found for mark in stop if mark and (found := text.find(mark)) >= 0]
    return text[: min(ends, default=len(text))]


def _usage(given: Any, request: Request, answers: tuple[Answer, ...]) -> Usage:
    """The server's bill; the most where it has none that can be true.

    A prompt is never of no tokens and neither is a text; a count is a whole number.
    """
    counts = given if isinstance(given, dict) else {}
    prompt, completion, total = (counts.get(f"{kind}_tokens") for kind in ("prompt", "completion", "total"))
    written = any(answer.text for answer in answers)
    if not (_is_count(prompt, least=1) and _is_count(completion, least=int(written))):
        return most_of(request)
    if _is_count(total, least=prompt):  # some servers count reasoning only here
        completion = max(completion, total - prompt)
    return Usage(prompt, completion)


def _is_count(value: Any, *, least: int) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MOST_TOKENS
