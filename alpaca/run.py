"""`python -m alpaca.run [overrides]`: train one run, or many with `-m` or `sweep=NAME`.

The config is composed and checked and the run directory chosen before torch is imported. One run
trains in this process tree (`launch.py`); in a multirun every job is a child process of its own, so
that memory, Weights & Biases and a crash stay with the job.
"""

import contextlib
import re
import sys
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from alpaca import cli
from alpaca.checks import check
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.help import text as help_text
from alpaca.jobs import Jobs
from alpaca.signature import GENERATED, signature
from alpaca.tracking.run_directory import FINISHED, status, unfinished


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    if {"--help", "-h"} & set(sys.argv[1:] if argv is None else argv):
        print(help_text(), end="")
        return 0
    started = time.strftime("%Y%m%d-%H%M%S")
    cli.register_run_dir(lambda composed: run_directory(_checked(composed), started))
    cli.register_sweep_dir()
    single: list[int] = []
    refused: list[int] = []
    jobs, same = Jobs(), cli.unswept_keys(list(sys.argv[1:] if argv is None else argv))

    def job(composed: DictConfig) -> None:
        hydra = HydraConfig.get()
        overrides = list(hydra.overrides.task)
        if hydra.mode == RunMode.MULTIRUN:
            place = Path(hydra.runtime.output_dir)
            with contextlib.suppress(OSError):
                place.rmdir()  # Hydra numbers its folders; ours say what differs
            try:
                config = _checked(composed)
                if config.data_source.path == GENERATED:  # once, before jobs that want the same begin side by side
                    _with_generated_data(config, started, overrides)
                _start(jobs, config, overrides, same, place.parent, hydra.job.num)
            except (UserError, RunFailed) as error:  # this job cannot run, others may
                refused.append(cli.fail(f"job {hydra.job.num} ({' '.join(overrides)}): {error}", 2))
            if not str(hydra.launcher._target_).endswith("BasicLauncher"):  # on another machine: only errors come back
                jobs.finish()
                if failed := sum(map(bool, jobs.ended + refused)):
                    raise RunFailed(f"job {hydra.job.num} ({' '.join(overrides)}) did not finish ({failed})")
            return
        config = _checked(composed)
        folder = Path(hydra.runtime.output_dir)
        try:
            if config.data_source.path == GENERATED:
                config = _with_generated_data(config, started, overrides)
            from alpaca.launch import launch

            if (done := finished_before(config, folder)) is not None:
                print(
                    f"the same run is finished in {done}; to score it again or otherwise: "
                    f"python -m alpaca.evaluate {done} evaluation=[quick,generate]",
                    flush=True,
                )
            single.append(launch(config, folder, overrides))
        finally:
            if started in folder.name:
                with contextlib.suppress(OSError):
                    folder.rmdir()  # Hydra made it a moment ago; what was refused before it began leaves no folder

    with jobs.forwarding():
        ended = cli.main(job, argv)
        try:
            jobs.finish()
        except KeyboardInterrupt:
            return cli.fail("interrupted", cli.INTERRUPTED)
    if ended:
        return ended
    failures = jobs.ended + refused
    if len(failures) > 1 and any(failures):
        return cli.fail(f"{sum(map(bool, failures))} of {len(failures)} runs did not finish", 1)
    return max(single + failures, default=0)


def run_directory(config: Config, started: str) -> Path:
    """Where the run is written.

    The folder of `train.resume`, or `output_dir`, or with `train.resume=auto` the newest unfinished run of the same
    signature, else a new `outputs/<name>/<time>-<signature>`.
    """
    if config.train.resume not in ("auto", "never"):
        return Path(config.train.resume).expanduser()
    if config.output_dir:
        return Path(config.output_dir).expanduser()
    mark, folder = signature(config), Path("outputs") / config.name
    if config.train.resume == "auto" and (found := unfinished(folder, mark)) is not None:
        return found
    return folder / f"{started}-{mark}"


def finished_before(config: Config, folder: Path) -> Path | None:
    """The newest finished run of the same signature beside the new run `folder`; None where there is none."""
    if folder.exists() and any(folder.iterdir()):
        return None  # a run that goes on
    found = sorted((Path("outputs") / config.name).glob(f"*-{signature(config)}"))
    return next((each for each in reversed(found) if each != folder and status(each) == FINISHED), None)


def _with_generated_data(config: Config, started: str, overrides: list[str]) -> Config:
    """Make the data of `data_source=self_instruct`, or find it made, and train on that."""
    from alpaca.selfinstruct.command import generate
    from alpaca.selfinstruct.directories import directory, trained_on

    place = directory(config, started)
    generate(config, place, overrides)
    return trained_on(config, place)


def _checked(composed: DictConfig) -> Config:
    config = cli.typed(composed)
    check(config)
    return config


def _file_name(text: str) -> str:
    return re.sub(r"[^\w.,=+-]", "_", text)[:120]


def _start(jobs: Jobs, config: Config, overrides: list[str], same: set[str], sweep: Path, number: int) -> None:
    """Begin one job of a multirun, unless its run is finished."""
    differs = ",".join(part for part in overrides if part.partition("=")[0] not in same) or "defaults"
    folder = sweep / f"{_file_name(differs)}-{signature(config)}"
    print(f"job {number}: {' '.join(overrides)}\n  -> {folder}", flush=True)
    if status(folder) == FINISHED:
        print("  finished already, skipped", flush=True)
        return
    given = [part for part in overrides if not part.startswith("output_dir=")]
    mode = ["hydra.mode=RUN", "output_dir='{}'".format(str(folder).replace("'", "\\'"))]
    searched = [item.path for item in HydraConfig.get().runtime.config_sources if item.provider == "command-line"]
    own = ["--config-dir", searched[0]] if searched else []
    command = [sys.executable, "-m", "alpaca.run", *own, *given, *mode]
    jobs.start(number, command, folder, config.sweep.parallel_jobs, config.parallelism.devices)


if __name__ == "__main__":
    sys.exit(main())
