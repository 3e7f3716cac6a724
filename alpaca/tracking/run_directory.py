"""The run directory: everything a run leaves, written so that nothing half-done passes for finished.

One process writes, under a lock. `metrics.jsonl` grows line by line, other files appear whole (written
beside and renamed), and `summary.json` comes last: a directory without it, or whose status is not
`finished`, is not a finished run.
"""

import fcntl
import json
import math
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

from omegaconf import OmegaConf

from alpaca import __version__, paths
from alpaca.config import Config
from alpaca.errors import UserError

FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
RECORDED_PACKAGES = (
    "torch",
    "transformers",
    "accelerate",
    "peft",
    "bitsandbytes",
    "datasets",
    "tokenizers",
    "wandb",
    "openai",
)


class RunDirectory:
    """An open, locked run directory."""

    def __init__(self, path: Path, *, reopen: bool = False):
        """Create and lock `path`; `reopen` is for a job that goes on where an earlier process stopped.

        Raises:
            UserError: it cannot be written, another process holds it, or it already holds a run (unless `reopen`).
        """
        self.path = path.absolute()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("w")
        except OSError as error:
            raise UserError(f"output_dir={path}: {error.strerror}; choose a folder that can be written") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"output_dir={path}: another run is writing here; wait for it or choose another") from None
        if not reopen and (self.path / "config.yaml").exists():
            raise UserError(f"output_dir={path}: it already holds a run; choose another folder or remove it")
        self.started = time.time()
        self._metrics: TextIO | None = None
        self._finished = False

    def write_settings(self, config: Config, overrides: list[str]) -> None:
        """`config.yaml`, enough to repeat the run, and what the user typed."""
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True))
        write_text(self.path / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))

    def write_environment(self, *, device: str, precision: str, world_size: int, choices: dict[str, Any]) -> None:
        """`env.json`: versions, device, what was chosen automatically, and the state of the code."""
        packages: dict[str, str | None] = {}
        for name in RECORDED_PACKAGES:
            try:
                packages[name] = version(name)
            except PackageNotFoundError:
                packages[name] = None
        commit, dirty = _git_state()
        self.write_json(
            "env.json",
            {
                "alpaca": __version__,
                "python": platform.python_version(),
                "platform": platform.platform(),
                "cpus": os.cpu_count(),
                "packages": packages,
                "device": device,
                "precision": precision,
                "world_size": world_size,
                "automatic": choices,
                "git_commit": commit,
                "git_dirty": dirty,
                "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            },
        )

    def write_json(self, name: str, content: Any) -> None:
        """A JSON file of the run directory, whole or not at all."""
        write_text(self.path / name, json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n")

    def write_jsonl(self, name: str, records: list[dict[str, Any]]) -> None:
        """A JSONL file of the run directory, whole or not at all."""
        lines = (json.dumps(_finite(record), ensure_ascii=False) + "\n" for record in records)
        write_text(self.path / name, "".join(lines))

    def log_metrics(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """One line of `metrics.jsonl`, on disk before this returns to the caller."""
        if self._metrics is None:
            self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
        line = {"step": step, "epoch": round(epoch, 6), "time": round(time.time() - self.started, 3), **metrics}
        self._metrics.write(json.dumps(_finite(line)) + "\n")
        self._metrics.flush()

    def finish(self, status: str, values: dict[str, Any]) -> None:
        """`summary.json`, last of all; `status` is finished, failed or interrupted. A finished run stays finished."""
        if self._finished:
            return
        wall = {"wall_time_s": round(time.time() - self.started, 3)}
        self.write_json("summary.json", {"status": status, **values, **wall})
        self._finished = status == FINISHED

    def close(self) -> None:
        """Give the lock back."""
        if self._metrics is not None:
            self._metrics.close()
        self._lock.close()


def write_text(path: Path, text: str) -> None:
    """Write a file whole: beside, flushed to disk, then renamed."""
    beside = path.with_name(f".{path.name}.tmp")
    try:
        with beside.open("w", encoding="utf-8", errors="surrogatepass") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def _finite(value: Any) -> Any:
    """JSON has no NaN or infinity: they become null."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


def _git_state() -> tuple[str | None, bool | None]:
    """Commit of the checkout this code runs from and whether it was changed since; None outside of one."""
    if not (paths.PACKAGE.parent / ".git").exists():
        return None, None

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(paths.PACKAGE.parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD"), bool(git("status", "--porcelain"))
    except (OSError, subprocess.SubprocessError):
        return None, None
