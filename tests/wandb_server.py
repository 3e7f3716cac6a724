"""A server on 127.0.0.1 that speaks as much of W&B's API as an online run needs, and refuses what a test names.

W&B talks GraphQL for runs and artifacts, sends history and summary as a stream of lines, and uploads files by PUT. What
arrives is kept in the form a test wants to look at.
"""

import gzip
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ENTITY = "someone"


class WandbServer(ThreadingHTTPServer):
    """Keeps what arrives.

    Args:
        refuse: GraphQL operations that end with status 400.
        malformed: operations whose answer is empty, which W&B's client meets with an exception.
    """

    daemon_threads = True

    def __init__(self, refuse: tuple[str, ...] = (), malformed: tuple[str, ...] = ()) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.refuse, self.malformed = refuse, malformed
        self.asked: list[str] = []
        self.runs: dict[str, dict[str, Any]] = {}
        self.history: list[dict[str, Any]] = []
        self.summary: dict[str, Any] = {}
        self.exit_codes: list[int] = []
        self.artifacts: dict[str, dict[str, Any]] = {}
        self.files: list[str] = []

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def environment(self) -> dict[str, str]:
        """What makes W&B use it."""
        return {"WANDB_BASE_URL": self.url, "WANDB_API_KEY": "0" * 40, "WANDB_ERROR_REPORTING": "false"}

    def values(self, name: str) -> list[Any]:
        """One metric, as it was logged."""
        return [line[name] for line in self.history if name in line]

    def answer(self, operation: str, variables: dict[str, Any]) -> dict[str, Any]:
        """The data of a GraphQL request."""
        project = {
            "id": "P",
            "internalId": "P",
            "name": variables.get("project") or "",
            "entity": {"id": "E", "name": ENTITY},
        }
        match operation:
            case "UpsertBucket":
                sent = {key: value for key, value in variables.items() if value is not None}
                self.runs.setdefault(variables["name"], {}).update(sent)
                bucket = {"id": "R", "name": variables["name"], "displayName": variables.get("displayName") or "run"}
                bucket |= {"project": project, "config": "{}", "historyLineCount": 0}
                return {"upsertBucket": {"bucket": bucket, "inserted": True}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
                return {"createRunFiles": {"runID": "R", "uploadHeaders": [], "files": files}}
            case "CreateArtifact":
                sent = variables["input"]
                self.artifacts[sent["artifactCollectionName"]] = sent
                artifact = {"id": sent["artifactCollectionName"], "state": "COMMITTED", "artifactSequence": {}}
                return {"createArtifact": {"artifact": artifact}}
            case "ArtifactByID":
                sent = self.artifacts[variables["id"]]
                artifact = {
                    "__typename": "Artifact",
                    "id": variables["id"],
                    "artifactType": {"name": sent["artifactTypeName"]},
                }
                artifact |= {
                    "artifactSequence": {"__typename": "ArtifactSequence", "name": variables["id"], "project": project}
                }
                nothing = ("versionIndex", "description", "metadata", "historyStep", "commitHash", "updatedAt")
                artifact |= {**dict.fromkeys(nothing), "ttlDurationSeconds": -1, "ttlIsInherited": False, "tags": []}
                artifact |= {
                    "state": "COMMITTED",
                    "size": 0,
                    "digest": "",
                    "fileCount": 1,
                    "createdAt": "2026-01-01T00:00:00",
                }
                return {"artifact": artifact}
            case "Viewer":
                teams = {"edges": [{"node": {"name": ENTITY}}]}
                return {"viewer": {"id": "V", "entity": ENTITY, "username": ENTITY, "flags": "{}", "teams": teams}}
            case "ArtifactType" | "ArtifactMembershipByName":
                return {"project": None}
        return {}

    def stream(self, body: dict[str, Any]) -> None:
        """Lines of history and summary, and how the run ended."""
        files = body.get("files", {})
        for line in files.get("wandb-history.jsonl", {}).get("content", []):
            self.history.append(json.loads(line))
        for line in files.get("wandb-summary.json", {}).get("content", []):
            self.summary = json.loads(line)
        if body.get("complete"):
            self.exit_codes.append(body["exitcode"])


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: WandbServer

    def log_message(self, *_: Any) -> None:
        """Nothing of it belongs in a test's output."""

    def handle(self) -> None:
        """One connection; a client that ends without a word is no error."""
        try:
            super().handle()
        except ConnectionError:
            self.close_connection = True

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        reply: dict[str, Any] = {}
        status = 200
        if self.path == "/graphql":
            request = json.loads(body)
            operation = request["query"].split("(")[0].split("{")[0].split()[1]
            self.server.asked.append(operation)
            if operation in self.server.refuse:
                status, reply = 400, {"errors": [{"message": f"{operation} is refused here"}]}
            elif operation in self.server.malformed:
                reply = {"data": {}}
            else:
                reply = {"data": self.server.answer(operation, request.get("variables") or {})}
        elif self.path.endswith("/file_stream"):
            self.server.stream(json.loads(body))
        elif self.path.startswith("/upload/"):
            self.server.files.append(self.path.removeprefix("/upload/"))
        content = json.dumps(reply).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = _answer  # noqa: N815


@contextmanager
def wandb_server(refuse: tuple[str, ...] = (), malformed: tuple[str, ...] = ()) -> Iterator[WandbServer]:
    """A running server, stopped at the end."""
    server = WandbServer(refuse, malformed)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
