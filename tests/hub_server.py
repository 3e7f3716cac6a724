"""A model hub on 127.0.0.1: repositories of local folders, each with the commits it has had."""

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Hub:
    """Repositories by name: commits, oldest first, with the folder of each; the last one is `main`."""

    def __init__(self) -> None:
        self.repositories: dict[str, dict[str, Path]] = {}

    def publish(self, name: str, folder: Path) -> str:
        """A new commit of the repository `name` with the files of `folder`; returns its hash."""
        commits = self.repositories.setdefault(name, {})
        commit = hashlib.sha1(f"{name} {len(commits)}".encode()).hexdigest()
        commits[commit] = folder
        return commit

    def find(self, name: str, revision: str) -> tuple[str, Path] | None:
        """Commit and folder of a branch (`main`) or commit."""
        commits = self.repositories.get(name, {})
        commit = next(reversed(commits), "") if revision == "main" else revision
        return (commit, commits[commit]) if commit in commits else None


@contextmanager
def hub_on_this_machine(address: str) -> Iterator[Hub]:
    """A hub at `http://127.0.0.1:PORT` that runs as long as the context."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._respond(with_body=False)

        def do_GET(self) -> None:
            self._respond(with_body=True)

        def _respond(self, *, with_body: bool) -> None:
            parts = self.path.partition("?")[0].strip("/").split("/")
            if parts[:2] == ["api", "models"] and len(parts) in (4, 6):
                found = hub.find("/".join(parts[2:4]), parts[5] if len(parts) == 6 else "main")
                if found is None:
                    return self._missing("RevisionNotFound")
                commit, folder = found
                names = [{"rfilename": file.name} for file in sorted(folder.iterdir())]
                text = json.dumps({"id": "/".join(parts[2:4]), "sha": commit, "siblings": names}).encode()
                return self._send(text, {"Content-Type": "application/json"}, with_body)
            if len(parts) >= 5 and parts[2] == "resolve":
                found = hub.find("/".join(parts[:2]), parts[3])
                if found is None:
                    return self._missing("RevisionNotFound")
                commit, folder = found
                file = folder / "/".join(parts[4:])
                if not file.is_file():
                    return self._missing("EntryNotFound", commit)
                content = file.read_bytes()
                tag = hashlib.sha256(content).hexdigest()
                return self._send(content, {"X-Repo-Commit": commit, "ETag": f'"{tag}"'}, with_body)
            return self._missing("EntryNotFound")

        def _send(self, content: bytes, headers: dict[str, str], with_body: bool) -> None:
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(content))}.items():
                self.send_header(name, value)
            self.end_headers()
            if with_body:
                self.wfile.write(content)

        def _missing(self, code: str, commit: str = "") -> None:
            self.send_response(404)
            for name, value in {"X-Error-Code": code, "X-Repo-Commit": commit, "Content-Length": "0"}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    server = ThreadingHTTPServer(("127.0.0.1", int(address.rpartition(":")[2])), Handler)
    hub = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join(10)
