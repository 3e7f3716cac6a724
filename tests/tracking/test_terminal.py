"""What the terminal shows is plain text wherever the text is not ours."""

from pathlib import Path

from alpaca.tracking.terminal import Terminal


def test_a_warning_with_brackets_is_shown_as_it_is(tmp_path: Path, capsys):
    terminal = Terminal(tmp_path / "run.log")
    terminal.warn("no room in [/somewhere] for [bold]")
    terminal.close()
    assert "no room in [/somewhere] for [bold]" in capsys.readouterr().out
    assert "no room in [/somewhere] for [bold]" in (tmp_path / "run.log").read_text()
