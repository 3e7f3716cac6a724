"""The server of the engines' tests is used here too; no key of the user's, no proxy, no wait before a retry."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parent.parent / "engines"))

from list_model import answer_text
from servers import Server, question


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "OPENAI_API_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def server() -> Iterator[Server]:
    """A server whose model writes task lists; its answers depend on the request alone."""
    with Server(lambda body: answer_text(question(body), body.get("seed"))) as running:
        yield running
