"""How a job ended whose own process could not say it: killed, out of memory, or refused before it had a directory."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from alpaca.config import Config
from alpaca.errors import UserError
from alpaca.jobs import INHERITED_NAMES
from alpaca.tracking.folders import LOCK
from alpaca.tracking.lock import is_held
from alpaca.tracking.run_directory import FAILED, RunDirectory, close_unfinished, status
from alpaca.tracking.wandb_settings import DISABLED, chosen_mode


def reason(code: int, note: str) -> str:
    """Why a process ended with `code`, in a sentence; `note` is what it said last."""
    if code >= 0:
        return note or f"ended with status {code}"
    name = signal.Signals(-code).name
    return f"killed by {name}" + ("; the system does that when memory runs out" if name == "SIGKILL" else "")


def close(folder: Path, config: Config, settings: dict[str, Any], mark: str, overrides: list[str], error: str) -> None:
    """See to it that `folder` says that its run failed, in `summary.json` and in W&B, unless a process holds it."""
    if is_held(folder / LOCK):
        return
    if status(folder) is None:
        close_unfinished(folder, FAILED, error)
    if status(folder) is None:  # it did not come so far as to write what it is
        try:
            directory = RunDirectory(folder, mark, settings)
        except UserError:
            return  # another process is at it by now, or it cannot be written
        try:
            if directory.goes_on:
                return
            directory.write_json("env.json", directory.identity)
            directory.write_settings(config, overrides)
            directory.write_json("summary.json", {"status": FAILED, "signature": mark, "error": error})
        finally:
            directory.close()
    if status(folder) == FAILED and chosen_mode(config.tracker.mode) != DISABLED:
        tell_wandb("alpaca.sweeping.wandb_mark", folder)


def tell_wandb(module: str, folder: Path) -> None:
    """Run a module that logs to W&B about `folder`: every W&B run has a process of its own."""
    environment = {name: value for name, value in os.environ.items() if name not in INHERITED_NAMES}
    subprocess.run([sys.executable, "-m", module, str(folder)], env=environment, stdin=subprocess.DEVNULL, check=False)
