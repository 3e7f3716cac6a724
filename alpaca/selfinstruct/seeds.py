"""The seed tasks: what a generation starts from, read with the line of every mistake named."""

import json
from collections.abc import Sequence
from pathlib import Path

from alpaca.data.rows import Row
from alpaca.errors import UserError
from alpaca.selfinstruct.settings import seeds_file

FIELDS = ("instruction", "input", "output")


def load_seeds(seeds: str) -> list[Row]:
    """The seeds of a JSONL file (or `package:` reference) in order; other keys than a row's are ignored.

    Raises:
        UserError: the file is not there, holds nothing, or a line is no task; names file and line.
    """
    file = seeds_file(seeds)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"generation.seeds={seeds}: {error.strerror}; give a JSONL file of tasks") from None
    except UnicodeDecodeError:
        raise UserError(f"generation.seeds={seeds}: not UTF-8; save it as UTF-8") from None
    found = [_seed(line, number, file) for number, line in enumerate(text.split("\n"), 1) if line.strip()]
    if not found:
        raise UserError(f"generation.seeds={seeds}: no tasks in it; give one JSON object a line")
    return found


def short_enough(rows: Sequence[Row], words: int | None) -> list[Row]:
    """The tasks of at most `words` words in all; None is any length."""
    return [row for row in rows if words is None or _words(row) <= words]


def _words(row: Row) -> int:
    return sum(len(text.split()) for text in (row.instruction, row.input, row.output))


def _seed(line: str, number: int, file: Path) -> Row:
    where = f"generation.seeds: {file}, line {number}"
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        reason = getattr(error, "msg", "nested too deeply")
        raise UserError(f"{where}: not JSON ({reason}); write one task on each line") from None
    if not isinstance(record, dict):
        raise UserError(f'{where}: not an object; write {{"instruction": ..., "input": ..., "output": ...}}')
    values = {field: record.get(field, "" if field == "input" else None) for field in FIELDS}
    for field, value in values.items():
        if not isinstance(value, str) or (field != "input" and not value.strip()):
            what = "is missing" if value is None else "is empty" if value == "" else "is no text"
            raise UserError(f"{where}: {field!r} {what}; every seed has an instruction and an output")
    return Row(str(values["instruction"]), str(values["input"]), str(values["output"]), number)
