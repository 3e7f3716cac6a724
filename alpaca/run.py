"""`python -m alpaca.run [overrides]`: train one run, or many with `-m` or `sweep=NAME`.

The config is composed and checked and the run directory chosen before torch is imported. One run
trains in this process tree (`launch.py`); in a multirun every job is a child process of its own, so
that memory, Weights & Biases and a crash stay with the job.
"""

import contextlib
import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from alpaca import cli, startup
from alpaca.checks import check
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.help import text as help_text
from alpaca.jobs import Jobs
from alpaca.signature import GENERATED, signature
from alpaca.sweeping.folder import SweepFolder
from alpaca.tracking.folders import RUN, SWEEP, refuse_foreign
from alpaca.tracking.run_directory import FINISHED, status, unfinished

if TYPE_CHECKING:
    from alpaca.sweeping.elsewhere import Elsewhere


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    startup.start()
    if {"--help", "-h"} & set(sys.argv[1:] if argv is None else argv):
        print(help_text(), end="")
        return 0
    started = time.strftime("%Y%m%d-%H%M%S")
    cli.register_run_dir(lambda composed: run_directory(_checked(composed), started))
    sweep_folder = SweepFolder()
    elsewhere: list[Elsewhere] = []
    single: list[int] = []
    refused: list[int] = []
    arguments = cli.given_arguments(argv)
    jobs, same = Jobs(), cli.unswept_keys(arguments)

    def begun(composed: DictConfig, place: Path) -> None:
        if not _is_ours(composed.hydra):
            from alpaca.sweeping.elsewhere import Elsewhere

            elsewhere.append(Elsewhere(composed, place, arguments))

    sweep_folder.register(begun)

    def job(composed: DictConfig) -> None:
        hydra = HydraConfig.get()
        overrides = list(hydra.overrides.task)
        if hydra.mode == RunMode.MULTIRUN:
            place = Path(hydra.runtime.output_dir)
            with contextlib.suppress(OSError):
                place.rmdir()  # Hydra numbers its folders; ours say what differs
            if _is_ours(hydra):  # Hydra composed the first job; the whole sweep is ours from here
                sweep_folder.remove_record()
                try:
                    raise SystemExit(_sweep(composed, arguments, started, jobs, place.parent))
                except (UserError, RunFailed) as error:
                    raise SystemExit(cli.fail(str(error), error.exit_status)) from None
            reason = ""
            try:
                config = _checked(composed)
                if config.data_source.path == GENERATED:  # once, before jobs that want the same begin side by side
                    _with_generated_data(config, started, overrides)
                _start(jobs, config, overrides, same, place.parent, hydra.job.num)
            except (UserError, RunFailed) as error:  # this job cannot run, others may
                reason = str(error)
                refused.append(cli.fail(f"job {hydra.job.num} ({' '.join(overrides)}): {error}", 2))
            if not str(hydra.launcher._target_).endswith("BasicLauncher"):  # on another machine: only errors come back
                jobs.finish()
                if any(jobs.ended + refused):
                    why = f": {reason}" if reason else ""
                    raise RunFailed(f"job {hydra.job.num} ({' '.join(overrides)}) did not finish{why}")
            return
        config = _checked(composed)
        if config.sweep.dry_run:
            raise UserError(
                "sweep.dry_run=true: this is one run, no sweep; python -m alpaca.plan shows what it costs, "
                "-m or sweep=NAME make several"
            )
        folder = Path(hydra.runtime.output_dir)
        try:
            refuse_foreign(folder, RUN)  # before data are made and torch is imported
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

    try:
        with jobs.forwarding():
            ended = cli.main(job, argv)
            if ended == cli.INTERRUPTED:  # the signal may have gone to what made data here while jobs were running
                jobs.interrupt()
            try:
                jobs.finish()
            except KeyboardInterrupt:
                ended = ended or cli.fail("interrupted", cli.INTERRUPTED)
    except Exception:  # of a launcher, whose other jobs may go on
        if not elsewhere:
            raise
        traceback.print_exc()
        elsewhere[0].leave()
        return RunFailed.exit_status
    finally:
        sweep_folder.remove_if_empty()
    if elsewhere:
        ended = _closed(elsewhere[0], ended)
    if ended:
        return ended
    failures = jobs.ended + refused
    if len(failures) > 1 and any(failures):
        return cli.fail(f"{sum(map(bool, failures))} of {len(failures)} runs did not finish", 1)
    return max(single + failures, default=0)


def _closed(elsewhere: "Elsewhere", ended: int) -> int:
    """The end of a multirun of another launcher or sweeper that ended with this status; returns the exit status."""
    try:
        if ended == cli.INTERRUPTED:
            elsewhere.leave()
        elif ended != UserError.exit_status:
            return max(ended, elsewhere.close())
    except (UserError, RunFailed) as error:
        return cli.fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        return cli.fail("interrupted", cli.INTERRUPTED)
    return ended


def _is_ours(hydra: Any) -> bool:
    """Whether the runs are a plain grid for this machine: neither another sweeper nor another launcher was chosen."""
    names = (str(hydra.sweeper._target_), str(hydra.launcher._target_))
    return names[0].endswith("BasicSweeper") and names[1].endswith("BasicLauncher")


def _sweep(first: DictConfig, arguments: list[str], started: str, jobs: Jobs, place: Path) -> int:
    """The whole sweep whose first job Hydra composed; returns the exit status."""
    from alpaca.sweeping import expansion, record, sweep

    hydra = HydraConfig.get()
    refuse_foreign(place, SWEEP)  # the first job may name another folder than the command line
    typed = expansion.typed_overrides(arguments)
    if several := [part for part in typed if re.match(r"\+?sweep=.*[\[,(]", part)]:
        raise UserError(f"{several[0]}: one sweep at a time; give each a command of its own")
    combinations = expansion.combinations(typed, dict(hydra.sweeper.params or {}), list(first.sweep.one_at_a_time))
    searched = _own_folders()
    own = ["--config-dir", searched[0]] if searched else []
    question = record.question_of(hydra.runtime.choices.get("sweep"), [Path(folder) for folder in searched])
    return sweep.run(
        combinations,
        place,
        question,
        jobs,
        lambda config, overrides: _with_generated_data(config, started, overrides),
        own,
    )


def _own_folders() -> list[str]:
    """Folders of options that the user named with --config-dir."""
    return [item.path for item in HydraConfig.get().runtime.config_sources if item.provider == "command-line"]


def run_directory(config: Config, started: str) -> Path:
    """Where the run is written.

    The folder of `train.resume`, or `output_dir`, or with `train.resume=auto` the newest unfinished run of the same
    signature, else a new `outputs/<name>/<time>-<signature>`.
    """
    if config.train.resume not in ("auto", "never"):
        folder = Path(config.train.resume).expanduser()
        refuse_foreign(folder, RUN, key="train.resume")
        return folder
    if config.output_dir:
        return Path(config.output_dir).expanduser()
    mark, folder = signature(config), Path("outputs") / config.name
    if config.train.resume == "auto" and (found := unfinished(folder, mark)) is not None:
        return found
    number, new = 1, folder / f"{started}-{mark}"
    while status(new) == FINISHED:  # a small run, finished within the same second
        number += 1
        new = folder / f"{started}.{number}-{mark}"
    return new


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
    generate(config, place, overrides, beside_training=True)
    return trained_on(config, place)


def _checked(composed: DictConfig) -> Config:
    config = cli.typed(composed)
    check(config)
    return config


def _start(jobs: Jobs, config: Config, overrides: list[str], same: set[str], sweep: Path, number: int) -> None:
    """Begin one job of a multirun of another sweeper or launcher, unless its run is finished."""
    from alpaca.sweeping.expansion import file_name
    from alpaca.sweeping.sweep import command_of

    differs = ",".join(part for part in overrides if part.partition("=")[0] not in same) or "defaults"
    folder = sweep / f"{file_name(differs)}-{signature(config)}"
    print(f"job {number}: {' '.join(overrides)}\n  -> {folder}", flush=True)
    if status(folder) == FINISHED:
        print("  finished already, skipped", flush=True)
        return
    searched = _own_folders()
    own = ["--config-dir", searched[0]] if searched else []
    command = command_of(overrides, folder, Path(os.devnull), own)
    jobs.start(number, command, folder, config.sweep.parallel_jobs, config.parallelism.devices)


if __name__ == "__main__":
    sys.exit(main())
