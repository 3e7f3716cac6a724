"""The server of the engines' tests is used here too; a key that is a marker, a cache of each test's own, no proxy."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).resolve().parents[2] / "engines"))

MARKER = "sk-marker-judge-77ab41"


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", MARKER)
    monkeypatch.setenv("ALPACA_CACHE", str(tmp_path / "cache"))
