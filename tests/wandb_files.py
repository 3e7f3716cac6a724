"""W&B's own files, read without W&B: what an offline run really holds."""

import json
import struct
from pathlib import Path
from typing import Any

BLOCK, FULL, LAST = 32768, 1, 4


def records_of(file: Path) -> list[Any]:
    """All records of a .wandb file.

    It is 7 bytes of header, then LevelDB's log format: blocks of 32 KiB; each piece has a checksum (4 bytes), a
    length (2) and a kind (whole, first, middle or last part of a record). A killed run's last piece may be cut off.
    """
    from wandb.proto import wandb_internal_pb2

    data, found, parts, at = file.read_bytes(), [], b"", 7
    assert data.startswith(b":W&B")
    while at + 7 <= len(data):
        if BLOCK - at % BLOCK < 7:  # too little room for a piece: the rest of the block is empty
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + 7])
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if at > len(data):
            break
        if kind in (FULL, LAST):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(parts)
            found.append(record)
            parts = b""
    return found


def items(entries: Any) -> dict[str, Any]:
    """Key to value of the entries of a record."""
    return {entry.key or "/".join(entry.nested_key): json.loads(entry.value_json) for entry in entries}
