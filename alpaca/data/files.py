"""Records from files: JSON, JSONL, CSV or Parquet, plain, .gz or .zst; one file or many, local or any fsspec URL.

Comes in: a path, glob or URL, or a list of them. Goes out: `Record`, a dict with its place for messages.
Nothing is interpreted here beyond the file format; a damaged file is an error that names file and line.
"""

import csv
import glob
import gzip
import hashlib
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from alpaca.errors import UserError

LONGEST_LINE = 10_000_000  # characters of one JSONL line or CSV field: longer is a wrong format, not a row
KEY = "data_source.path"
KINDS = (".json", ".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


@dataclass(frozen=True, slots=True)
class Record:
    """What a file says about one row.

    Attributes:
        values: column to value.
        where: file and line, opens every message about the row.
        line: the line of a JSONL file, else the position in the file, from 1.
    """

    values: Any
    where: str
    line: int


def locations(path: str | list[str]) -> list[str]:
    """The files a `data_source.path` means: globs expanded in sorted order, listed order kept.

    Raises:
        UserError: a file does not exist, or a glob finds none.
    """
    found: list[str] = []
    for one in [path] if isinstance(path, str) else list(path):
        if is_url(one):
            found += _url_locations(one)
            continue
        local = str(Path(one).expanduser())
        matches = [local] if Path(local).is_file() else sorted(name for name in glob.glob(local, recursive=True))
        matches = [name for name in matches if Path(name).is_file()]
        if not matches:
            what = "is a folder; add /*.jsonl or the like" if Path(local).is_dir() else "no such file"
            raise UserError(f"{KEY}={one}: {what}; give JSON, JSONL, CSV or Parquet, or data_source=seed_tasks")
        found += matches
    return found


def is_url(path: str) -> bool:
    """Whether fsspec opens `path`, `s3://...` or a chain such as `simplecache::...`, and not the local file system."""
    if "://" in path:
        return True
    protocol, chain, _ = path.partition("::")
    if not chain or Path(path).expanduser().exists():
        return False
    from fsspec import available_protocols

    return protocol in available_protocols()


def _url_locations(url: str) -> list[str]:
    if not any(mark in url for mark in "*["):
        return [url]
    import fsspec

    try:
        system, inner = fsspec.url_to_fs(url)
        matches = sorted(system.unstrip_protocol(name) for name in system.glob(inner))
    except Exception as error:
        raise _unreachable(url, error) from None
    if not matches:
        raise UserError(f"{KEY}={url}: the pattern finds no file; check the address")
    return matches


def read_bytes(location: str) -> bytes:
    """All bytes of a file or URL.

    Raises:
        UserError: it cannot be read.
    """
    if not is_url(location):
        try:
            return Path(location).read_bytes()
        except OSError as error:
            raise UserError(f"{KEY}={location}: {error.strerror}; make it readable") from None
    import fsspec

    try:
        with fsspec.open(location, "rb", compression=None) as stream:
            return bytes(stream.read())
    except Exception as error:
        raise _unreachable(location, error) from None


@lru_cache(maxsize=64)
def url_hash(url: str) -> str:
    """SHA-256 of the bytes behind a URL, fetched once in a process."""
    return hashlib.sha256(read_bytes(url)).hexdigest()


def _unreachable(url: str, error: Exception) -> UserError:
    reason = next(iter(str(error).splitlines()), "")[:160]
    return UserError(f"{KEY}={url}: could not be read ({type(error).__name__}: {reason}); check address and access")


def records(location: str) -> Iterator[Record]:
    """The records of one file, in order.

    Raises:
        UserError: the file is empty, damaged, not UTF-8, or not of the kind its name says.
    """
    name = location
    packed = read_bytes(location)
    _refuse_other_content(packed, location)  # a pointer in place of an archive is not compressed
    raw = _unpacked(packed, location)
    while (suffix := Path(name).suffix.lower()) in (".gz", ".zst", ".zstd"):
        name = name[: -len(suffix)]
    if not raw.strip():
        raise UserError(f"{location}: the file is empty; give records with instruction, input and output")
    _refuse_other_content(raw, location)
    if suffix == ".parquet" or raw[:4] == b"PAR1":
        return _parquet(raw, location)
    text = _decoded(raw, location)
    if suffix in (".csv", ".tsv"):
        return _csv(text, location, "\t" if suffix == ".tsv" else ",")
    return _json(text, location)


def _refuse_other_content(raw: bytes, location: str) -> None:
    """A file that is no data at all but what a download left in its place.

    Raises:
        UserError: a Git LFS pointer, a web page, an archive.
    """
    start = raw[:200].lstrip().lower()
    if start.startswith(b"version https://git-lfs"):
        raise UserError(f"{location}: a Git LFS pointer, not the data itself; fetch that with `git lfs pull`")
    if start.startswith((b"<!doctype html", b"<html")):
        raise UserError(f"{location}: a web page, not data; download the file itself (its raw or resolve address)")
    if raw[:4] == b"PK\x03\x04":
        raise UserError(f"{location}: a ZIP archive or spreadsheet; unpack it, or save it as CSV")


def _unpacked(raw: bytes, location: str) -> bytes:
    """Decompressed by what the bytes are, not by what the name says."""
    try:
        if raw[:2] == b"\x1f\x8b":
            return gzip.decompress(raw)
        if raw[:4] == b"\x28\xb5\x2f\xfd":
            return _unpacked_zst(raw)
    except (EOFError, zlib.error, gzip.BadGzipFile, ValueError) as error:
        raise UserError(f"{location}: the compressed data is damaged or cut short ({error}); copy it again") from None
    if location.endswith((".gz", ".zst")) and raw:
        raise UserError(f"{location}: not compressed as its name says; rename it or copy it again")
    return raw


def _unpacked_zst(raw: bytes) -> bytes:
    import zstandard

    parts = []
    while raw:
        frame = zstandard.ZstdDecompressor().decompressobj()
        try:
            parts.append(frame.decompress(raw))
        except zstandard.ZstdError as error:
            raise ValueError(str(error)) from None
        if not frame.eof:
            raise ValueError("the last frame does not end")
        raw = frame.unused_data
    return b"".join(parts)


def _decoded(raw: bytes, location: str) -> str:
    if (zero := raw.find(b"\0")) >= 0:
        line = raw[:zero].count(b"\n") + 1
        raise UserError(
            f"{location}, line {line}: a NUL byte, so this is no UTF-8 text; save it as UTF-8 or copy again"
        )
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise UserError(f"{location}, line {line}: not UTF-8 (byte {raw[error.start]:#x}); save it as UTF-8") from None


def _json(text: str, location: str) -> Iterator[Record]:
    start = text[:1000].lstrip()[:1]
    if start == "[" and not _starts_with_line_of_json(text):
        yield from _json_list(text, location)
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{location}, line {number}"
        if len(line) > LONGEST_LINE:
            raise UserError(
                f"{where}: {len(line):,} characters on one line, more than the {LONGEST_LINE:,} a row may have; "
                "write one record on each line"
            )
        try:
            record = json.loads(line)
        except RecursionError:
            raise UserError(f"{where}: nested too deeply to be a row; write flat records") from None
        except ValueError as error:
            if number == 1 and start == "{" and _is_whole(text):
                raise UserError(f"{location}: {_one_object(json.loads(text))}") from None
            reason = getattr(error, "msg", str(error))
            raise UserError(f"{where}: not JSON ({reason}); write one record on each line") from None
        if number == 1 and isinstance(record, dict) and _is_table(record):
            raise UserError(f"{location}: {_one_object(record)}")
        yield Record(record, where, number)


def _is_table(record: dict[str, Any]) -> bool:
    """Whether an object holds columns, or a list of rows under one name, instead of one row."""
    values = list(record.values())
    if len(values) == 1 and isinstance(values[0], list):
        rows = values[0]
        return bool(rows) and all(isinstance(row, dict) and not {"role", "from"} & row.keys() for row in rows)
    columns = [list(value.values()) if isinstance(value, dict) else value for value in values]
    texts = all(isinstance(column, list) and all(isinstance(text, str) for text in column) for column in columns)
    return texts and "instruction" in record and len({len(column) for column in columns}) == 1


def _one_object(record: dict[str, Any]) -> str:
    """What to do about a file that is one object, in one line."""
    if not _is_table(record):
        return "one JSON object over many lines; give a list [...] or JSONL"
    if len(record) == 1:
        return f"the rows stand under {next(iter(record))!r}; give the list [...] itself, or JSONL"
    return "one JSON object of columns, as pandas writes it; write rows: to_json(FILE, orient='records', lines=True)"


def _starts_with_line_of_json(text: str) -> bool:
    """A JSONL file whose records are lists also opens with a bracket: its first line is whole and not the last."""
    first, _, rest = text.partition("\n")
    return bool(rest.strip()) and first.rstrip().endswith("]") and len(first) < LONGEST_LINE and _is_whole(first)


def _is_whole(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


def _json_list(text: str, location: str) -> Iterator[Record]:
    try:
        listed = json.loads(text)
    except RecursionError:
        raise UserError(f"{location}: nested too deeply to be rows; write flat records") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{location}, line {error.lineno}: not JSON ({error.msg}); mend that line") from None
    except ValueError as error:
        raise UserError(f"{location}: not JSON ({error}); mend it") from None
    for number, record in enumerate(listed, 1):
        yield Record(record, f"{location}, row {number}", number)


def _csv(text: str, location: str, delimiter: str) -> Iterator[Record]:
    previous = csv.field_size_limit(LONGEST_LINE)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    try:
        header = next(reader, [])
        spaced = len(header) > 1 and all(name.startswith(" ") for name in header[1:])  # `a, b`: the space is no text
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True, skipinitialspace=spaced)
        header = [name.strip() for name in next(reader, [])]
        # pandas writes its index as a first column without a name
        if len(set(header)) < len(header) or not all(header[1:]) or header in ([], [""]):
            raise UserError(f"{location}, line 1: {header} is no header; the first line must name each column once")
        number = 0
        for values in reader:
            if not values:
                continue
            number += 1
            where = f"{location}, row {number}"
            if len(values) != len(header):
                raise UserError(
                    f"{where}: {len(values)} fields where the header has {len(header)}; quote texts that hold a "
                    f"{'tab' if delimiter == chr(9) else 'comma'} or a line end"
                )
            yield Record(dict(zip(header, values, strict=True)), where, number)
    except csv.Error as error:
        raise UserError(f"{location}, line {reader.line_num}: not CSV ({error}); mend that line") from None
    finally:
        csv.field_size_limit(previous)


def _parquet(raw: bytes, location: str) -> Iterator[Record]:
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(io.BytesIO(raw))
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), "")[:160]
        raise UserError(f"{location}: not readable as Parquet ({reason}); copy it again") from None
    number = 0
    for batch in table.to_batches(max_chunksize=4096):
        for values in batch.to_pylist():
            number += 1
            yield Record(values, f"{location}, row {number}", number)
