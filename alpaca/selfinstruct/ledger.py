"""The ledger of a generation: requests and candidates with their fates, on disk before either counts.

`requests.jsonl` is the ledger of requests (`alpaca.engines.ledger`), `tasks.jsonl` has a line for each candidate.
"""

import json
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alpaca.engines.ledger import RequestLedger, close_durably, line_of, opened
from alpaca.errors import UserError
from alpaca.selfinstruct.judging import Judged

REQUESTS, TASKS = "requests.jsonl", "tasks.jsonl"
_WAY_OUT = "use another output_dir=DIR"
_COMPARED = ("answer", "number", "verdict", "instruction", "input", "output")


class Ledger(RequestLedger):
    """The two files of one generation, open for appending; the directory's lock keeps others away."""

    def __init__(self, folder: Path, *, keeps_under_way: bool):
        """Open and replay.

        Args:
            keeps_under_way: see `RequestLedger`.

        Raises:
            UserError: a line that cannot be read; names it.
        """
        super().__init__(folder / REQUESTS, keeps_under_way=keeps_under_way, way_out=_WAY_OUT)
        file = folder / TASKS
        judged, self._tasks = opened(file, _WAY_OUT)
        self._known: dict[str, list[dict[str, Any]]] = defaultdict(list)
        for number, record in enumerate(judged, 1):
            if not isinstance(record.get("request"), str):
                raise UserError(f"{file}, line {number}: no line of a ledger; {_WAY_OUT}")
            self._known[record["request"]].append(record)
        self._folder = folder

    def judged(self, request: str, found: list[Judged]) -> None:
        """The candidates of a request; those an earlier process wrote are compared, not written again.

        Raises:
            UserError: the file says otherwise: it was made by other rules.
        """
        known = self._known.pop(request, [])
        for place, one in enumerate(found):
            record = _readable(one.record(request))
            if place < len(known):
                if any(known[place].get(key) != record[key] for key in _COMPARED):
                    raise UserError(
                        f"{self._folder / TASKS}: the candidates of {request} were judged by other rules; continue "
                        "with the version that made them, or start anew with another output_dir=DIR"
                    )
            else:
                self._tasks.write(line_of(record))
        self._tasks.flush()

    def known(self, request: str) -> Sequence[dict[str, Any]]:
        """The candidates of a request as an earlier process wrote them; none once they were compared."""
        return self._known.get(request, ())

    @property
    def behind(self) -> bool:
        """Whether an earlier process judged candidates that this one has not come to yet."""
        return bool(self._known)

    def close(self) -> None:
        """Close both files, all of it on disk."""
        super().close()
        close_durably(self._tasks)


def _readable(record: dict[str, Any]) -> dict[str, Any]:
    """The record as it reads back from the file."""
    return dict(json.loads(line_of(record)))
