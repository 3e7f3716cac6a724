"""A chat through a real pseudo-terminal: typed, streamed, stopped, left."""

import io
import os
from pathlib import Path

import pytest
from commands import Outcome
from pseudo_terminal import CTRL_C, CTRL_D, Terminal
from rich.console import Console

from alpaca.chatting.side_by_side import columns

# A model that was hardly trained says one thing over and over: 1,900 tokens of it leave time to interrupt it.
LONG = ("--max-new-tokens", "1900")


def talk(run: Path, folder: Path, *options: str) -> Terminal:
    return Terminal(folder, "alpaca.chat", str(run), *options, ALPACA_CACHE=str(folder))


def test_an_answer_is_streamed_and_stopped_by_ctrl_c_and_the_chat_goes_on(finished: Outcome, tmp_path: Path):
    with talk(finished.directory, tmp_path, *LONG) as terminal:
        greeting = terminal.until("\n> ")
        assert "tiny, adapter full, template alpaca; fp32 on cpu" in greeting
        terminal.type("Count from 5 to 8.\n")
        terminal.until("Count from 5 to 8.\n")
        terminal.until_more(200)  # before the end: it is streamed
        terminal.type(CTRL_C)
        stopped = terminal.until("\n> ")
        assert "stopped" in stopped
        assert "Traceback" not in terminal.shown
        terminal.type("/set max-new-tokens 5\n")
        terminal.until("max-new-tokens 5, seed 0")
        terminal.type("Count from 6 to 9.\n")
        assert "5 tokens" in terminal.until("cut off at the longest answer")
        terminal.until("\n> ")
        terminal.type("/history\n")
        terminal.until("turns so far 2")
        terminal.until("\n> ")
        terminal.type(CTRL_D)
        terminal.until("goodbye")
        assert terminal.ended() == 0
    typed = (tmp_path / "chat_history").read_text().splitlines()
    assert typed == ["Count from 5 to 8.", "/set max-new-tokens 5", "Count from 6 to 9.", "/history"]
    assert os.stat(tmp_path / "chat_history").st_mode & 0o077 == 0


def test_commands_show_and_change_and_two_models_answer_side_by_side(
    finished: Outcome, finished_lora: Outcome, tmp_path: Path
):
    names = finished.directory.name, finished_lora.directory.name
    with talk(finished.directory, tmp_path, "--max-new-tokens", "4", "--history") as terminal:
        assert "earlier turns stand before each question" in terminal.until("\n> ")
        terminal.type("/help\n")
        listed = terminal.until("Ctrl-C stops an answer.")
        for name in ("/input", "/set", "/history", "/clear", "/template", "/compare", "/exit"):
            assert f"  {name} " in listed
        terminal.type("/template Count \\\nfrom 1.\n")
        shown = terminal.until("an answer ends at EOS, or at '### Instruction:'")
        assert "### Instruction:\nCount \nfrom 1.\n\n### Response:\n" in shown
        terminal.type('/input """\none\ntwo\n"""\n')
        terminal.until("[input: 7 characters] > ")
        terminal.type("Add.\n")
        terminal.until("a second")
        terminal.type("/template\n")
        assert "### Instruction:\nAdd.\n\n### Input:\none\ntwo\n\n### Response:\n" in terminal.until("an answer ends")
        terminal.type("/clear\n")
        terminal.until("forgotten")
        terminal.type("/tempalte\n")
        terminal.until("/tempalte: no such command; did you mean /template?")
        terminal.type("/set top-p 0\n")
        terminal.until("top-p 0.0: must be above 0 and at most 1")
        terminal.type(f"/compare {finished_lora.directory}\n")
        terminal.until(f"beside {names[1]}: tiny, adapter lora, template alpaca; fp32 on cpu")
        terminal.type("Count from 5 to 8.\n")
        shown = terminal.until("8 tokens")
        assert any(names[0] in line and names[1] in line for line in shown.splitlines())
        terminal.type("/compare off\n")
        terminal.until("one model again")
        terminal.until("\n> ")
        terminal.type('"""half a message\n')
        terminal.until("\n... ")
        terminal.interrupt("message dropped")
        terminal.until("\n> ")
        terminal.interrupt("goodbye")
        assert terminal.ended() == 0


class Said:
    """An answer."""

    def __init__(self, text: str):
        self.text = text


@pytest.mark.parametrize(("width", "beside"), [(120, True), (78, True), (77, False), (20, False)])
def test_columns_where_the_terminal_is_wide_enough_and_rows_where_not(width: int, beside: bool):
    answers = [Said("red [bold]and\x1b[31m blue " * 9), Said("green")]
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    console.print(columns(console, ["one", "two"], answers))  # type: ignore[arg-type]
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert (lines[0].split() == ["one", "two"]) == beside
    assert "\x1b" not in "".join(lines)  # a model does not command the terminal
    assert "".join("".join(line.split()) for line in lines).count("[bold]and") == 9 or beside
    assert max(map(len, lines)) <= width


def test_while_answers_grow_their_ends_fit_on_the_screen():
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system=None)
    answers = [Said("\n".join(map(str, range(99)))), Said("short")]
    console.print(columns(console, ["one", "two"], answers, lines=10))  # type: ignore[arg-type]
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]  # type: ignore[attr-defined]
    assert (len(lines), lines[-1]) == (11, "98")
