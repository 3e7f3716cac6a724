"""How tests run the commands: in this process where they can, in one of its own where process behaviour matters."""

import contextlib
import io
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca import run

# The tiny models gain nothing from threads, and threads that wait for each other on a busy machine lose minutes.
os.environ["OMP_NUM_THREADS"] = "1"

CHECKOUT = Path(__file__).resolve().parent.parent
REFUSING = "http://127.0.0.1:9"  # the discard port: nothing listens, a connection is refused at once
SMALL = (
    "model=tiny",
    "data_source=json",
    "data_source.path=rows.json",
    "tracker=disabled",
    "optimizer.lr=1e-2",
    "train.global_batch_size=8",
    "train.epochs=1",
    "train.eval_rows=8",
    "train.precision=fp32",
    "evaluation.quick.generate_rows=2",
    "evaluation.quick.max_new_tokens=4",
)


@dataclass(frozen=True)
class Outcome:
    """What a command left: exit status, what it printed, and the folder it ran in."""

    status: int
    out: str
    err: str
    folder: Path

    @property
    def directory(self) -> Path:
        """The only run directory under the folder."""
        (found,) = self.directories
        return found

    @property
    def directories(self) -> list[Path]:
        """All run directories under the folder, in order of name."""
        return sorted(file.parent for file in self.folder.rglob("config.yaml") if file.parent.name != "files")

    @property
    def summary(self) -> dict[str, Any]:
        """`summary.json` of the only run."""
        return json.loads((self.directory / "summary.json").read_text())

    def metrics(self, name: str) -> list[float]:
        """Values of one metric in `metrics.jsonl`, in order."""
        lines = map(json.loads, (self.directory / "metrics.jsonl").read_text().splitlines())
        return [line[name] for line in lines if name in line]


def alpaca_run(folder: Path, *overrides: str) -> Outcome:
    """`alpaca.run` in this process, with `folder` as current directory."""
    out, err, given = io.StringIO(), io.StringIO(), list(sys.argv)
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = run.main(list(overrides))
    finally:
        sys.argv[:] = given
    return Outcome(status, out.getvalue(), err.getvalue(), folder)


def alpaca_command(folder: Path, *overrides: str, environment: dict[str, str] | None = None, **options: Any) -> Outcome:
    """`python -m alpaca.run` in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-m", "alpaca.run", *overrides],
        cwd=folder,
        env=command_environment(**(environment or {})),
        capture_output=True,
        text=True,
        check=False,
        **{"timeout": 300, **options},
    )
    return Outcome(done.returncode, done.stdout, done.stderr, folder)


def command_environment(**extra: str) -> dict[str, str]:
    """The environment of a command: this checkout's `alpaca`, and what a test adds."""
    return {**os.environ, "PYTHONPATH": str(CHECKOUT), **extra}


def eventually(
    holds: Callable[[], Any], why: str, process: subprocess.Popen | None = None, timeout_s: float = 240
) -> None:
    """Wait until `holds`; it fails with `why` at the deadline, or when the process that should bring it about ends."""
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, why
        assert process is None or process.poll() is None, f"{why}: the process has ended"
        time.sleep(0.02)


def some_rows(count: int) -> list[dict[str, str]]:
    """Rows with a pattern that a small model learns; every third has an input."""
    return [
        {
            "instruction": f"Count from {number} to {number + 3}.",
            "input": "in words" if number % 3 == 0 else "",
            "output": " ".join(str(number + step) for step in range(4)),
        }
        for number in range(count)
    ]
