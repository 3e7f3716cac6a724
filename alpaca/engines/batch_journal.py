"""What must outlive the process about batches under way: which batch holds which request, by digest.

A record is written before its batch is created and again with the batch's id, each time whole or not at
all, so a batch that is paid for is found again whenever the process ended. Nothing secret is in a record.
"""

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from alpaca.errors import UserError

PREFIX = "batch-"


@dataclass(frozen=True)
class Record:
    """One batch.

    Attributes:
        token: our own name of it, also in the batch's metadata.
        server: the address it was sent to.
        created: seconds since 1970.
        requests: digest of each request to its id.
        batch_id: the server's name; None until the server has said it.
    """

    token: str
    server: str
    created: float
    requests: dict[str, str]
    batch_id: str | None = None


class Journal:
    """The records of one folder; None keeps them in memory only."""

    def __init__(self, folder: Path | None):
        """Read what is there.

        Raises:
            UserError: the folder cannot be used, or holds a file that is no record.
        """
        self._folder = folder
        self._records: dict[str, Record] = {}
        if folder is None:
            return
        try:
            files = sorted(folder.glob(f"{PREFIX}*.json"))
        except OSError as error:
            raise UserError(f"{folder}: {error.strerror}; batches under way are noted there") from None
        for file in files:
            try:
                record = Record(**json.loads(file.read_text(encoding="utf-8")))
            except (OSError, ValueError, TypeError):
                raise UserError(f"{file}: no record of a batch; restore it, or remove it to ask again") from None
            self._records[record.token] = record

    def holding(self, digest: str, server: str) -> list[Record]:
        """The batches at `server` that hold a request, oldest first."""
        found = [one for one in self._records.values() if digest in one.requests and one.server == server]
        return sorted(found, key=lambda one: one.created)

    def write(self, record: Record) -> None:
        """Keep a record, on disk before this returns."""
        self._records[record.token] = record
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)  # not before: whoever owns the folder around it locks it first
        unfinished = self._file(record).with_suffix(".unfinished")
        with unfinished.open("w", encoding="utf-8") as stream:
            json.dump(asdict(record), stream)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(unfinished, self._file(record))

    def named(self, record: Record, batch_id: str) -> Record:
        """The record with the server's name of its batch, kept."""
        named = replace(record, batch_id=batch_id)
        self.write(named)
        return named

    def forget(self, record: Record) -> None:
        """Remove a record: its batch does not exist or did nothing."""
        self._records.pop(record.token, None)
        if self._folder is not None:
            self._file(record).unlink(missing_ok=True)

    def place(self, record: Record) -> str:
        """Where a record is, for the words of an error."""
        return "this process" if self._folder is None else str(self._file(record))

    def _file(self, record: Record) -> Path:
        assert self._folder is not None
        return self._folder / f"{PREFIX}{record.token}.json"


def digest_of(server: str, path: str, request_id: str, body: dict[str, Any]) -> str:
    """40 hexadecimal digits that name a request by all that was asked; the `custom_id` in a batch."""
    text = json.dumps([server, path, request_id, body], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:40]
