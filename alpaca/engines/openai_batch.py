"""The engine `openai_batch`: the Batch API, at half the price and within a day. What was paid for is collected.

The `answer` calls of a moment become one batch: a JSONL file is uploaded, the batch created, looked at every
`poll_s`, and its output and error files read. Which batch holds which request is in a journal under
`state_dir`, so that after a restart the same requests wait for the batch under way instead of a new one.
A request that failed or expired in one batch goes into one more; then it is lost. Batches carry our own token
in their metadata: none is created again before the server was asked whether it has it already.
"""

import asyncio
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from alpaca.engines import dialect, failures, protocol
from alpaca.engines.batch_files import MOST_BYTES, MOST_REQUESTS, Asked, Lines, line_of, lines_of, parts_of
from alpaca.engines.batch_journal import Journal, Record, digest_of
from alpaca.engines.exchange import BeforeRetry, EngineSettings, Reply, Request, Usage, Wanted
from alpaca.engines.failures import Failure
from alpaca.engines.refusals import Refusals
from alpaca.engines.remote import Received, Remote
from alpaca.engines.retrying import FIRST_WAIT_S, Attempts
from alpaca.engines.server_errors import ErrorInBody
from alpaca.errors import UserError

GATHER_S = 2.0
LONGEST_QUEUE_WAIT_S = 600.0
WINDOW_S = 25 * 3600.0  # a batch is over after 24 hours; one that is not is cancelled after another
CANCEL_S = 900.0  # what was done until then is given within ten minutes
CLOCKS_DIFFER_S = 86_400.0  # between this machine and the server, at most
LABEL = "alpaca"  # metadata key that holds a record's token
QUEUE_FULL = "token_limit_exceeded"
OVER = ("completed", "failed", "expired", "cancelled")


log = logging.getLogger(__name__)


class OpenAIBatch:
    """One model behind the Batch API of one server."""

    def __init__(
        self,
        settings: EngineSettings,
        *,
        most_requests: int = MOST_REQUESTS,
        most_bytes: int = MOST_BYTES,
        first_wait_s: float = FIRST_WAIT_S,
        window_s: float = WINDOW_S,
        cancel_s: float = CANCEL_S,
    ):
        """Check address and key and read the journal.

        Raises:
            UserError: see `Remote` and `Journal`.
        """
        self.model = settings.model
        self._settings, self._first_wait_s = settings, first_wait_s
        self._limits = (most_requests, most_bytes)
        self._window_s, self._cancel_s = window_s, cancel_s
        self._refusals = Refusals()
        self._remote = Remote(settings)
        self._journal = Journal(Path(settings.state_dir) if settings.state_dir else None)
        self._path = protocol.PATHS[settings.api]
        self._server = settings.base_url or ""
        self._dialect = dialect.Dialect(left_out=set(settings.leave_out))
        self._asked: list[Asked] = []
        self._gathering: asyncio.Task[None] | None = None
        self._collecting: dict[str, asyncio.Task[Lines | Failure]] = {}

    def most(self, request: Request) -> Usage:
        """The most one attempt can be billed; see `protocol.most_of`."""
        return protocol.most_of(request)

    async def answer(
        self, request: Request, *, before_retry: BeforeRetry | None = None, wanted: Wanted | None = None
    ) -> Reply:
        """Wait for the batch that holds the request, or put it into the next one.

        Whoever does not want it any more cancels the call; a batch that exists goes on. What is `lost` counts
        all batches that ever held the request, those of earlier processes too.

        Raises:
            RequestLost: it failed in two batches of this process.
            UserError: no request can succeed.
        """
        plain = dialect.body_of(request, model=self.model, api=self._settings.api, dialect=dialect.Dialect())
        digest = digest_of(self._server, self._path, request.id, plain)
        earlier = self._journal.holding(digest, self._server)
        attempts = Attempts(request.id, self.most(request), 1 + len(earlier), before_retry)
        left = iter(earlier)
        queue_full = 0
        while True:
            body = dialect.body_of(request, model=self.model, api=self._settings.api, dialect=self._dialect)
            record = next(left, None)
            old = record is not None
            if record is None:
                record = await self._ask(digest, request.id, body)
            attempts.made += 1
            outcome = await self._outcome(record, digest, request)
            if not isinstance(outcome, Failure):
                break
            if outcome.throttled:
                queue_full += 1
                await self._wait_for_queue(outcome, queue_full)
            # what an earlier process sent is not known, only that it spoke an older dialect
            elif self._dialect.learn(outcome.error, plain if old else body) is None:
                judged = (
                    _mended(outcome) if old else self._refusals.judged(outcome, structured=request.schema is not None)
                )
                attempts.wait_after(judged)  # the next batch is wait enough
        self._refusals.answered()
        answers, usage, model = outcome
        return attempts.reply(answers, usage, model or self.model)

    async def close(self) -> None:
        """Stop looking; batches under way go on at the server and are collected after a restart."""
        tasks: list[asyncio.Task[Any]] = [*self._collecting.values()]
        if self._gathering is not None:
            tasks.append(self._gathering)
        for task in tasks:
            task.cancel()
        for one in self._asked:
            one[3].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._remote.close()

    async def _ask(self, digest: str, request_id: str, body: dict[str, Any]) -> Record:
        """Into the next batch; returns when that batch exists."""
        line = line_of(digest, f"/v1{self._path}", body)
        future: asyncio.Future[Record] = asyncio.get_running_loop().create_future()
        self._asked.append((digest, request_id, line, future))
        if self._gathering is None or self._gathering.done():
            self._gathering = asyncio.create_task(self._gather())
        return await future

    async def _gather(self) -> None:
        """Make batches of all that was asked, once no more comes."""
        quiet_s = GATHER_S if self._settings.gather_s is None else self._settings.gather_s
        while self._asked:
            count = -1
            while count != len(self._asked):
                count = len(self._asked)
                await asyncio.sleep(quiet_s)
            asked = [one for one in self._asked if not one[3].done()]
            self._asked = []
            try:
                for part in parts_of(asked, *self._limits):
                    await self._put(part)
            finally:  # closed meanwhile: nobody shall wait for a batch that is not made
                for one in asked:
                    one[3].cancel()

    async def _put(self, part: list[Asked]) -> None:
        """Create a batch and tell those who wait for it."""
        part = [one for one in part if not one[3].done()]
        if not part:
            return
        try:
            record = await self._create(part)
        except Exception as error:
            for one in part:
                if not one[3].done():
                    one[3].set_exception(error)
        else:
            for one in part:
                if not one[3].done():
                    one[3].set_result(record)

    async def _create(self, part: list[Asked]) -> Record:
        record = Record(uuid.uuid4().hex, self._server, time.time(), {one[0]: one[1] for one in part})
        self._journal.write(record)
        content = b"".join(one[2] for one in part)
        file = await self._call(lambda: self._remote.upload(f"{record.token}.jsonl", content, "batch"))
        wanted = {
            "input_file_id": file.payload["id"],
            "endpoint": f"/v1{self._path}",
            "completion_window": "24h",
            "metadata": {LABEL: record.token},
        }

        tries = 0

        async def create() -> Received | Failure:
            nonlocal tries
            tries += 1
            if tries > 1 and (found := await self._found(record)):
                return Received(found, {})  # it was created although the answer did not arrive
            return await self._remote.post("/batches", wanted)

        made = await self._call(create)
        if tries > 1:
            made = Received(await self._found(record) or made.payload, {})
        return self._journal.named(record, str(made.payload["id"]))

    async def _found(self, record: Record) -> dict[str, Any] | None:
        """The first batch with the token of `record`, None where there is none; a second one is cancelled."""
        found = await self._find(record)
        for extra in found[1:]:
            if extra.get("status") not in (*OVER, "cancelling"):
                log.warning("batch %s was created twice; %s is cancelled", found[0]["id"], extra["id"])
                await self._remote.post(f"/batches/{extra['id']}/cancel", {})
        return found[0] if found else None

    async def _find(self, record: Record) -> list[dict[str, Any]]:
        """The batches whose metadata holds the token of `record`, oldest first; the server lists newest first."""
        found: list[dict[str, Any]] = []
        after = ""
        while True:
            page = (await self._call(lambda: self._remote.get(f"/batches?limit=100{after}"))).payload  # noqa: B023
            batches = page.get("data") or []
            found += [dict(one) for one in batches if (one.get("metadata") or {}).get(LABEL) == record.token]
            last = batches[-1].get("created_at") if batches else 0
            older = isinstance(last, (int, float)) and last < record.created - CLOCKS_DIFFER_S
            if not page.get("has_more") or not batches or older:
                return found[::-1]
            after = f"&after={batches[-1]['id']}"

    async def _outcome(self, record: Record, digest: str, request: Request) -> protocol.Read | Failure:
        """What became of a request in a batch."""
        if record.token not in self._collecting:
            self._collecting[record.token] = asyncio.create_task(self._collect(record))
        lines = await asyncio.shield(self._collecting[record.token])
        if isinstance(lines, Failure):
            return lines
        line = lines.get(digest)
        response = (line or {}).get("response") or {}
        if line is None or not response:
            error = (line or {}).get("error") or {}
            said = self._remote.target.clean(str(error.get("message") or "it expired or was cancelled"))
            return Failure("retry", f"not answered in its batch ({said})")
        status, body = int(response.get("status_code") or 0), response.get("body")
        if status >= 400:
            return replace(failures.of_status(status, {}, json.dumps(body), self._remote.target), throttled=False)
        try:
            return protocol.answers_of(body, request)
        except protocol.Malformed as error:
            return failures.of_bad_body(str(error), self._remote.target.clean(json.dumps(body)))
        except ErrorInBody as error:
            return replace(failures.of_error_in_body(error, {}, self._remote.target), throttled=False)

    async def _collect(self, record: Record) -> Lines | Failure:
        """Wait for the end of a batch and read its files.

        Returns:
            A Failure when the batch never existed, was refused for the length of the queue, or is not over long
            after it should be.
        """
        if record.batch_id is None:
            found = await self._found(record)
            if found is None:
                self._journal.forget(record)
                return Failure("retry", "its batch was never created")
            record = self._journal.named(record, str(found["id"]))
        unknown = f"{self._journal.place(record)}: {self._remote.target.host} knows no batch {record.batch_id}; "
        unknown += "set the key it was made with, or remove what is noted there to ask (and pay) again"
        deadline, cancelled = record.created + self._window_s, False
        while True:
            batch = (await self._call(lambda: self._remote.get(f"/batches/{record.batch_id}"), unknown)).payload
            if batch.get("status") in OVER:
                break
            late_s = time.time() - deadline
            if late_s > self._cancel_s:
                hours = f"{self._window_s / 3600:g} hours"
                return Failure("retry", f"batch {record.batch_id} is not over after {hours}", billed=True)
            if late_s > 0 and not cancelled:
                cancelled = True
                await self._remote.post(f"/batches/{record.batch_id}/cancel", {})  # it gives what it has
            await asyncio.sleep(self._settings.poll_s)
        if batch["status"] == "failed":
            self._journal.forget(record)
            return self._refusal(batch)
        lines: Lines = {}
        for name in ("error_file_id", "output_file_id"):
            if batch.get(name):
                content = await self._call(lambda: self._download(str(batch[name])))  # noqa: B023
                lines.update(lines_of(content.payload))
        return lines

    async def _download(self, file_id: str) -> Received | Failure:
        got = await self._remote.download(file_id)
        return got if isinstance(got, Failure) else Received(got, {})

    def _refusal(self, batch: dict[str, Any]) -> Failure:
        errors = (batch.get("errors") or {}).get("data") or [{}]
        said = self._remote.target.clean(str(errors[0].get("message") or "without a reason"))
        if errors[0].get("code") == QUEUE_FULL:
            return Failure("retry", said, throttled=True)
        where = f"model={self.model}: {self._remote.target.host} refuses batch {batch.get('id')}"
        return Failure("stop", f"{where} ({said}); change what it names")

    async def _wait_for_queue(self, failure: Failure, times: int) -> None:
        """Until batches of ours have made room in the account's queue.

        Raises:
            UserError: none of ours is under way, and it stays full.
        """
        others = any(not task.done() for task in self._collecting.values())
        if not others and times > self._settings.retries:
            raise UserError(
                f"model={self.model}: the account's queue is too short ({failure.reason}); lower concurrency"
            )
        await asyncio.sleep(min(LONGEST_QUEUE_WAIT_S, self._settings.poll_s * 2 ** min(times, 10)))

    async def _call(self, send: Callable[[], Awaitable[Received | Failure]], unknown: str | None = None) -> Received:
        """A request that costs nothing, until it succeeds; `unknown` is what a 404 means here.

        Raises:
            UserError: it cannot, or the server stays away; what is under way is in the journal.
        """
        attempts = Attempts("batch", Usage(), self._settings.retries, first_wait_s=self._first_wait_s)
        while True:
            got = await send()
            if not isinstance(got, Failure):
                return got
            if got.status == 404 and unknown is not None:
                raise UserError(unknown)
            if got.next == "retry" and attempts.failed >= self._settings.retries:
                raise UserError(f"{got.reason}; batches under way go on: the same command collects them later")
            await asyncio.sleep(attempts.wait_after(got))


def _mended(failure: Failure) -> Failure:
    """A refusal that an earlier process met may be mended since: asking again costs nothing and shows it."""
    return replace(failure, next="retry") if failure.refused or failure.next == "stop" else failure
