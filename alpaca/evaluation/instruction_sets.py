"""Instruction sets that models are asked: shipped tasks, well-known sets fetched from where they live, own files.

What is not ours is never shipped: it is fetched once into the cache folder, or read from a local copy. Records
may be ours (instruction, input, output), Self-Instruct's (`instances`), Vicuna's (`turns` or `text`) or
AlpacaEval's; all become rows.
"""

import json
import os
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca import paths
from alpaca.config import GenerateConfig
from alpaca.data import files
from alpaca.data.rows import Row, example_id
from alpaca.data.split import split
from alpaca.errors import UserError
from alpaca.tracking.run_directory import write_text

HELD_OUT, SEED_HOLDOUT, FILE = "held_out", "seed_holdout", "file"
SEED_TASKS = "package:alpaca.data/seed_tasks.jsonl"
SEED_HOLDOUT_ROWS = 32
FETCH_TIMEOUT_S = 30
KEY = "evaluation.generate"


@dataclass(frozen=True)
class Published:
    """A set that is fetched: where it is, under which name it is kept, and how many tasks it has."""

    address: str
    file: str
    tasks: int


PUBLISHED = {
    "user_252": Published(
        "https://raw.githubusercontent.com/yizhongw/self-instruct/main/human_eval/user_oriented_instructions.jsonl",
        "user_oriented_instructions.jsonl",
        252,
    ),
    "vicuna_80": Published(
        "https://raw.githubusercontent.com/lm-sys/FastChat/main/fastchat/llm_judge/data/vicuna_bench/question.jsonl",
        "question.jsonl",
        80,
    ),
    "alpaca_eval_805": Published(
        "{hub}/datasets/tatsu-lab/alpaca_eval/resolve/main/alpaca_eval.json",
        "alpaca_eval.json",
        805,
    ),
}


@dataclass(frozen=True)
class Instructions:
    """Tasks to ask, each id once; `warnings` are sentences for the user. A row's output is its reference or ""."""

    name: str
    rows: list[Row]
    warnings: tuple[str, ...] = ()


def load(settings: GenerateConfig, held_out: list[Row] | None) -> Instructions:
    """The tasks of the chosen set.

    Args:
        held_out: the run's own held-out rows, for instructions=held_out; None where there are none.

    Raises:
        UserError: no network for a set that is fetched, a file without tasks, no held-out rows.
    """
    name, warnings = settings.instructions, []
    if name == HELD_OUT:
        if not held_out:
            raise UserError(
                f"{KEY}.instructions=held_out: there are no held-out rows here; choose seed_holdout, or "
                "file with evaluation.generate.path=FILE"
            )
        rows = list(held_out)
    elif name == SEED_HOLDOUT:
        rows = seed_holdout()
    else:
        path = settings.path or str(fetched(name))
        rows = list(rows_of(path))
        if name in PUBLISHED and len(rows) != PUBLISHED[name].tasks:
            warnings.append(
                f"{KEY}.instructions={name}: {path} has {len(rows)} tasks, the published set has "
                f"{PUBLISHED[name].tasks}; scores do not compare with published ones"
            )
    distinct = list({example_id(row): row for row in reversed(rows)}.values())[::-1]
    if len(distinct) < len(rows):
        warnings.append(f"{KEY}.instructions={name}: {len(rows) - len(distinct)} repeated tasks are asked once")
    return Instructions(name, distinct[: settings.rows], tuple(warnings))


def seed_holdout() -> list[Row]:
    """The seed tasks that every run over them with train.eval_rows=32 or more holds out."""
    return split(list(rows_of(str(paths.packaged_file(SEED_TASKS, key=KEY)))), SEED_HOLDOUT_ROWS).held_out


def fetched(name: str) -> Path:
    """The file of a published set, from the cache or fetched into it.

    Raises:
        UserError: it cannot be fetched.
    """
    published = PUBLISHED[name]
    file = paths.cache_dir() / "instruction_sets" / name / published.file
    if file.is_file():
        return file
    address = published.address.replace("{hub}", os.environ.get("HF_ENDPOINT", "https://huggingface.co"))
    try:
        with urllib.request.urlopen(address, timeout=FETCH_TIMEOUT_S) as reply:
            text = reply.read().decode()
    except (OSError, ValueError, urllib.error.URLError) as error:
        reason = getattr(error, "reason", None) or error
        raise UserError(
            f"{KEY}.instructions={name}: {address} could not be fetched ({reason}); give a local copy with "
            f"evaluation.generate.path=FILE, or choose seed_holdout"
        ) from None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text(file, text)
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; set ALPACA_CACHE to a folder that can be written") from None
    return file


def rows_of(path: str) -> Iterator[Row]:
    """The tasks of a file in any of the known forms.

    Raises:
        UserError: no file, or a record without an instruction; names file and line.
    """
    local = Path(path).expanduser()
    if not local.is_file():
        raise UserError(f"{KEY}.path={path}: no such file; give JSON, JSONL, CSV or Parquet with instructions")
    for record in files.records(str(local)):
        values = record.values
        if not isinstance(values, dict):
            raise UserError(f"{record.where}: not an object with an instruction")
        instance = _first(values.get("instances"))
        instruction = next(
            (values[key] for key in ("instruction", "text", "prompt", "question") if values.get(key)), None
        )
        instruction = instruction if instruction is not None else _first(values.get("turns"))
        if not isinstance(instruction, str) or not instruction.strip():
            has = ", ".join(str(key) for key in list(values)[:12]) or "nothing"
            raise UserError(f"{record.where}: no instruction in it (it has {has}); name that column `instruction`")
        source = instance if isinstance(instance, dict) else values
        yield Row(
            instruction,
            _text(source.get("input")),
            _text(source.get("output")) or _text(values.get("reference")),
            record.line,
            next((_text(values[key]) for key in ("category", "dataset", "motivation_app") if values.get(key)), ""),
        )


def _first(value: Any) -> Any:
    return value[0] if isinstance(value, list) and value else None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else json.dumps(value)
