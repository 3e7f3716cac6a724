"""A record of any shape to a `Row`: column mapping, conversations, and the checks every row passes.

A record either has columns for instruction and output, by our names or through `data_source.columns`,
or one column with a conversation: `messages` of role and content, ShareGPT's `conversations` of from
and value, or a list of texts that take turns. A conversation's system message stands before the
user's text in the instruction, a blank line between them, so that nothing is lost.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from alpaca.data.files import LONGEST_LINE, Record
from alpaca.data.rows import Row
from alpaca.errors import UserError

FIELDS = ("instruction", "input", "output")
MESSAGES = "messages"
MAPPABLE = (*FIELDS, "category", MESSAGES)
SYNONYMS = {
    "instruction": ("prompt", "question", "query", "task", "problem", "request", "user", "inputs", "title"),
    "input": ("context", "passage", "document", "article", "source_text"),
    "output": ("response", "answer", "completion", "target", "targets", "reply", "solution", "assistant", "chosen"),
    MESSAGES: ("conversations", "conversation", "dialog", "dialogue", "chat"),
}
_USER, _ASSISTANT, _SYSTEM = "user", "assistant", "system"
ROLES = {
    **dict.fromkeys(("user", "human", "prompter"), _USER),
    **dict.fromkeys(("assistant", "gpt", "bot", "model", "chatgpt"), _ASSISTANT),
    "system": _SYSTEM,
}


@dataclass(frozen=True)
class _Turns:
    """A conversation's first exchange and how many user turns there are."""

    instruction: str
    output: str
    users: int


def to_rows(records: Iterable[Record], columns: Mapping[str, str | None], turns: str) -> list[Row]:
    """All records as validated rows, in order.

    Args:
        columns: our field to their column, None for a field that stays empty.
        turns: `single` refuses conversations with several user turns, `first` takes their first.

    Raises:
        UserError: a record lacks a column, holds something that is no text, or has several user turns.
    """
    rows: list[Row] = []
    several: list[str] = []
    for record in records:
        values = record.values
        if not isinstance(values, dict):
            raise UserError(f"{record.where}: a {_kind(values)} where an object with instruction and output is needed")
        conversation = _conversation_column(values, columns)
        if conversation is None:
            rows.append(_plain(record, columns))
            continue
        found = _turns(values[conversation], f"{record.where}: {conversation!r}")
        if found.users > 1:
            several.append(record.where)
        category = _category(values, columns)
        rows.append(_checked(Row(found.instruction, "", found.output, record.line, category), record.where))
    if several and turns == "single":
        raise UserError(
            f"{several[0]}: {len(several):,} of {len(rows):,} conversations have several user turns, a row has one; "
            "set data_source.turns=first to train on the first turn of each"
        )
    return rows


def _plain(record: Record, columns: Mapping[str, str | None]) -> Row:
    values = record.values
    texts = {}
    for field in FIELDS:
        column = columns.get(field, field)
        if column is None:
            texts[field] = ""
        elif column in values:
            texts[field] = _text(values[column], f"{record.where}: {column!r}", may_be_none=field == "input")
        elif field == "input" and field not in columns:
            texts[field] = ""
        else:
            raise UserError(_missing(record, field, columns))
    row = Row(texts["instruction"], texts["input"], texts["output"], record.line, _category(values, columns))
    return _checked(row, record.where)


def _text(value: Any, where: str, *, may_be_none: bool = False) -> str:
    if isinstance(value, str):
        return value
    if value is None and may_be_none:
        return ""
    way_out = "map another column with data_source.columns" if isinstance(value, (dict, list)) else "put it in quotes"
    raise UserError(f"{where} is a {_kind(value)}, not text; {way_out}")


def _checked(row: Row, where: str) -> Row:
    for field in FIELDS:
        text = getattr(row, field)
        if len(text) > LONGEST_LINE:
            raise UserError(f"{where}: {field!r} has {len(text):,} characters, more than {LONGEST_LINE:,}; shorten it")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                code = f"\\u{ord(text[error.start]):04x}"
                raise UserError(f"{where}: {field!r} holds {code}, half of a character; save the text again") from None
    return row


def _category(values: Mapping[str, Any], columns: Mapping[str, str | None]) -> str:
    category = values.get(columns.get("category", "category") or "")
    return category if isinstance(category, str) else ""


def _missing(record: Record, field: str, columns: Mapping[str, str | None]) -> str:
    has = [str(name) for name in record.values]
    shown = ", ".join(name if len(name) <= 40 else f"{name[:40]}…" for name in has[:20])
    if field in columns:
        return f"{record.where}: data_source.columns.{field}={columns[field]}: no such column; it has {shown}"
    mapping = _suggested(has, columns)
    if mapping:
        listed = ",".join(f"{ours}:{theirs}" for ours, theirs in mapping.items())
        return f"{record.where}: no column {field!r}; try 'data_source.columns={{{listed}}}' (it has {shown})"
    return (
        f"{record.where}: no column {field!r}, it has {shown}; name yours with "
        "'data_source.columns={instruction:THEIRS,output:THEIRS}', and see that a CSV opens with its header"
    )


def _suggested(has: list[str], columns: Mapping[str, str | None]) -> dict[str, str]:
    """A mapping that would make this record a row, from the names people use; empty if there is none."""
    lower = {name.lower(): name for name in has}
    mapping: dict[str, str] = {}
    for field in FIELDS:
        candidates = (field, *SYNONYMS[field])
        if field == "instruction" and "instruction" not in lower and "input" in lower and not mapping:
            candidates = (*candidates, "input")
        match = next(
            (lower[name] for name in candidates if name in lower and lower[name] not in mapping.values()), None
        )
        if match is not None:
            mapping[field] = match
    complete = "instruction" in mapping and "output" in mapping
    return {ours: theirs for ours, theirs in mapping.items() if ours != theirs} if complete else {}


def _conversation_column(values: Mapping[str, Any], columns: Mapping[str, str | None]) -> str | None:
    """The column with a conversation, unless the record has plain columns."""
    if columns.get(MESSAGES):
        return columns[MESSAGES] if columns[MESSAGES] in values else None
    if any(field in columns for field in ("instruction", "output")) or "instruction" in values or "output" in values:
        return None
    return next((name for name in (MESSAGES, *SYNONYMS[MESSAGES]) if isinstance(values.get(name), list)), None)


def _turns(messages: Any, where: str) -> _Turns:
    if not isinstance(messages, list) or not messages:
        raise UserError(f"{where} is {'empty' if messages == [] else f'a {_kind(messages)}'}, not a list of messages")
    system: list[str] = []
    said: list[tuple[str, str]] = []
    for number, message in enumerate(messages, 1):
        role, text = _message(message, number, f"{where}, message {number}")
        (system.append(text) if role == _SYSTEM else said.append((role, text)))
    users = sum(role == _USER for role, _ in said)
    if [role for role, _ in said[:2]] != [_USER, _ASSISTANT]:
        order = ", ".join(role for role, _ in said[:4]) or "nothing"
        raise UserError(f"{where}: {order} where a user's message and an assistant's answer are needed; leave it out")
    return _Turns("\n\n".join([*system, said[0][1]]), said[1][1], users)


def _message(message: Any, number: int, where: str) -> tuple[str, str]:
    if isinstance(message, str):
        return (_USER if number % 2 else _ASSISTANT), message
    if not isinstance(message, dict):
        raise UserError(f"{where} is a {_kind(message)}, not role and content")
    name = message.get("role", message.get("from"))
    role = ROLES.get(str(name).lower())
    if role is None:
        raise UserError(f"{where}: role {name!r} is not known; user, assistant and system are; leave the row out")
    return role, _text(message.get("content", message.get("value")), where)


def _kind(value: Any) -> str:
    names = {dict: "object", list: "list", bool: "truth value", int: "number", float: "number", type(None): "null"}
    return names.get(type(value), type(value).__name__)
