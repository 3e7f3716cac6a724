"""The files of the Batch API: requests as lines of JSON, cut into files that fit, and the lines that come back."""

import asyncio
import json
from collections.abc import Iterable, Iterator
from typing import Any

from alpaca.engines.batch_journal import Record

MOST_REQUESTS = 50_000
MOST_BYTES = 200_000_000

Lines = dict[str, dict[str, Any]]  # of a batch's output and error files, by digest
Asked = tuple[str, str, bytes, "asyncio.Future[Record]"]  # digest, request id, JSONL line, the batch it goes into


def line_of(digest: str, url: str, body: dict[str, Any]) -> bytes:
    """The line of one request; its answer comes back under `digest`."""
    return json.dumps({"custom_id": digest, "method": "POST", "url": url, "body": body}).encode() + b"\n"


def parts_of(asked: Iterable[Asked], most_requests: int, most_bytes: int) -> Iterator[list[Asked]]:
    """Consecutive parts that fit into a batch each; a line that is larger than a batch stands alone."""
    part: list[Asked] = []
    size = 0
    for one in asked:
        if part and (len(part) == most_requests or size + len(one[2]) > most_bytes):
            yield part
            part, size = [], 0
        part.append(one)
        size += len(one[2])
    if part:
        yield part


def lines_of(content: bytes) -> Lines:
    """The lines of a batch's file by `custom_id`; a line that is no JSON is as good as missing."""
    lines: Lines = {}
    for line in content.splitlines():
        try:
            parsed = json.loads(line)
            lines[str(parsed["custom_id"])] = parsed
        except (ValueError, TypeError, KeyError, RecursionError):
            continue
    return lines
