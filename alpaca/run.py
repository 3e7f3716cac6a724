"""`python -m alpaca.run [overrides]`: train one run, or many with `-m` or `sweep=NAME`.

The config is composed and checked and the run directory chosen before torch is imported. One run
trains in this process tree (`launch.py`); in a multirun every job is a child process of its own, so
that memory, Weights & Biases and a crash stay with the job.
"""

import contextlib
import os
import re
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from alpaca import cli, paths, startup
from alpaca.checks import check
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.help import text as help_text
from alpaca.jobs import Jobs
from alpaca.signature import GENERATED, signature
from alpaca.sweeping import ray_gpus
from alpaca.sweeping.folder import SweepFolder
from alpaca.sweeping.launched import Task, own_folders, with_generated_data
from alpaca.sweeping.planning import other_evaluation
from alpaca.tracking.folders import RUN, SWEEP, refuse_foreign
from alpaca.tracking.run_directory import FINISHED, read_json, status, unfinished
from alpaca.tracking.wandb_places import IN_SWEEP

if TYPE_CHECKING:
    from alpaca.sweeping.elsewhere import Elsewhere


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    startup.start()
    if {"--help", "-h"} & set(sys.argv[1:] if argv is None else argv):
        print(help_text(), end="")
        return 0
    started = time.strftime("%Y%m%d-%H%M%S")
    ray_gpus.register()
    cli.register_run_dir(lambda composed: run_directory(_checked(composed), started))
    elsewhere: list[Elsewhere] = []
    single: list[int] = []
    arguments = cli.given_arguments(argv)
    jobs = Jobs()

    def begun(composed: DictConfig, place: Path) -> None:
        if cli.is_launched(composed.hydra):
            from alpaca.sweeping.elsewhere import Elsewhere

            elsewhere.append(Elsewhere(composed, place, arguments))

    sweep_folder = SweepFolder(begun)

    def here(composed: DictConfig) -> None:
        hydra = HydraConfig.get()
        if hydra.mode == RunMode.MULTIRUN:  # Hydra composed the first job; the whole sweep is ours from here
            place = Path(hydra.runtime.output_dir)
            with contextlib.suppress(OSError):
                place.rmdir()  # Hydra numbers its folders; ours say what differs
            sweep_folder.remove_record()
            try:
                raise SystemExit(_sweep(composed, arguments, started, jobs, place.parent))
            except (UserError, RunFailed) as error:
                raise SystemExit(cli.fail(str(error), error.exit_status)) from None
            except KeyboardInterrupt:
                raise SystemExit(
                    cli.fail("interrupted; the same command goes on with this sweep", cli.INTERRUPTED)
                ) from None
        overrides = list(hydra.overrides.task)
        config = _checked(composed)
        if config.sweep.dry_run:
            raise UserError(
                "sweep.dry_run=true: this is one run, no sweep; python -m alpaca.plan shows what it costs, "
                "-m or sweep=NAME make several"
            )
        folder = Path(hydra.runtime.output_dir)
        try:
            refuse_foreign(folder, RUN)  # before data are made and torch is imported
            if is_finished(config, folder):
                print(f"this run is finished: {folder}; train it once more with another output_dir=DIR", flush=True)
                if changed := other_evaluation(folder, config):
                    print(f"its scores are of another evaluation ({changed}): {_evaluate(folder)}", flush=True)
                single.append(0)
                return
            if config.data_source.path == GENERATED:
                config = with_generated_data(config, started, overrides)
            from alpaca.launch import launch

            if (done := finished_before(config, folder)) is not None:
                print(
                    f"the same run is finished in {done}; this trains it once more, in a new folder. To only score it "
                    f"again or otherwise: {_evaluate(done)}",
                    flush=True,
                )
            single.append(launch(config, folder, overrides))
            if single[-1] == 0 and IN_SWEEP not in os.environ and status(folder) == FINISHED:
                _say_what_is_next(folder, overrides)
        finally:
            if started in folder.name:
                for made in (folder, *folder.parents[:2]):  # outputs/<name>/<time>-<signature>
                    with contextlib.suppress(OSError):  # something is in it
                        made.rmdir()

    task = Task(here, frozenset(cli.unswept_keys(arguments)), started)
    try:
        with jobs.forwarding():
            ended = cli.main(task, argv, _checked)
            if ended == cli.INTERRUPTED:  # the signal may have gone to what made data here while jobs were running
                jobs.interrupt()
            try:
                jobs.finish()
            except KeyboardInterrupt:
                ended = ended or cli.fail("interrupted", cli.INTERRUPTED)
    except Exception as error:
        if not elsewhere:
            raise
        return elsewhere[0].failed(error)
    finally:
        sweep_folder.remove_if_empty()
    if elsewhere:
        ended = _closed(elsewhere[0], ended)
    if ended:
        return ended
    return max(single, default=0)


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


def _evaluate(run: Path) -> str:
    """What to type to score a finished run."""
    return f"{paths.python_command()} -m alpaca.evaluate {shlex.quote(str(run))} 'evaluation=[quick,generate]'"


def _say_what_is_next(folder: Path, overrides: list[str]) -> None:
    """Once for all ranks that a launcher began."""
    from alpaca.tracking.report import next_lines

    if int(os.environ.get("RANK") or os.environ.get("SLURM_PROCID") or 0):
        return
    with contextlib.suppress(OSError):
        for number, line in enumerate(next_lines(folder, overrides, own_folders())):
            print(f"{'' if number else 'next':<16}{line}", flush=True)


def _sweep(first: DictConfig, arguments: list[str], started: str, jobs: Jobs, place: Path) -> int:
    """The whole sweep whose first job Hydra composed; returns the exit status."""
    from alpaca.sweeping import expansion, record, sweep

    hydra = HydraConfig.get()
    refuse_foreign(place, SWEEP)  # the first job may name another folder than the command line
    typed = expansion.typed_overrides(arguments)
    if several := [part for part in typed if re.match(r"\+?sweep=.*[\[,(]", part)]:
        raise UserError(f"{several[0]}: one sweep at a time; give each a command of its own")
    combinations = expansion.combinations(typed, dict(hydra.sweeper.params or {}), list(first.sweep.one_at_a_time))
    own = own_folders()
    question = record.question_of(hydra.runtime.choices.get("sweep"), [Path(folder) for folder in own[1:]])
    return sweep.run(
        combinations,
        place,
        question,
        jobs,
        lambda config, overrides: with_generated_data(config, started, overrides),
        own,
        typed,
    )


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


def is_finished(config: Config, folder: Path) -> bool:
    """Whether `folder` holds this very run, finished: a script that repeats its command until it succeeds may end."""
    if status(folder) != FINISHED or config.data_source.path == GENERATED:
        return False
    return bool(read_json(folder / "env.json").get("signature") == signature(config))


def _checked(composed: DictConfig) -> Config:
    config = cli.typed(composed)
    check(config)
    return config


if __name__ == "__main__":
    sys.exit(main())
