"""What all commands do alike: a wrong option is one line with the nearest, every way to end has its exit status."""

import contextlib
import importlib
import io
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
from commands import alpaca_run, command_environment

from alpaca import __main__ as alpaca_main
from alpaca import __version__, commands
from alpaca.errors import RunFailed, UserError


def typed(folder: Path, command: str, *arguments: str) -> tuple[int, str, str]:
    """Status, output and errors of a command in this process, with `folder` as current directory."""
    out, err, given = io.StringIO(), io.StringIO(), list(sys.argv)
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = importlib.import_module(f"alpaca.{command}").main(list(arguments))
    finally:
        sys.argv[:] = given
    return status, out.getvalue(), err.getvalue()


WRONG = {
    "compare --metrc eval/loss": "--metrc: no such option; did you mean --metric?",
    "compare runs --baseline": "--baseline: expected one argument",
    "compare": "the following arguments are required: RUNS",
    "export run --dtyp=bf16": "--dtyp: no such option; did you mean --dtype?",
    "export run --dtype int8": "--dtype: invalid choice: 'int8' (choose from",
    "export run other": "other: one argument too many",
    "chat run --tempreature 1": "--tempreature: no such option; did you mean --temperature?",
    "chat run --zzz": "--zzz: no such option; see",
    "plan --jsno": "--jsno: no such option; did you mean --json?",
    "plan --mfu": "--mfu: expected one argument",
    "plan --config-dri conf": "--config-dri: no such option; did you mean --config-dir?",
    "inspect --exampels 3": "--exampels: no such option; did you mean --examples?",
    "evaluate run --multi-run": "--multi-run: no such option; did you mean --multirun?",
    "evaluate": "the following arguments are required: RUN",
}


@pytest.mark.parametrize("line", WRONG)
def test_a_wrong_option_is_one_line_with_the_nearest_and_the_way_to_the_help(tmp_path: Path, line: str):
    command, *arguments = line.split()
    status, out, err = typed(tmp_path, command, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith(f"alpaca: {WRONG[line]}")
    assert err.endswith(f"; see python -m alpaca.{command} --help\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--multirn", "train.seed=0,1"], "--multirn: no such option; did you mean --multirun?; see --help"),
        (["--cfg", "jobb"], "--cfg/-c: invalid choice: 'jobb'"),
        (["--config-dir"], "--config-dir/-cd: expected one argument"),
        (["--model", "tiny"], "--model: no such option; settings are written KEY=VALUE, without dashes: model=tiny"),
        (["--learning-rate=1e-4"], "--learning-rate: no such option; settings are written KEY=VALUE, without dashes: "),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("command", ["run", "generate"])
def test_a_wrong_option_of_hydras_is_one_line_too(tmp_path: Path, command: str, arguments: list[str], said: str):
    status, out, err = typed(tmp_path, command, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith(f"alpaca: {said}")


@pytest.mark.parametrize(
    "arguments", [["-cn", "config", "--cfg", "job"], ["-cjob"], ["train.seed=1", "-c", "job", "train.epochs=1"]]
)
def test_hydras_own_options_are_left_to_it_wherever_they_stand(tmp_path: Path, arguments: list[str]):
    outcome = alpaca_run(tmp_path, "model=tiny", *arguments)
    assert (outcome.status, outcome.err) == (0, "")
    assert "name: tiny" in outcome.out


@pytest.mark.parametrize("given", [["-1.5"], ["-"], ["-x y"], ["--", "-x"], ["-pVALUE"], ["--known=1"]])
def test_values_that_open_with_a_dash_are_no_options(given: list[str]):
    assert commands.unknown_option(given, ["--known", "-p"]) is None
    assert commands.unknown_option([*given[:-1], "--knwon"], ["--known"]) is not None or given[0] == "--"


def ended(error: BaseException | int | None) -> tuple[int, str]:
    def work(options: Namespace) -> int | None:
        if isinstance(error, BaseException):
            raise error
        return error

    err = io.StringIO()
    with contextlib.redirect_stderr(err), contextlib.redirect_stdout(io.StringIO()):
        status = commands.run(commands.Parser("nothing", "Does nothing."), work, [], interrupted="stopped")
    return status, err.getvalue()


def test_every_way_to_end_has_its_line_and_status():
    assert ended(None) == (0, "")
    assert ended(3) == (3, "")
    assert ended(UserError("a key:\n a rule")) == (2, "alpaca: a key: a rule\n")
    assert ended(RunFailed("it broke")) == (1, "alpaca: it broke\n")
    assert ended(KeyboardInterrupt()) == (130, "alpaca: stopped\n")


def test_a_reader_that_has_seen_enough_is_no_traceback(tmp_path: Path):
    plan = subprocess.Popen(
        [sys.executable, "-m", "alpaca.plan", "--json", "model=llama7b"],
        cwd=tmp_path,
        env=command_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert plan.stdout is not None
    assert plan.stderr is not None
    plan.stdout.close()
    assert plan.stderr.read() == ""
    plan.stderr.close()
    assert plan.wait(timeout=240) == 1


def test_a_full_disk_behind_the_output_is_one_line(tmp_path: Path):
    with open("/dev/full", "w") as full:
        plan = subprocess.run(
            [sys.executable, "-m", "alpaca.plan", "--json", "model=llama7b"],
            cwd=tmp_path,
            env=command_environment(),
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            timeout=240,
            check=False,
        )
    assert plan.stderr == "alpaca: the output cannot be written: No space left on device\n"
    assert plan.returncode == 1


@pytest.mark.parametrize("command", ["compare", "export", "chat"])
def test_help_of_a_plain_command_does_not_even_import_hydra(tmp_path: Path, command: str):
    code = (
        f"import sys, alpaca.{command} as c\n"
        "try: c.main(['-h'])\n"
        "except SystemExit as end: print(end.code, {'torch', 'hydra', 'rich'} & {*sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=command_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.stdout.splitlines()[-1] == "0 set()", done.stderr
    assert f"python -m alpaca.{command}" in done.stdout


@pytest.mark.parametrize("command", ["run", "compare", "plan", "__main__"])
def test_every_command_says_its_version(tmp_path: Path, command: str):
    done = subprocess.run(
        [sys.executable, "-m", "alpaca" if command == "__main__" else f"alpaca.{command}", "--version"],
        cwd=tmp_path, env=command_environment(), capture_output=True, text=True,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr) == (0, f"alpaca {__version__}\n", "")


def test_the_package_lists_its_commands(tmp_path: Path):
    status, out, err = typed(tmp_path, "__main__")
    assert (status, err) == (0, "")
    for command in alpaca_main.COMMANDS:
        assert f"python -m alpaca.{command}" in out
        assert importlib.import_module(f"alpaca.{command}").main
    status, _, err = typed(tmp_path, "__main__", "run", "model=tiny")
    assert (status, err) == (2, "alpaca: run: commands are modules; python -m alpaca.run\n")
