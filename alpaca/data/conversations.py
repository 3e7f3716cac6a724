"""A conversation to its first exchange: what the user asks and what the assistant answers.

A conversation is a list of messages: role and content (OpenAI), from and value (ShareGPT), or texts that
take turns. Content is a text or a list of text parts. System messages before the user's text go in front
of it, a blank line between them. What a row has no place for, such as later messages, is counted, never lost
silently.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from alpaca.errors import UserError

_USER, _ASSISTANT, _SYSTEM = "user", "assistant", "system"
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), _USER),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt"), _ASSISTANT),
    **dict.fromkeys(("system", "developer"), _SYSTEM),
}
EMPTY: tuple[Any, ...] = (None, "", [], {})  # a field that holds nothing
_ROLE, _CONTENT = ("role", "from"), ("content", "value")
# Fields of a message that say whether its answer is to be learnt, as fine-tuning services and trainers name them.
_MARKS = ("weight", "train", "training", "trainable", "loss")
_TEXT_PARTS = ("text", "input_text", "output_text")


@dataclass(frozen=True)
class Exchange:
    """The first question and answer of a conversation.

    Attributes:
        left: messages that are no part of it.
        mark: the field that marks the answer as one not to learn, None if it is learnt.
        unread: fields of the two messages that hold something and were not read.
    """

    instruction: str
    output: str
    left: int
    mark: str | None
    unread: tuple[str, ...]


def first_exchange(messages: Any, where: str) -> Exchange:
    """The first exchange of a conversation.

    Raises:
        UserError: it is no list of messages, a message has no text or an unknown role, or it does not
            begin with a user's message and an assistant's answer.
    """
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where} is {'empty' if messages == [] else a_kind(messages)}, not a list of messages")
    roles: list[str] = []
    for number, message in enumerate(messages, 1):  # later messages may have any role, such as a tool's
        roles.append(_role(message, number, f"{where}, message {number}"))
        if roles[-1] == _ASSISTANT:
            break
    start = next((index for index, role in enumerate(roles) if role != _SYSTEM), len(roles))
    if roles[start:] != [_USER, _ASSISTANT]:
        order = ", ".join(roles[start : start + 4]) or "nothing"
        raise UserError(f"{where}: {order} where a user's message and an assistant's answer are needed; leave it out")
    read = messages[: start + 2]
    texts = [_content(message, f"{where}, message {number}") for number, message in enumerate(read, 1)]
    answer = read[-1]
    return Exchange(
        instruction="\n\n".join(texts[:-1]),
        output=texts[-1],
        left=len(messages) - len(read),
        mark=next((f"message.{name}" for name in _MARKS if _value(answer, name) is False), None),
        unread=tuple(dict.fromkeys(name for message in read for name in _unread(message))),
    )


def learnt(value: Any, *, numbers: bool = True) -> bool | None:
    """What a mark says: True if the answer is to be learnt, False if not (false, or a weight of 0), None if neither.

    Without `numbers` only true and false are marks: a number may be the class of a row.
    """
    text = str(value).strip().lower()  # a CSV has texts only
    if text in ("true", "false"):
        return text == "true"
    try:
        weight = float(text) if numbers else None
    except ValueError:
        return None
    if weight == 1:
        return True
    return False if weight is not None and weight <= 0 else None


def is_conversation(value: Any) -> bool:
    """Whether a value is a list of messages, each with a role and a content."""
    return isinstance(value, list) and bool(value) and all(_is_message(message) for message in value)


def a_kind(value: Any) -> str:
    """What a value of JSON is called, with its article."""
    names = {
        dict: "an object",
        list: "a list",
        bool: "a truth value",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    return names.get(type(value), f"a {type(value).__name__}")


def text_of(value: Any, where: str, *, may_be_none: bool = False) -> str:
    """A text, or the texts of a list of parts joined.

    Raises:
        UserError: it is something else, or a part is an image, a sound or the like.
    """
    if isinstance(value, str):
        return value
    if value is None and may_be_none:
        return ""
    if is_conversation(value):
        raise UserError(f"{where} is a conversation, not text; 'data_source.columns={{messages:COLUMN}}' reads one")
    if isinstance(value, list) and value and all(isinstance(part, Mapping) for part in value):
        return "".join(_part(part, where) for part in value)
    way_out = "leave the row out" if value is None else "put it in quotes"
    if isinstance(value, (dict, list)):
        way_out = "map another column with data_source.columns"
    raise UserError(f"{where} is {a_kind(value)}, not text; {way_out}")


def _part(part: Mapping[str, Any], where: str) -> str:
    kind = part.get("type", "text")
    if kind in _TEXT_PARTS and isinstance(part.get("text"), str):
        return str(part["text"])
    raise UserError(f"{where} holds a part of type {kind!r}; only text is trained on, leave the row out")


def _is_message(message: Any) -> bool:
    return (
        isinstance(message, Mapping)
        and any(name in message for name in _ROLE)
        and any(name in message for name in _CONTENT)
    )


def _role(message: Any, number: int, where: str) -> str:
    if isinstance(message, str):
        return _USER if number % 2 else _ASSISTANT
    if not isinstance(message, Mapping):
        raise UserError(f"{where} is {a_kind(message)}, not role and content")
    name = next((message[field] for field in _ROLE if field in message), None)
    role = ROLES.get(str(name).lower())
    if role is None:
        raise UserError(f"{where}: role {name!r} is not known; user, assistant and system are; leave the row out")
    return role


def _content(message: Any, where: str) -> str:
    if isinstance(message, str):
        return message
    return text_of(next((message[field] for field in _CONTENT if field in message), None), where)


def _value(message: Any, mark: str) -> bool | None:
    return learnt(message.get(mark)) if isinstance(message, Mapping) else None


def _unread(message: Any) -> list[str]:
    """Fields that hold something beside role, content and marks."""
    if isinstance(message, str):
        return []
    read = {*_ROLE, *_CONTENT, *_MARKS}
    return [f"message.{name}" for name, value in message.items() if name not in read and value not in EMPTY]
