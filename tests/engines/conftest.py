"""A key that is a marker, and no proxy between a test and its server."""

import pytest

MARKER = "sk-marker-5b1d0c7e"


@pytest.fixture(autouse=True)
def key(monkeypatch: pytest.MonkeyPatch) -> str:
    """`OPENAI_API_KEY` of the test; it must turn up nowhere."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", MARKER)
    return MARKER
