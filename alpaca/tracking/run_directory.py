"""The run directory: everything a run leaves, written so that nothing half-done passes for finished.

One process writes, under a lock. `metrics.jsonl` grows line by line, other files appear whole (written
beside and renamed), and `summary.json` comes last: a directory without it, or whose status is not
`finished`, is not a finished run.
"""

import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, TextIO

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alpaca import __version__, paths
from alpaca.config import Config
from alpaca.errors import UserError
from alpaca.tracking.files import finite
from alpaca.tracking.files import read_json as read_json
from alpaca.tracking.files import read_jsonl as read_jsonl
from alpaca.tracking.files import write_json_file as write_json_file
from alpaca.tracking.files import write_jsonl_file as write_jsonl_file
from alpaca.tracking.files import write_text as write_text
from alpaca.tracking.folders import LOCK, RUN, refuse_foreign
from alpaca.tracking.lock import HeldError, hold

FINISHED, FAILED, INTERRUPTED = "finished", "failed", "interrupted"
IN_USE = "another run is writing here"
SAMPLES = "samples.jsonl"
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


class InUseError(UserError):
    """Another process holds the folder, and the run in it is that process's."""


class RunDirectory:
    """An open, locked run directory; `goes_on` says whether an earlier process began its run."""

    def __init__(self, path: Path, signature: str, settings: dict[str, Any], *, extends: bool = False, kind: str = RUN):
        """Create and lock `path` for the run with `signature`, made of the training `settings`.

        Args:
            extends: the caller has seen to it that what is there may be continued.
            kind: of what is written here, one of `folders.KINDS`; a folder of anything else is refused.

        Raises:
            UserError: it cannot be written, holds something else, another process holds it, it holds a finished run,
                or one whose settings differ in what can change the result.
        """
        self.path = path.absolute()
        self.identity: dict[str, Any] = {"signature": signature, "settings": settings}
        refuse_foreign(path, kind)
        try:
            self._lock = hold(self.path / LOCK, kind)
        except OSError as error:
            raise UserError(f"output_dir={path}: {error.strerror}; choose a folder that can be written") from error
        except HeldError as holder:
            is_named_by_user = extends or not path.name.endswith(f"-{signature}")
            raise InUseError(
                f"output_dir={path}: {IN_USE} ({holder}); wait for it, or "
                + ("choose another folder" if is_named_by_user else "begin a second one with train.resume=never")
            ) from None
        self.goes_on = (self.path / "config.yaml").exists()
        if self.goes_on:
            try:
                if not extends:
                    self._check_same()
            except UserError:
                self._lock.close()
                raise
            (self.path / "summary.json").unlink(missing_ok=True)
        self.started = time.time()
        self._metrics: TextIO | None = None
        self._finished = False

    def _check_same(self) -> None:
        shown = self.path
        if status(self.path) == FINISHED:
            raise UserError(f"output_dir={shown}: it already holds a finished run; choose another folder or remove it")
        before = read_json(self.path / "env.json")
        if before.get("signature") == self.identity["signature"]:
            return
        changed = differences(before.get("settings", {}), self.identity["settings"])
        raise UserError(
            f"output_dir={shown}: it holds an unfinished run with other settings ({changed or 'of an older version'}); "
            "give the same ones to go on with it, or choose another folder"
        )

    def rewind(self, step: int) -> None:
        """Forget the metrics after `step`, a half-written last line included; the clock goes on from there."""
        kept = _up_to(self.path / "metrics.jsonl", step)
        if (self.path / SAMPLES).exists():
            _up_to(self.path / SAMPLES, step)
        self.started = time.time() - (float(kept[-1]["time"]) if kept else 0.0)

    def write_settings(self, config: Config, overrides: list[str]) -> None:
        """`config.yaml`, enough to repeat the run, and what the user typed."""
        write_text(self.path / "config.yaml", OmegaConf.to_yaml(OmegaConf.structured(config), resolve=True))
        write_text(self.path / "overrides.yaml", OmegaConf.to_yaml(OmegaConf.create(overrides)))

    def write_environment(
        self, *, device: str, precision: str, world_size: int, choices: dict[str, Any] | None = None
    ) -> None:
        """`env.json`: versions, device, what was chosen automatically, the state of the code, and what run this is."""
        if choices is None:
            choices = read_json(self.path / "env.json").get("automatic", {})
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
                "device_name": _device_name(device),
                "precision": precision,
                "world_size": world_size,
                "automatic": choices,
                "git_commit": commit,
                "git_dirty": dirty,
                "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
                **self.identity,
            },
        )

    def note_choice(self, name: str, value: Any) -> None:
        """An automatic choice that changed while the run went on; the next process begins with it."""
        found = read_json(self.path / "env.json")
        found["automatic"] = {**found.get("automatic", {}), name: value}
        self.write_json("env.json", found)

    def write_json(self, name: str, content: Any) -> None:
        """A JSON file of the run directory, whole or not at all."""
        write_json_file(self.path / name, content)

    def write_jsonl(self, name: str, records: list[dict[str, Any]]) -> None:
        """A JSONL file of the run directory, whole or not at all."""
        write_jsonl_file(self.path / name, records)

    def log_metrics(self, step: int, epoch: float, metrics: dict[str, float]) -> None:
        """One line of `metrics.jsonl`, on disk before this returns to the caller."""
        if self._metrics is None:
            self._metrics = (self.path / "metrics.jsonl").open("a", encoding="utf-8")
        line = {"step": step, "epoch": round(epoch, 6), "time": round(time.time() - self.started, 3), **metrics}
        self._metrics.write(json.dumps(finite(line)) + "\n")
        self._metrics.flush()

    def log_samples(self, records: list[dict[str, Any]]) -> None:
        """Lines of `samples.jsonl`: answers of the model as it was at a step."""
        with (self.path / SAMPLES).open("a", encoding="utf-8") as stream:
            stream.writelines(json.dumps(finite(record), ensure_ascii=False) + "\n" for record in records)

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


class Onlooker(RunDirectory):
    """The run directory as ranks other than 0 have it: they know where it is and write nothing."""

    def __init__(self, path: Path):
        self.path, self.goes_on = path, (path / "config.yaml").exists()
        self.identity = {}

    def _nothing(self, *_: Any, **__: Any) -> None:
        """Rank 0 writes."""

    rewind = note_choice = write_settings = write_environment = write_json = write_jsonl = _nothing
    log_metrics = log_samples = finish = close = _nothing


def status(path: Path) -> str | None:
    """How the run in `path` ended: finished, failed, interrupted; None for one that did not end or is no run."""
    found = read_json(path / "summary.json").get("status")
    return str(found) if found else None


def unfinished(folder: Path, signature: str) -> Path | None:
    """The newest run directory of `signature` under `folder`, if its run is not finished."""
    found = sorted(
        each for each in folder.glob(f"*-{signature}") if (each / "config.yaml").exists() or (each / ".lock").exists()
    )
    return found[-1] if found and status(found[-1]) != FINISHED else None


def newest_finished(folder: Path) -> str:
    """For a message about a folder that is no run: the newest finished run below it; empty where there is none."""
    below = [file for pattern in ("*/summary.json", "*/*/summary.json") for file in folder.glob(pattern)]
    runs = sorted((file for file in below if (file.parent / "model").is_dir()), key=lambda file: file.stat().st_mtime)
    found = next((file.parent for file in reversed(runs) if status(file.parent) == FINISHED), None)
    return f"; it holds runs, the newest finished one is {found}" if found is not None else ""


def close_unfinished(path: Path, how: str, error: str) -> None:
    """Say in `summary.json` how a run ended whose own process could not; one that a process holds is left to it."""
    if not (path / "config.yaml").exists():
        return
    with contextlib.suppress(OSError, HeldError), hold(path / LOCK, RUN):
        if status(path) is None:
            mark = read_json(path / "env.json").get("signature")
            write_json_file(path / "summary.json", {"status": how, "signature": mark, "error": error})


def settings_of(path: Path) -> Config | None:
    """The settings of the run in `path`; None where there are none, or they are of another version."""
    try:
        loaded = OmegaConf.load(path / "config.yaml")
        found: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), loaded))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, OSError):
        return None
    return found


def _up_to(file: Path, step: int) -> list[dict[str, Any]]:
    """Leave the lines up to `step` in a file of lines with steps; a half-written one goes. Returns what is left."""
    kept = [record for record in read_jsonl(file) if record["step"] <= step]
    write_jsonl_file(file, kept)
    return kept


def differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Settings that differ, as `key=now (was before)`, for one line."""
    now = json.loads(json.dumps(now, default=str))
    keys = sorted(key for key in before.keys() | now.keys() if before.get(key) != now.get(key))
    return ", ".join(f"{key}={_short(now.get(key))} (was {_short(before.get(key))})" for key in keys)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else f"{text[:40]}…"


def _device_name(device: str) -> str:
    """What the driver calls an accelerator, by which its price is found; the kind of any other device."""
    torch = sys.modules.get("torch")  # whoever has a device has loaded it
    if device.startswith("cuda") and torch is not None and torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return device


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
