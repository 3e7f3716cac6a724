"""The lines of a progress bar where there is no terminal."""

from pathlib import Path

import pytest

from alpaca.tracking import terminal as terminals
from alpaca.tracking.terminal import Terminal


def test_no_time_left_is_guessed_before_anything_was_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(terminals, "LINE_EVERY_S", 0.0)
    terminal = Terminal(tmp_path / "run.log")
    with terminal.progress("generating", 100) as bar:
        bar.resume_at(40)
        bar.advance(0)
        bar.advance(1)
    terminal.close()
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("generating 40/100")
    assert "left" not in first
    assert "left" in second
