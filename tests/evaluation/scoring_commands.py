"""How the tests of this folder run `alpaca.evaluate`, and a run of their own to write into."""

import contextlib
import io
import json
import shutil
import sys
from pathlib import Path
from typing import Any

from commands import Outcome

from alpaca import evaluate


def alpaca_evaluate(folder: Path, *arguments: str) -> Outcome:
    """`alpaca.evaluate` in this process, with `folder` as current directory."""
    out, err, given = io.StringIO(), io.StringIO(), list(sys.argv)
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = evaluate.main(list(arguments))
    finally:
        sys.argv[:] = given
    return Outcome(status, out.getvalue(), err.getvalue(), folder)


def copy_of(run: Outcome, folder: Path) -> Path:
    """A copy of a shared run and its rows, for a test that writes into it."""
    shutil.copy(run.folder / "rows.json", folder / "rows.json")
    return Path(shutil.copytree(run.directory, folder / "run"))


def records(file: Path) -> list[dict[str, Any]]:
    """The records of a JSONL file."""
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]
