"""Rows of a data source: files, a packaged file, a hub data set, or a mix of named sources.

Comes in: the `data_source` section. Goes out: `Source`, every row in order with what identifies the
content and the licence of each part. A malformed row is an error with file, line and field; only rows that
their own file marks as not to be learnt are left out here, counted. The knobs that choose among rows are in
`selection.py`.
"""

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from alpaca import paths
from alpaca.config import DataSourceConfig
from alpaca.data import columns, files, hub
from alpaca.data.files import Record
from alpaca.data.mix import part_settings
from alpaca.data.rows import Row
from alpaca.errors import UserError
from alpaca.signature import GENERATED, HUB_PREFIX, is_generated


@dataclass(frozen=True)
class Part:
    """One origin of rows, for licence and lineage.

    Attributes:
        content_hash: SHA-256 over the text of its rows, whatever the file format.
        revision: commit of a hub data set, else None.
        rows: how many rows it has.
    """

    name: str
    path: Any
    license: str
    license_note: str
    content_hash: str
    rows: int
    revision: str | None = None


@dataclass(frozen=True)
class Source:
    """Rows of one source in order.

    Attributes:
        content_hash: SHA-256 over the text of all rows.
        revision: commit of a hub data set, else None.
        parts: one for each origin; a mix has several, and its rows name theirs in `Row.source`.
        warnings: what the user should know about the content.
        left_out: reason to number of rows that the source itself marks as not to be learnt.
    """

    name: str
    path: Any
    rows: list[Row]
    content_hash: str
    revision: str | None = None
    parts: tuple[Part, ...] = ()
    warnings: tuple[str, ...] = ()
    left_out: Counter[str] = field(default_factory=Counter)


def load(config: DataSourceConfig) -> Source:
    """All rows of the source `config` names.

    Raises:
        UserError: file missing, unreadable, empty or malformed; names file, line and field.
    """
    return _mixed(config) if config.mix else _single(config)


def _single(config: DataSourceConfig) -> Source:
    path, revision = config.path, None
    if isinstance(path, str) and path.startswith(HUB_PREFIX):
        found, revision = hub.records(config)
    elif isinstance(path, str) and path.startswith(paths.PACKAGE_PREFIX):
        found = files.records(str(paths.packaged_file(path, key="data_source.path")))
    elif is_generated(path):
        found = files.records(_generated_file(path))
    else:
        found = _all_files(path)
    reading = columns.to_rows(found, config.columns, config.turns)
    rows, warnings = reading.rows, reading.warnings()
    left_out = Counter({f"{columns.NOT_LEARNT} ({name})": count for name, count in reading.not_learnt.items()})
    if not rows and left_out:
        raise UserError(
            f"data_source.path={path}: all {left_out.total():,} rows are {', '.join(left_out)}; "
            "'data_source.columns={weight:null}' trains on them"
        )
    if not rows:
        raise UserError(f"data_source.path={path}: no rows in it; give a file with at least one record")
    content = content_hash(rows)
    if isinstance(path, str) and config.revision is None and (revision or files.is_url(path)):
        identity = " ".join(filter(None, (path, config.subset, config.split if config.split != "train" else None)))
        if note := hub.change_note(identity, revision, content):
            warnings.append(note)
    part = Part(config.name, path, config.license, config.license_note, content, len(rows), revision)
    return Source(config.name, path, rows, content, revision, (part,), tuple(warnings), left_out)


def _generated_file(path: str) -> str:
    folder = path.removeprefix(GENERATED)
    if not folder:
        raise UserError(
            "data_source=self_instruct: its rows are made by python -m alpaca.run or python -m alpaca.generate; once "
            "they are, data_source.path=generated:DIR names the folder of that generation"
        )
    return str(Path(folder) / "dataset.json")


def _all_files(path: str | list[str]) -> Iterator[Record]:
    for location in files.locations(path):
        yield from files.records(location)


def _mixed(config: DataSourceConfig) -> Source:
    """The rows of every part, one part after another in the order of names."""
    rows: list[Row] = []
    parts: list[Part] = []
    warnings: list[str] = []
    left_out: Counter[str] = Counter()
    for name in sorted(config.mix):
        loaded = _single(part_settings(name, config.sources.get(name, {})))
        rows += [replace(row, source=name) for row in loaded.rows]
        parts += [replace(part, name=name) for part in loaded.parts]
        warnings += [f"{name}: {text}" for text in loaded.warnings]
        left_out += loaded.left_out
    return Source(config.name, None, rows, content_hash(rows), None, tuple(parts), tuple(warnings), left_out)


def content_hash(rows: Sequence[Row]) -> str:
    """SHA-256 over instruction, input and output of each row in order: all text, then all lengths."""
    texts = [text for row in rows for text in (row.instruction, row.input, row.output)]
    digest = hashlib.sha256("".join(texts).encode())
    digest.update(np.fromiter(map(len, texts), dtype=np.int64, count=len(texts)).tobytes())
    return digest.hexdigest()
