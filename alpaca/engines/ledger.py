"""The ledger of requests: each one and its fate, on disk before it counts.

A line is written when a request is sent (with the most it may cost), before each retry, and when its
answer arrives, is given up or refused. A request that was sent and has no further line was under way
when the process died: it is booked at its most as lost, and asked again. A last line without its end
was never counted: it is cut off when the file is opened. What a request lost is the sum over its lines;
with an engine that finds again what it had sent it is what its last line says, since that engine counts anew.
"""

import hashlib
import json
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

from alpaca.engines.bounds import Bounds
from alpaca.engines.exchange import Answer, Reply, Request, RequestLost, Usage
from alpaca.errors import UserError

SENT, RETRY, ANSWER, LOST, REFUSED = "sent", "retry", "answer", "lost", "refused"


@dataclass(frozen=True)
class Outcome:
    """What became of a request, in an earlier process if `replayed`: its answers, or none when it was lost.

    `digest` is of what was asked, `reason` why it was lost.
    """

    answers: tuple[Answer, ...]
    digest: str
    lost: bool = False
    replayed: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Past:
    """What the ledger says about the time before this process.

    Attributes:
        outcomes: request to its answers or its loss.
        spent: usage of answers that arrived.
        lost: the most that attempts without one may have been billed, requests under way at the end included.
        sent: requests that went out.
        lost_of: of what was lost, the part of each request.
        bounds: how far bills went above what they should be at most.
    """

    outcomes: dict[str, Outcome]
    spent: Usage
    lost: Usage
    sent: int
    lost_of: dict[str, Usage] = field(default_factory=dict)
    bounds: Bounds = field(default_factory=Bounds)


class RequestLedger:
    """One file of requests, open for appending; its owner sees to it that no other process has it open."""

    def __init__(self, file: Path, *, keeps_under_way: bool, way_out: str):
        """Open and replay.

        Args:
            keeps_under_way: the engine finds again what it had sent (a batch on the server), so a request
                without a fate is not lost.
            way_out: ends the message about a file that cannot be read.

        Raises:
            UserError: a line that cannot be read; names it.
        """
        self._keeps, self._way_out = keeps_under_way, way_out
        records, self._requests = opened(file, way_out)
        self.past = self._replayed(records, file)

    def sent(self, request: Request, most: Usage, bound: Usage | None = None) -> None:
        """A request is about to go out and may cost `most`; `bound` is that before earlier bills taught better."""
        line = {"event": SENT, "request": request.id, "digest": digest(request), "most": asdict(most)}
        more = {} if bound in (None, most) else {"bound": asdict(bound)}  # type: ignore[call-overload]
        self._append({**line, **more, **_asked(request)})

    def retry(self, request: Request, lost: Usage) -> None:
        """One more attempt is about to go out; those before may have cost `lost`."""
        self._append({"event": RETRY, "request": request.id, "lost": asdict(lost)})

    def answered(
        self,
        reply: Reply,
        asked: str,
        cost: float | None,
        lost_cost: float | None,
        time: float,
        *,
        durable: bool = True,
    ) -> None:
        """The answer arrived; on the disk itself when this returns, since it was paid for.

        Args:
            durable: false for an answer that can be had again for nothing.
        """
        line = {"event": ANSWER, "digest": asked, **asdict(reply), "cost_usd": cost, "lost_usd": lost_cost}
        line["request"] = line.pop("request_id")
        self._append({**line, "time": round(time, 3)}, durable=durable)

    def lost(self, error: RequestLost, asked: str, lost_cost: float | None, time: float) -> None:
        """The request was given up."""
        line = {"event": LOST, "request": error.request_id, "digest": asked, "reason": error.reason}
        more = {"lost": asdict(error.lost), "attempts": error.attempts, "lost_usd": lost_cost, "time": round(time, 3)}
        self._append({**line, **more}, durable=True)

    def refused(self, request: Request, reason: str, lost: Usage, *, attempts: int = 1) -> None:
        """No fate, to be asked again: refused for all (key, model, quota) or ended; it may have cost `lost`.

        With 0 `attempts` it never went out.
        """
        line = {"event": REFUSED, "request": request.id, "reason": reason, "lost": asdict(lost)}
        self._append({**line, **({} if attempts else {"attempts": 0})})

    def close(self) -> None:
        """Close the file, all of it on disk."""
        close_durably(self._requests)

    def _append(self, record: dict[str, Any], *, durable: bool = False) -> None:
        self._requests.write(line_of(record))
        self._requests.flush()
        if durable:
            os.fsync(self._requests.fileno())

    def _replayed(self, records: list[dict[str, Any]], file: Path) -> Past:
        outcomes: dict[str, Outcome] = {}
        under_way: dict[str, tuple[Usage, Usage]] = {}
        bound_of: dict[str, Usage] = {}
        lost_of: dict[str, Usage] = defaultdict(Usage)
        bounds = Bounds()
        spent, sent = Usage(), 0
        for number, record in enumerate(records, 1):
            try:
                request, event = record["request"], record["event"]
                if event == SENT:
                    if request in under_way and not self._keeps:  # an earlier process died here
                        lost_of[request] += _sum(under_way[request])
                    under_way[request] = Usage(**record["most"]), Usage()
                    bound_of[request] = Usage(**record.get("bound", record["most"]))
                    sent += 1
                elif event == RETRY:
                    under_way[request] = under_way[request][0], Usage(**record["lost"])
                else:
                    under_way.pop(request, None)
                    before = Usage() if self._keeps else lost_of[request]
                    lost_of[request] = before + Usage(**record["lost"])
                    if event == REFUSED:
                        sent -= record.get("attempts") == 0
                        continue
                    if event == ANSWER:
                        usage = Usage(**record["usage"])
                        spent += usage
                        bounds.learn(bound_of.get(request, usage), usage)
                    answers = tuple(Answer(**answer) for answer in record.get("answers", ()))
                    outcomes[request] = Outcome(answers, record["digest"], lost=event == LOST)
            except (KeyError, TypeError):
                raise UserError(f"{file}, line {number}: no line of a ledger; {self._way_out}") from None
        if not self._keeps:
            for request, cost in under_way.items():
                lost_of[request] += _sum(cost)
        return Past(outcomes, spent, sum(lost_of.values(), Usage()), sent, lost_of, bounds)


def digest(request: Request) -> str:
    """16 hexadecimal digits of all that a request asks, its sampling included."""
    text = json.dumps(asdict(request), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def opened(file: Path, way_out: str) -> tuple[list[dict[str, Any]], BinaryIO]:
    """The records of a file, and the file open at the end of its last whole line.

    Raises:
        UserError: a whole line that is no JSON object.
    """
    stream = file.open("a+b")
    stream.seek(0)
    content = stream.read()
    end = content.rfind(b"\n") + 1
    if end < len(content):
        stream.truncate(end)
    return list(_records(content[:end], file, way_out)), stream


def line_of(record: dict[str, Any]) -> bytes:
    """JSON in UTF-8; what UTF-8 cannot say (half a surrogate pair from a server) is escaped."""
    try:
        return (json.dumps(record, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(record) + "\n").encode()


def close_durably(stream: BinaryIO) -> None:
    """Close a file, all of it on disk."""
    stream.flush()
    os.fsync(stream.fileno())
    stream.close()


def _asked(request: Request) -> dict[str, Any]:
    return {"prompt": request.prompt} if request.prompt is not None else {"messages": list(request.messages)}


def _sum(pair: tuple[Usage, Usage]) -> Usage:
    return pair[0] + pair[1]


def _records(content: bytes, file: Path, way_out: str) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(content.split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
        except ValueError:
            record = None
        if not isinstance(record, dict):
            raise UserError(f"{file}, line {number}: not JSON; mend it or {way_out}")
        yield record
