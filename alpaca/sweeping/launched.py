"""One job of a multirun that another launcher or sweeper of Hydra's runs, such as Slurm's, Ray's or Optuna's.

A launcher pickles the `Task` to run it in a process of its own, and once more to requeue it. What it returns goes to
the sweeper.
"""

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alpaca import cli
from alpaca.checks import check
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.jobs import Jobs
from alpaca.signature import GENERATED, signature
from alpaca.sweeping.expansion import ALONE, file_name
from alpaca.sweeping.sweep import command_of
from alpaca.tracking.run_directory import FINISHED, read_json, status

END_ANNOUNCED_S = 600  # a job that Slurm preempts or cancels is killed within its grace time


class Task:
    """What Hydra calls with each composed config of `alpaca.run`.

    Pickled, it holds plain values only: what runs in the command's own process stays there.
    """

    def __init__(self, here: Callable[[DictConfig], None], same: frozenset[str], started: str):
        """Make it.

        Args:
            here: trains a single run, or works off a sweep, in this process.
            same: keys that have one value in all jobs, which a run's folder is not named after.
            started: when the command began, for folders that are named by time.
        """
        self._here = here
        self._same = same
        self._started = started

    def __getstate__(self) -> dict[str, Any]:
        return {"_same": self._same, "_started": self._started}

    def __call__(self, composed: DictConfig) -> float | None:
        """Train a launched job in a child process, or find it finished, and return `sweep.objective` of its summary.

        None for a config that is worked off here, and where Hydra's own sweeper, which needs no objective, asks for a
        metric that the run does not have.

        Raises:
            RunFailed: this job cannot run, did not finish, or has no objective.
            KeyboardInterrupt: a signal asked for the end; the run has saved.
        """
        hydra = HydraConfig.get()
        if not cli.is_launched(hydra):
            self._here(composed)
            return None
        overrides, number = list(hydra.overrides.task), int(hydra.job.num)
        differs = [part for part in overrides if part.partition("=")[0] not in self._same]
        name = f"job {number} ({' '.join(differs) or ALONE})"
        hydra_folder = Path(hydra.runtime.output_dir)
        with contextlib.suppress(OSError):
            hydra_folder.rmdir()  # Hydra numbers its folders; ours say what differs
        try:
            config = cli.typed(composed)
            check(config)
            if config.data_source.path == GENERATED:
                config = with_generated_data(config, self._started, overrides)
        except (UserError, RunFailed) as error:
            raise RunFailed(f"{name} did not finish: {error}") from None
        folder = hydra_folder.parent / f"{file_name(','.join(differs) or ALONE)}-{signature(config)}"
        print(f"job {number}: {' '.join(overrides)}\n  -> {folder}", flush=True)
        if status(folder) == FINISHED:
            print("  finished already, skipped", flush=True)
        else:
            _run(config, overrides, folder, number, name)
        searches = not str(hydra.sweeper._target_).endswith("BasicSweeper")
        return objective(folder, config.sweep.objective, name, needed=searches)


def _run(config: Config, overrides: list[str], folder: Path, number: int, name: str) -> None:
    """Train in a child process.

    A signal goes to the child first. When it has saved, the launcher's own handler decides what the signal means:
    submitit requeues the job.
    """
    jobs = Jobs()
    command = command_of(overrides, folder, Path(os.devnull), own_folders())
    try:
        with _forwarding(jobs):
            jobs.start(number, command, folder, 1, config.parallelism.devices)
            jobs.finish()
    except KeyboardInterrupt:
        if not jobs.received:
            raise
        try:
            signal.raise_signal(jobs.received[0])
        except Exception as error:
            raise RunFailed(
                f"{name} was interrupted: {error} The same command goes on with it; "
                "hydra.launcher.max_num_timeout=N lets it go on by itself N times"
            ) from None
        if jobs.received[0] == signal.SIGTERM and "SLURM_JOB_ID" in os.environ:
            time.sleep(END_ANNOUNCED_S)  # submitit ignores SIGTERM; an end by ourselves would keep Slurm from requeuing
        raise RunFailed(f"{name} was interrupted; the same command goes on with it") from None
    if any(jobs.ended):
        said = str(read_json(folder / "summary.json").get("error") or "")
        raise RunFailed(f"{name} did not finish{f': {said}' if said else ''}")


def _forwarding(jobs: Jobs) -> contextlib.AbstractContextManager[None]:
    """Hands signals on to the job; only a main thread can have handlers."""
    in_main = threading.current_thread() is threading.main_thread()
    return jobs.forwarding() if in_main else contextlib.nullcontext()


def objective(folder: Path, metric: str, name: str, *, needed: bool) -> float | None:
    """The number `metric` of a finished run's summary; None for none, unless it is `needed`.

    Raises:
        RunFailed: it is needed and not there.
    """
    summary = read_json(folder / "summary.json")
    value = summary.get(metric)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return float(value)
    if not needed:
        return None
    known = sorted(key for key, each in summary.items() if "/" in key and isinstance(each, (int, float)))
    raise RunFailed(f"{name}: sweep.objective={metric}: the run has no such number; it has {', '.join(known)}")


def own_folders() -> list[str]:
    """`--config-dir DIR` as the user gave it, for a job's command line."""
    sources = HydraConfig.get().runtime.config_sources
    folders = [item.path for item in sources if item.provider == "command-line"]
    return ["--config-dir", folders[0]] if folders else []


def with_generated_data(config: Config, started: str, overrides: list[str]) -> Config:
    """Make the data of `data_source=self_instruct`, or find it made, and train on that."""
    from alpaca.selfinstruct.command import generate
    from alpaca.selfinstruct.directories import directory, trained_on

    place = directory(config, started)
    generate(config, place, overrides, beside_training=True)
    return trained_on(config, place)
