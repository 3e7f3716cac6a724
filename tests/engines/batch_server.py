"""A real server that speaks the Batch API on loopback: files, batches, polls, output and error files."""

import json
import re
import threading
from collections.abc import Sequence
from email.parser import BytesParser
from typing import Any

from servers import Responder, Server, words

from alpaca.engines.exchange import Usage


class BatchServer(Server):
    """Batches end when `finish()` says so, or after `polls` looks at them.

    Args:
        polls: looks at a batch after which it is complete; None waits for `finish`.
        items: what happens to a request by its number among all batched ones: None is a good answer, `expired`
            and `missing` give none, `broken` gives a line that is no JSON, `empty` one without choices, an int
            is a status with the error object `error`.
        refusals: error objects with which the first batches are refused in validation.
        lose_create: the answer to so many creations is lost on the way, though the batch exists.
        late: so many lists do not show a batch yet whose creation was not answered.
        hold_create: answers to creations are kept back until the server ends.
        cancels: a batch that is cancelled ends, with what was done; without, it stays `cancelling` for ever.

    Attributes:
        batches: by id, as the server describes them.
        lines: all requests of all batches, in order.
    """

    def __init__(
        self,
        responder: Responder = words,
        *,
        polls: int | None = 1,
        items: Sequence[str | int | None] = (),
        refusals: Sequence[dict[str, Any]] = (),
        lose_create: int = 0,
        late: int = 0,
        cancels: bool = True,
        hold_create: bool = False,
        **given: Any,
    ):
        super().__init__(responder, **given)
        self.polls, self.items, self.refusals, self.lose_create = polls, items, list(refusals), lose_create
        self.hold_create, self.late, self.cancels = hold_create, late, cancels
        self.hidden: dict[str, int] = {}
        self.cancelled: list[str] = []
        self.files: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.lines: list[dict[str, Any]] = []
        self.looks: dict[str, int] = {}
        self.finished = threading.Event()

    def finish(self) -> None:
        """All batches are complete at the next look."""
        self.finished.set()

    def handle(self, http: Any, method: str, path: str, content: bytes) -> None:
        """The paths of the Batch API; others as in `Server`."""
        path, _, query = path.removeprefix("/v1").partition("?")
        if (method, path) == ("POST", "/batches"):
            return self._create(http, json.loads(content))
        with self.lock:
            if (method, path) == ("POST", "/files"):
                return self._upload(http, content)
            if (method, path) == ("GET", "/batches"):
                return self._list(http, query)
            if (method == "POST") and (match := re.fullmatch(r"/batches/([\w-]+)/cancel", path)):
                return self._cancel(http, match[1])
            if (method == "GET") and (match := re.fullmatch(r"/batches/([\w-]+)", path)):
                return self._look(http, match[1])
            if (method == "GET") and (match := re.fullmatch(r"/files/([\w-]+)/content", path)):
                return http.send_content(200, "application/octet-stream", self.files[match[1]])
        return super().handle(http, method, path, content)

    def _upload(self, http: Any, content: bytes) -> None:
        head = f"Content-Type: {http.headers['Content-Type']}\r\n\r\n".encode()
        parts = {}
        for part in BytesParser().parsebytes(head + content).walk():
            if name := part.get_param("name", header="content-disposition"):
                parts[name] = part.get_payload(decode=True)
        assert parts["purpose"] == b"batch"
        name = self._keep(parts["file"])
        http.send_json(200, {"id": name, "object": "file", "bytes": len(parts["file"]), "purpose": "batch"})

    def _create(self, http: Any, wanted: dict[str, Any]) -> None:
        assert wanted["completion_window"] == "24h"
        with self.lock:
            name = f"batch-{len(self.batches)}"
            batch = {"id": name, "object": "batch", "status": "validating", "metadata": wanted["metadata"],
                     "endpoint": wanted["endpoint"], "input_file_id": wanted["input_file_id"]}  # fmt: skip
            if self.refusals:
                batch.update(status="failed", errors={"data": [self.refusals.pop(0)]})
            self.batches[name] = batch
            self.lose_create -= 1
            lost = self.lose_create >= 0
            if lost:
                self.hidden[name] = self.late
        if self.hold_create:
            self.closing.wait(60)
        if lost:
            return http.reset()
        return http.send_json(200, batch)

    def _list(self, http: Any, query: str) -> None:
        """Newest first, two a page."""
        names = sorted((name for name in self.batches if self.hidden.get(name, 0) <= 0), reverse=True)
        self.hidden = {name: left - 1 for name, left in self.hidden.items()}
        after = re.search(r"after=([\w-]+)", query)
        names = names[names.index(after[1]) + 1 :] if after else names
        page = [self.batches[name] for name in names[:2]]
        http.send_json(200, {"object": "list", "data": page, "has_more": len(names) > 2})

    def _look(self, http: Any, name: str) -> None:
        if name not in self.batches:
            return http.send_json(404, {"error": {"message": "no such batch"}})
        batch = self.batches[name]
        self.looks[name] = self.looks.get(name, 0) + 1
        done = self.finished.is_set() or (self.polls is not None and self.looks[name] > self.polls)
        if batch["status"] == "validating":
            batch["status"] = "in_progress"
        if done and batch["status"] == "in_progress":
            self._complete(batch)
        return http.send_json(200, batch)

    def _cancel(self, http: Any, name: str) -> None:
        batch = self.batches[name]
        self.cancelled.append(name)
        if self.cancels:
            self._complete(batch)
        batch["status"] = "cancelled" if self.cancels else "cancelling"
        http.send_json(200, batch)

    def _complete(self, batch: dict[str, Any]) -> None:
        output, errors = [], []
        batch["status"] = "completed"
        for line in self.files[batch["input_file_id"]].splitlines():
            asked = json.loads(line)
            assert asked["url"] == batch["endpoint"]
            fate = self.items[len(self.lines)] if len(self.lines) < len(self.items) else None
            self.lines.append(asked)
            named = {"id": "line", "custom_id": asked["custom_id"], "error": None}
            if fate == "expired":
                batch["status"] = "expired"
                late = {"code": "batch_expired", "message": "This request could not be executed in time."}
                errors.append({**named, "response": None, "error": late})
            elif isinstance(fate, int):
                errors.append({**named, "response": {"status_code": fate, "body": {"error": self.error}}})
            elif fate == "broken":
                output.append('{"custom_id": ')
            elif fate != "missing":
                made = self.completion(asked["body"])
                if fate == "empty":
                    made["choices"] = []
                else:
                    self.usage += Usage(made["usage"]["prompt_tokens"], made["usage"]["completion_tokens"])
                output.append({**named, "response": {"status_code": 200, "body": made}})
        for name, lines in (("output_file_id", output), ("error_file_id", errors)):
            if lines:
                texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
                batch[name] = self._keep("\n".join(texts).encode())

    def _keep(self, content: bytes) -> str:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return name
