"""The answers of OpenAI-compatible servers read, and requests as texts. Pure.

Servers agree on the outline only. Read are: a message, or a text; content as a text or a list of parts, thinking
beside it left out; reasons to end in the words of any vendor; an error in place of an answer, in the body or a choice.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, TypeGuard

from alpaca.engines.content import without_thinking
from alpaca.engines.exchange import Answer, Request, Usage
from alpaca.engines.server_errors import ErrorInBody, error_in

PATHS = {"chat": "/chat/completions", "completions": "/completions"}
CHAT_OVERHEAD = 256  # tokens a server may put around the messages of its own: roles, its template, a system prompt
MESSAGE_OVERHEAD = 16
MOST_TOKENS = 10**9  # that one answer may be billed; no server has ever written as many
STOP, LENGTH, FILTER, REFUSAL, TOOLS = "stop", "length", "content_filter", "refusal", "tool_calls"
_ENDINGS = (  # the first that matches a reason in small letters
    (LENGTH, re.compile(r"length|max|limit|window|context|truncat|incomplete")),
    (
        FILTER,
        re.compile(r"filter|safety|recitation|blocked|block_?list|prohibited|spii|guardrail|moderat|policy|sensitive"),
    ),
    (REFUSAL, re.compile(r"refus")),
    (TOOLS, re.compile(r"tool|function")),
    (STOP, re.compile(r"stop|eos|^end|complete|finish_?ed|done|^finish$")),
)
_OTHER_ENDS = re.compile(r"error|abort|cancel|unspecified|unknown|time_?out|unfinished|insufficient|interrupt")

Read = tuple[tuple[Answer, ...], Usage, str]  # what a body holds: answers, usage, model


class Malformed(ValueError):
    """A body that is no answer: its text says what is wrong with it."""


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

    Choices with an error beside others are left out.

    Raises:
        Malformed: no choices, or choices that are none.
        ErrorInBody: an error in place of the answer.
    """
    if not isinstance(payload, dict):
        if (error := error_in(payload)) is not None:
            raise ErrorInBody(error)
        raise Malformed("the body is no JSON object")
    choices = payload.get("choices")
    if (payload.get("error") or not choices) and (error := error_in(payload)) is not None:
        raise ErrorInBody(error)
    if not isinstance(choices, list) or not choices:
        raise Malformed("the body has no choices")
    errors = [choice["error"] for choice in choices if isinstance(choice, dict) and choice.get("error")]
    if len(errors) == len(choices):
        raise ErrorInBody(error_in({"error": errors[0]}) or {}, billed=True)
    answers = tuple(_answer(one, request) for one in choices if not (isinstance(one, dict) and one.get("error")))
    asked = replace(request, choices=len(answers))
    return answers, _usage(payload.get("usage"), asked, answers), str(payload.get("model") or "")


def ending(reason: Any) -> str:
    """Why an answer ended, in one vocabulary: stop, length, content_filter, refusal, tool_calls, or the server's word.

    A missing reason is `stop`.
    """
    word = re.sub(r"[^a-z0-9]+", "_", str(reason or STOP).lower()).strip("_")
    if _OTHER_ENDS.search(word):
        return word
    return next((name for name, pattern in _ENDINGS if pattern.search(word)), word)


def is_whole(reason: str) -> bool:
    """Whether an answer that ended so has its end: not cut by a limit or a filter, nor for a reason nobody knows."""
    return ending(reason) in (STOP, REFUSAL, TOOLS)


def emptiness(answers: tuple[Answer, ...]) -> str | None:
    """What answers without any text are, in words that name the way out; None where one has text."""
    texts = [without_thinking(answer.text) for answer in answers]
    if any(text.strip() for text, _ in texts):
        return None
    if any(unclosed for _, unclosed in texts):
        return _EMPTY[LENGTH]
    return _EMPTY.get(ending(answers[0].finish_reason) if answers else "", "an empty text; try another model or prompt")


_EMPTY = {
    LENGTH: "no text before max_tokens was used up, as by thinking; raise max_tokens, or serve it without thinking",
    FILTER: "nothing but the note of a content filter; change the prompt or the seeds, or ask another server",
    TOOLS: "a tool call in place of a text; serve the model without tools",
}


def _answer(choice: Any, request: Request) -> Answer:
    if not isinstance(choice, dict):
        raise Malformed("a choice is no JSON object")
    reason = ending(choice.get("finish_reason"))
    message = choice.get("message")
    if message is None and "text" in choice:
        text = _text_of(choice["text"])
    elif isinstance(message, dict):
        text = _text_of(message.get("content"))
        refused = message.get("refusal") or _text_of(message.get("content"), kind="refusal")
        if not text and isinstance(refused, str) and refused:
            text, reason = refused, REFUSAL
        if not text and reason == STOP and (message.get("tool_calls") or message.get("function_call")):
            reason = TOOLS
    else:
        raise Malformed("a choice has no message")
    whole = sound(text)
    ended = cut_at_stop(whole, request.stop)  # for a model that takes no stop strings; others have cut there already
    return Answer(ended, STOP if ended != whole else reason)


def _text_of(content: Any, *, kind: str = "text") -> str:
    """A text, or the texts of a list of parts; parts of another kind (thinking, images) are left out."""
    if content is None:
        return ""
    if isinstance(content, str):
        return content if kind == "text" else ""
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, list):
        raise Malformed("a choice's text is no text")
    parts = []
    for part in content:
        if isinstance(part, str):
            part = {"text": part}
        if not isinstance(part, Mapping):
            raise Malformed("a choice's text is no text")
        text = part.get("refusal" if kind == "refusal" else "text")
        named = str(part.get("type", kind)).lower().removeprefix("output_")
        if isinstance(text, str) and named == kind and not part.get("thought"):
            parts.append(text)
    return "".join(parts)


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
