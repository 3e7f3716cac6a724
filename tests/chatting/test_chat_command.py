"""`python -m alpaca.chat`: one answer for scripts, and one line for everything that is wrong."""

import contextlib
import io
import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from commands import Outcome, command_environment

from alpaca import chat
from alpaca.chatting import port
from alpaca.chatting.opening import open_speaker
from alpaca.chatting.reading import message


def chatted(*arguments: str, typed: str = "") -> tuple[int, str, str]:
    """Status, output and errors of the command in this process, with `typed` as its standard input."""
    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.StringIO(typed)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = chat.main(list(arguments))
    except SystemExit as stop:
        status = stop.code if isinstance(stop.code, int) else 1
    finally:
        sys.stdin = before
    return status, out.getvalue(), err.getvalue()


def test_once_prints_the_answer_that_the_run_recorded(finished: Outcome):
    lines = (finished.directory / "predictions.jsonl").read_text().splitlines()
    answered = [record for record in map(json.loads, lines) if record["output"] is not None]
    assert len(answered) == 2
    for record in answered:
        before, _, _ = record["prompt"].partition("\n\n### Response:")
        asked, _, given = before.partition("### Instruction:\n")[2].partition("\n\n### Input:\n")
        command = [str(finished.directory), "--max-new-tokens", "4", "--once"]
        assert chatted(*command, asked, "--input", given) == (0, record["output"] + "\n", "")
        assert chatted(*command, "-", "--input", given, typed=asked + "\n") == (0, record["output"] + "\n", "")


def test_an_adapter_its_run_and_a_model_folder_answer(finished: Outcome, finished_lora: Outcome):
    base = str(finished.directory / "model")
    assert open_speaker(base).prompting == open_speaker(str(finished.directory)).prompting
    asked = ("--once", "Count from 5 to 8.", "--max-new-tokens", "8")
    status, out, err = chatted(str(finished_lora.directory), *asked)
    assert (status, err) == (0, "")
    assert out.strip()
    assert chatted(base, *asked)[1] == chatted(str(finished.directory), *asked)[1]


def test_input_that_is_no_terminal_is_a_chat_without_prompts(finished: Outcome):
    typed = "Count from 5 to 8.\n/history on\n/compare nowhere\n\nCount \\\nfrom 6 to 9.\n/template\n"
    status, out, err = chatted(str(finished.directory), "--max-new-tokens", "4", typed=typed)
    assert (status, err) == (0, "")
    assert "nowhere: no such folder" in out
    assert "### Instruction:\nCount \nfrom 6 to 9.\n\n### Response:" in out
    assert out.count("### Instruction:\n") == 2  # the first question stands before the second
    assert out.rstrip().endswith("goodbye")
    assert "\n> \n" not in out


WRONG = [
    (["{run}", "--temperature", "warm"], "--temperature warm: must be a number"),
    (["{run}", "--temperature", "nan"], "--temperature nan: must be a number from 0 (greedy) up"),
    (["{run}", "--top-p", "1.5"], "--top-p 1.5: must be above 0 and at most 1"),
    (["{run}", "--max-new-tokens", "0"], "--max-new-tokens 0: must be at least 1"),
    (["{run}", "--seed", "1.5"], "--seed 1.5: must be a whole number"),
    (["{run}", "--once", "  "], "--once: the question is empty"),
    (["{run}", "--once", "x", "--compare", "y"], "--once --compare: one answer is printed"),
    (["{run}", "--once", "x", "--serve"], "--serve --once: a server or one answer"),
    (["{run}", "--serve", "--history"], "--serve --history: a client sends its earlier turns itself"),
    (["{run}", "--port", "8000"], "--port: only a server has one; add --serve"),
    (["{run}", "--serve", "--port", "70000"], "--port 70000: must be a whole number from 0 to 65535"),
    (["{run}", "--template", "alpacca", "--once", "x"], "--template alpacca: no such option; known: alpaca, "),
    (["{run}", "--bogus"], "--bogus: no such option; see python -m alpaca.chat --help"),
    ([], "the following arguments are required: RUN"),
    (["{folder}/nowhere"], "nowhere: no such folder; give a run directory"),
    (["{folder}"], "neither a run directory nor a model folder (no config.yaml, no config.json)"),
    (["{run}/.."], "neither a run directory nor a model folder; it holds runs, the newest finished one is"),
    (["{lora}/model"], "neither a run directory nor a model folder; its run directory is"),
    (["{unfinished}"], "the run is not finished (status interrupted)"),
    (["tiny"], "tiny: it has no prompt template of its own; say how to ask it with --template NAME"),
    (["{broken}", "--once", "x"], "broken: no loadable model ("),
    (["{run}", "--once", "word " * 3000], "takes 2,048, answer included; ask something shorter"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "line"), WRONG, ids=[line[:40] for _, line in WRONG])
def test_what_is_wrong_is_one_line(
    arguments: list[str], line: str, finished: Outcome, finished_lora: Outcome, tmp_path: Path
):
    for name, file in (("unfinished", "config.yaml"), ("broken", "config.json")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_text("{}")
    (tmp_path / "unfinished" / "summary.json").write_text('{"status": "interrupted"}')
    (tmp_path / "empty").mkdir()
    places = {
        "run": finished.directory,
        "lora": finished_lora.directory,
        "unfinished": tmp_path / "unfinished",
        "broken": tmp_path / "broken",
        "folder": tmp_path / "empty",
    }
    status, out, err = chatted(*(argument.format(**places) for argument in arguments))
    assert (status, out) == (2, "")
    assert line in err
    assert err.startswith("alpaca: ")
    assert err.count("\n") == 1


def test_a_port_that_is_taken_and_a_missing_extra_are_said_before_anything_is_loaded(
    finished: Outcome, monkeypatch: pytest.MonkeyPatch
):
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        number = str(other.getsockname()[1])
        status, _, err = chatted(str(finished.directory), "--serve", "--port", number)
    assert (status, err) == (2, f"alpaca: --port {number}: Address already in use; choose another one, or 0 for any "
                                "that is free\n")  # fmt: skip
    monkeypatch.setattr(port, "PACKAGES", ("fastapi", "no_such_package"))
    status, _, err = chatted(str(finished.directory), "--serve")
    assert (status, err.count("\n")) == (2, 1)
    assert "--serve: needs no_such_package; install with: pip install fastapi no_such_package" in err


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["one"], "one"),
        (["one \\", "two\\", "three"], "one \ntwo\nthree"),
        (['"""', "one", "two", '"""'], "one\ntwo"),
        (['"""one', "", 'two"""'], "one\n\ntwo"),
        (['"""one"""'], "one"),
        (['/input """', "one", "two", '"""'], "/input one\ntwo"),
        (['say """ twice'], 'say """ twice'),
        (["  one  "], "one"),
    ],
)
def test_a_message_may_have_many_lines(lines: list[str], expected: str):
    given = iter(lines)
    assert message(lambda prompt: next(given), "> ", "... ") == expected


def test_help_is_instant_because_nothing_heavy_is_imported():
    code = (
        "import sys, alpaca.chat as c\n"
        "try: c.main(['--help'])\n"
        "except SystemExit as end: print(end.code, {'torch', 'transformers', 'rich'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=command_environment(), capture_output=True, text=True, timeout=300
    )
    assert done.stdout.splitlines()[-1] == "0 set()", done.stderr
    assert "--compare OTHER" in done.stdout
