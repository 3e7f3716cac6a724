"""A record of any shape to a `Row`: column mapping, conversations, and the checks every row passes.

A record either has columns for instruction and output, by our names or through `data_source.columns`,
or a conversation (`conversations.py`): in one column, or TRL's way with the question in `prompt` and
the answer in `completion`. Whatever is not read is counted in `Reading`: columns that hold something,
messages after the first answer, rows marked as not to be learnt.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from alpaca.data.conversations import EMPTY, a_kind, first_exchange, is_conversation, learnt, text_of
from alpaca.data.files import LONGEST_LINE, Record
from alpaca.data.rows import Row
from alpaca.errors import UserError

FIELDS = ("instruction", "input", "output")
MESSAGES, SYSTEM, WEIGHT = "messages", "system", "weight"
MAPPABLE = (*FIELDS, "category", MESSAGES, SYSTEM, WEIGHT)
SYNONYMS = {
    "instruction": ("prompt", "question", "query", "task", "problem", "request", "user", "inputs", "title"),
    "input": ("context", "passage", "document", "article", "source_text"),
    "output": ("response", "answer", "completion", "target", "targets", "reply", "solution", "assistant", "chosen"),
    MESSAGES: ("conversations", "conversation", "dialog", "dialogue", "chat"),
}
PROMPT, COMPLETION = "prompt", "completion"  # a conversation in two columns
MARKS = (WEIGHT, "label", "kto_tag", "train")  # columns that mark a row as not to be learnt
IDENTIFIERS = ("id", "idx", "index", "uuid", "", "unnamed: 0", "__index_level_0__")  # name a row and say nothing of it
LONGEST_END = 20  # characters of what ends a rendered row, such as </s>
NOT_LEARNT = "marked as not to be learnt"


@dataclass
class Reading:
    """The rows of some records, and what was not read.

    Attributes:
        not_learnt: column to number of rows left out because it marks them as not to be learnt.
        unread: column to number of rows in which it holds something that no row keeps.
        cut: conversations with messages after the first answer.
        messages_left: such messages in all of them.
    """

    rows: list[Row] = field(default_factory=list)
    records: int = 0
    not_learnt: Counter[str] = field(default_factory=Counter)
    unread: Counter[str] = field(default_factory=Counter)
    conversations: int = 0
    cut: int = 0
    messages_left: int = 0

    def warnings(self) -> list[str]:
        """What the user should know, one sentence each."""
        said = []
        if self.not_learnt:
            columns = ", ".join(f"{name!r} {count:,}" for name, count in self.not_learnt.items())
            said.append(
                f"rows marked as not to be learnt are left out, by column: {columns}; "
                "'data_source.columns={weight:null}' trains on them too"
            )
        if self.cut:
            said.append(
                f"data_source.turns=first: {self.cut:,} of {self.conversations:,} conversations go on after the first "
                f"answer; messages not trained on: {self.messages_left:,}"
            )
        if self.unread:
            columns = ", ".join(f"{name} ({count:,} of {self.records:,} rows)" for name, count in self.unread.items())
            mend = next((name for name in self.unread if "system" in name.lower()), None)
            way = f"; 'data_source.columns={{system:{mend}}}' puts it before the instruction" if mend else ""
            said.append(f"columns that are not read: {columns}{way}")
        return said


def to_rows(records: Iterable[Record], columns: Mapping[str, str | None], turns: str) -> Reading:
    """All records as validated rows, in order, and what was not read of them.

    Args:
        columns: our field to their column, None for a field that stays empty.
        turns: `single` refuses conversations with messages after the first answer, `first` leaves those out.

    Raises:
        UserError: a record lacks a column, holds something that is no text, or has several turns.
    """
    reading = Reading()
    first_cut = ""
    weight, has_weight = columns.get(WEIGHT), False
    for record in records:
        values = record.values
        if not isinstance(values, dict):
            raise UserError(f"{record.where}: {a_kind(values)} where an object with instruction and output is needed")
        sources = _conversation_columns(values, columns)
        has_weight = has_weight or weight in values
        mark = _not_learnt(values, columns)
        if sources:
            messages = values[sources[0]] if len(sources) == 1 else [*values[sources[0]], *values[sources[1]]]
            exchange = first_exchange(messages, f"{record.where}: {' + '.join(map(repr, sources))}")
            row = Row(exchange.instruction, "", exchange.output, record.line, _category(values, columns))
            read = set(sources)
            reading.conversations += 1
            if exchange.left:
                first_cut = first_cut or record.where
                reading.cut += 1
                reading.messages_left += exchange.left
            if mark is None and columns.get(WEIGHT, WEIGHT) is not None:  # null trains on marked rows too
                mark = exchange.mark
            reading.unread.update(exchange.unread)
        else:
            row, read = _plain(record, columns)
        reading.records += 1
        reading.unread.update(_unread(values, row, read, columns))
        row = _with_system(row, record, columns)
        if mark is not None:
            reading.not_learnt[mark] += 1
        else:
            reading.rows.append(_checked(row, record.where))
    if weight and reading.records and not has_weight:
        raise UserError(_missing(record, WEIGHT, columns))
    if first_cut and turns == "single":
        raise UserError(
            f"{first_cut}: {reading.cut:,} of {reading.conversations:,} conversations have several user turns or other "
            "messages after the first answer; set data_source.turns=first to train on the first of each"
        )
    return reading


def _plain(record: Record, columns: Mapping[str, str | None]) -> tuple[Row, set[str]]:
    """A row from columns of texts, and the columns it was read from."""
    values = record.values
    texts, read = {}, set()
    for name in FIELDS:
        column = columns.get(name, name)
        if column is None:
            texts[name] = ""
        elif column in values:
            texts[name] = text_of(values[column], f"{record.where}: {column!r}", may_be_none=name == "input")
            read.add(column)
        elif name == "input" and name not in columns:
            texts[name] = ""
        else:
            raise UserError(_missing(record, name, columns))
    row = Row(texts["instruction"], texts["input"], texts["output"], record.line, _category(values, columns))
    return row, read


def _with_system(row: Row, record: Record, columns: Mapping[str, str | None]) -> Row:
    """The row with the text of the mapped system column before its instruction."""
    if not (column := columns.get(SYSTEM)):
        return row
    if column not in record.values:
        raise UserError(_missing(record, SYSTEM, columns))
    system = text_of(record.values[column], f"{record.where}: {column!r}", may_be_none=True)
    instruction = f"{system}\n\n{row.instruction}" if system else row.instruction
    return Row(instruction, row.input, row.output, row.line, row.category)


def _not_learnt(values: Mapping[str, Any], columns: Mapping[str, str | None]) -> str | None:
    """The column that marks this record as not to be learnt, if any."""
    return next((name for name in _marks(columns) if _says(name, values.get(name), columns) is False), None)


def _marks(columns: Mapping[str, str | None]) -> tuple[str, ...]:
    if WEIGHT not in columns:
        return MARKS
    return (columns[WEIGHT],) if columns[WEIGHT] else ()  # type: ignore[return-value]


def _says(name: str, value: Any, columns: Mapping[str, str | None]) -> bool | None:
    return learnt(value, numbers=name != "label" or WEIGHT in columns)


def _unread(values: Mapping[str, Any], row: Row, read: set[str], columns: Mapping[str, str | None]) -> list[str]:
    """Columns of a record that hold something of which the row keeps nothing."""
    read = read | {columns.get("category") or "category", columns.get(SYSTEM) or ""}
    marks = _marks(columns)
    return [
        str(name)
        for name, value in values.items()
        if name not in read
        and value not in EMPTY
        and str(name).lower() not in IDENTIFIERS
        and not (name in marks and _says(str(name), value, columns) is not None)
        and not _repeats(value, row)
    ]


def _repeats(value: Any, row: Row) -> bool:
    """Whether a text is a field of the row once more, or the rendered row, which ends with the output."""
    if not isinstance(value, str):
        return False
    if value.strip() in {row.instruction.strip(), row.input.strip(), row.output.strip()}:
        return True
    before, _, after = value.rpartition(row.output or value)
    return bool(row.instruction) and row.instruction in before and len(after) <= LONGEST_END


def _checked(row: Row, where: str) -> Row:
    for name in FIELDS:
        text = getattr(row, name)
        if len(text) > LONGEST_LINE:
            raise UserError(f"{where}: {name!r} has {len(text):,} characters, more than {LONGEST_LINE:,}; shorten it")
        if "\0" in text:
            raise UserError(f"{where}: {name!r} holds \\u0000, a NUL, which no text has; save the text without it")
        if not text.isascii():
            try:
                text.encode()
            except UnicodeEncodeError as error:
                code = f"\\u{ord(text[error.start]):04x}"
                raise UserError(f"{where}: {name!r} holds {code}, half of a character; save the text again") from None
    return row


def _category(values: Mapping[str, Any], columns: Mapping[str, str | None]) -> str:
    category = values.get(columns.get("category", "category") or "")
    return category if isinstance(category, str) else ""


def _missing(record: Record, name: str, columns: Mapping[str, str | None]) -> str:
    has = [str(column) for column in record.values]
    shown = ", ".join(column if len(column) <= 40 else f"{column[:40]}…" for column in has[:20])
    if name in columns:
        return f"{record.where}: data_source.columns.{name}={columns[name]}: no such column; it has {shown}"
    mapping = _suggested(has, columns)
    if mapping:
        listed = ",".join(f"{ours}:{theirs}" for ours, theirs in mapping.items())
        return f"{record.where}: no column {name!r}; try 'data_source.columns={{{listed}}}' (it has {shown})"
    return (
        f"{record.where}: no column {name!r}, it has {shown}; name yours with "
        "'data_source.columns={instruction:THEIRS,output:THEIRS}', and see that a CSV opens with its header"
    )


def _suggested(has: list[str], columns: Mapping[str, str | None]) -> dict[str, str]:
    """A mapping that would make this record a row, from the names people use; empty if there is none."""
    lower = {name.lower(): name for name in has}
    mapping: dict[str, str] = {}
    for name in FIELDS:
        candidates = (name, *SYNONYMS[name])
        if name == "instruction" and "instruction" not in lower and "input" in lower and not mapping:
            candidates = (*candidates, "input")
        match = next(
            (lower[theirs] for theirs in candidates if theirs in lower and lower[theirs] not in mapping.values()), None
        )
        if match is not None:
            mapping[name] = match
    complete = "instruction" in mapping and "output" in mapping
    return {ours: theirs for ours, theirs in mapping.items() if ours != theirs} if complete else {}


def _conversation_columns(values: Mapping[str, Any], columns: Mapping[str, str | None]) -> tuple[str, ...]:
    """The column or columns with a conversation; none if plain columns hold the row."""
    if column := columns.get(MESSAGES):
        return (column,) if column in values else ()
    asked, answered = (columns.get("instruction") or PROMPT, columns.get("output") or COMPLETION)
    if is_conversation(values.get(asked)) and is_conversation(values.get(answered)):
        return asked, answered
    if any(name in columns or values.get(name) not in EMPTY for name in ("instruction", "output")):
        return ()
    found = [name for name in (MESSAGES, *SYNONYMS[MESSAGES]) if isinstance(values.get(name), list)]
    return tuple(found[:1])
