"""Files of outputs: AlpacaEval's `model_outputs.json` written and read, and a run's predictions read.

A record has its task (`instruction`, perhaps `input`) or a run's `id`, and `output`. Files that are not
ours are read with `alpaca.data.files`, so damaged ones are named with their line.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca.data import files
from alpaca.errors import UserError
from alpaca.evaluation.answers import Answer
from alpaca.evaluation.judging.pairs import full_instruction
from alpaca.tracking.run_directory import write_text

MODEL_OUTPUTS = "model_outputs.json"
UNNAMED = "alpaca"


@dataclass(frozen=True)
class Output:
    """One record of a file of outputs; `id` is "" in files without ids, `instruction` in files with nothing else."""

    output: str
    id: str = ""
    instruction: str = ""
    input: str = ""
    generator: str = ""


def records_of(path: str, key: str) -> Iterator[files.Record]:
    """The records of a local file, each a JSON object.

    Args:
        key: the setting that names it, for messages.

    Raises:
        UserError: no such file, one that cannot be read, a record that is no object.
    """
    try:
        found = files.locations(path)
    except UserError as error:
        reason = str(error).partition(": ")[2].partition(";")[0]
        raise UserError(f"{key}={path}: {reason}; give a JSON or JSONL file") from None
    for location in found:
        try:
            for record in files.records(location):
                if not isinstance(record.values, dict):
                    raise UserError(f"{key}: {record.where}: {_kind(record.values)} instead of an object with fields")
                yield record
        except UserError as error:
            message = (
                str(error).replace(files.KEY, key).replace("; give records with instruction, input and output", "")
            )
            raise UserError(message if message.startswith(key) else f"{key}: {message}") from None


def text_field(record: files.Record, name: str, key: str, *, default: str | None = None) -> str:
    """A field that must be a text; `default` where it is absent or null, an error where there is no default."""
    value = record.values.get(name)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        what = f"no field {name!r}" if value is None else f"{name} is {_kind(value)}, not a text"
        raise UserError(f"{key}: {record.where}: {what}; it has {', '.join(map(str, record.values)) or 'none'}")
    return value


def read_outputs(path: str, key: str) -> list[Output]:
    """All outputs of a file; records whose output is null are left out.

    Raises:
        UserError: see `records_of`; a record without output, or with neither id nor instruction.
    """
    found = []
    for record in records_of(path, key):
        if "output" in record.values and record.values["output"] is None:
            continue
        given = record.values.get("id")
        known = given if isinstance(given, str) else ""
        found.append(
            Output(
                output=text_field(record, "output", key),
                id=known,
                instruction=text_field(record, "instruction", key, default="" if known else None),
                input=text_field(record, "input", key, default=""),
                generator=text_field(record, "generator", key, default=""),
            )
        )
    return found


def model_outputs(answers: Sequence[Answer]) -> list[dict[str, Any]]:
    """Records of `model_outputs.json`, the input joined to the instruction, as the official tool has them."""
    return [
        {
            "dataset": answer.dataset,
            "instruction": full_instruction(answer.instruction, answer.input),
            "output": answer.output,
            "generator": answer.generator or UNNAMED,
        }
        for answer in answers
    ]


def write_records(file: Path, records: list[dict[str, Any]]) -> None:
    """A JSON list, whole or not at all."""
    write_text(file, json.dumps(records, indent=2, ensure_ascii=False) + "\n")


def _kind(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number")
