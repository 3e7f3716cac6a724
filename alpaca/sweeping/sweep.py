"""Works a sweep off: what is finished is skipped, what was cut off goes on, one failure stops no other run.

Every run is a process of its own (`alpaca/jobs.py`), so that memory, W&B and a crash stay with it.
"""

import os
import shlex
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from alpaca.cli import INTERRUPTED as INTERRUPTED_STATUS
from alpaca.cli import fail
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.jobs import Jobs
from alpaca.signature import is_generated
from alpaca.sweeping import closing, damage, record
from alpaca.sweeping.expansion import Combination
from alpaca.sweeping.planning import DAMAGED, MISSING, REFUSED, RUNNING, Job, check_baseline, other_evaluation, plan
from alpaca.tracking.run_directory import FAILED, FINISHED, INTERRUPTED
from alpaca.tracking.wandb_places import places_of_sweep
from alpaca.tracking.wandb_settings import DISABLED, REPORT, chosen_mode, is_silent, names, notes

HINT = "the same command runs what is missing"


def run(
    combinations: list[Combination],
    place: Path,
    question: record.Question,
    jobs: Jobs,
    generate: Callable[[Config, list[str]], Config],
    own: list[str],
    typed: list[str],
) -> int:
    """Run every combination under `place`; returns the exit status.

    Args:
        generate: makes the data of a job that trains on generated rows; the same data only once.
        own: Hydra's own arguments that every job needs, such as a folder of options.
        typed: the overrides of the command line.

    Raises:
        UserError: no job can run.
        KeyboardInterrupt: a signal asked for the end; all jobs have ended.
    """
    planned, lines = plan(combinations, place)
    first = first_config(planned)
    lines += check_baseline(planned, first.sweep.baseline, typed)
    _announce(planned, place, first, question, lines)
    if first.sweep.dry_run:
        from alpaca.sweeping.dry_run import show

        show(planned)
        return 0
    record.write(place, first.name, question, [job.record() for job in planned], first.sweep.baseline)
    with tempfile.TemporaryDirectory(prefix="alpaca-sweep-") as notes:
        jobs.on_end = lambda number, status: _ended(planned, number, status, Path(notes))
        for job in planned:
            _start(job, jobs, Path(notes), generate, own)
        jobs.finish()
    return close(planned, place)


def first_config(planned: list[Job]) -> Config:
    """The config of the first job that can run.

    Raises:
        UserError: none can.
    """
    for job in planned:
        if job.config is not None:
            return job.config
    errors = {job.error for job in planned}
    for job in planned if len(errors) > 1 else []:
        fail(f"job {job.number} ({job.title}): {job.error}", UserError.exit_status)
    raise UserError(planned[0].error or "" if len(errors) == 1 else "no job of this sweep can run")


def _announce(planned: list[Job], place: Path, config: Config, question: record.Question, lines: list[str]) -> None:
    states = [job.state for job in planned]
    known = (FINISHED, FAILED, INTERRUPTED, DAMAGED, RUNNING, MISSING, REFUSED)
    counts = [f"{states.count(state)} {state}" for state in known if state in states]
    if question.question:
        print(question.question)
    print(f"sweep {config.name}: {len(planned)} runs in {place}: {', '.join(counts)}", flush=True)
    if problem := record.damage(place):
        print(f"  {problem}; the file is damaged, what it says is not used: the sweep writes it anew", flush=True)
    for line in lines:
        print(f"  {line}", flush=True)
    for line in notes(config):
        print(f"warning: {line}", flush=True)


def _start(job: Job, jobs: Jobs, notes: Path, generate: Callable[[Config, list[str]], Config], own: list[str]) -> None:
    """Begin one job, unless its run is finished, held by another process, or left as it failed."""
    if job.config is None or job.folder is None:
        fail(f"job {job.number} ({job.title}): {job.error}", UserError.exit_status)
        return
    state = job.state
    print(f"job {job.number}: {job.title}\n  -> {job.folder}", flush=True)
    if state == FINISHED:
        print("  finished already, skipped", flush=True)
        if changed := other_evaluation(job):
            print(f"  its scores are of another evaluation ({changed})", flush=True)
        return
    if state == RUNNING:
        print("  another process is at it, left to it", flush=True)
        return
    if state == FAILED and not job.config.sweep.retry_failed:
        print("  failed before, left as it is (sweep.retry_failed=false)", flush=True)
        return
    if state == DAMAGED:
        print(f"  {damage.of_summary(job.folder)}; the file is damaged: the run is run again", flush=True)
    config = job.config
    if is_generated(config.data_source.path):
        try:
            generate(config, job.combination.overrides)
        except (UserError, RunFailed) as error:
            fail(f"job {job.number} ({job.title}): {error}", error.exit_status)
            _close_job(job, str(error))
            return
    command = command_of(job.combination.overrides, job.folder, notes / str(job.number), own)
    jobs.start(job.number, command, job.folder, config.sweep.parallel_jobs, config.parallelism.devices)


def command_of(overrides: list[str], folder: Path, note: Path, own: list[str]) -> list[str]:
    """The process of a job: its overrides, as one run in `folder`, its last words in `note`."""
    given = [part for part in overrides if not part.startswith("output_dir=")]
    mode = ["hydra.mode=RUN", "sweep.dry_run=false", "output_dir='{}'".format(str(folder).replace("'", "\\'"))]
    return [sys.executable, "-m", "alpaca.sweeping.job", str(os.getpid()), str(note), *own, *given, *mode]


def _ended(planned: list[Job], number: int, status: int, notes: Path) -> None:
    """A job has ended by itself: where it failed, its directory says so."""
    if status in (0, INTERRUPTED_STATUS):
        return
    note = notes / str(number)
    said = note.read_text(encoding="utf-8") if note.is_file() else ""
    _close_job(next(job for job in planned if job.number == number), closing.reason(status, said))


def _close_job(job: Job, error: str) -> None:
    assert job.config is not None
    assert job.settings is not None
    assert job.folder is not None
    closing.close(job.folder, job.config, job.settings, job.signature or "", job.combination.overrides, error)


def report_command(place: Path) -> str:
    """What to type for the report of the sweep in `place`."""
    return f"python -m alpaca.compare {shlex.quote(str(place))}"


def close(planned: list[Job], place: Path) -> int:
    """The report, and a last line where a run is not finished; returns the exit status."""
    from alpaca.report.command import write_report

    try:
        write_report(place, say=print)
    except (UserError, RunFailed) as error:
        print(f"no report: {error}; for one afterwards: {report_command(place)}", flush=True)
    else:
        if any(job.config is not None and chosen_mode(job.config.tracker.mode) != DISABLED for job in planned):
            closing.tell_wandb("alpaca.sweeping.wandb_report", place)
    if planned and not is_silent():
        folders = [job.folder for job in planned if job.folder is not None]
        config = first_config(planned)
        for where in places_of_sweep(place, folders, names(config, place, REPORT).group):
            print(f"wandb  {where}", flush=True)
    states = [job.state for job in planned]
    if bad := [state for state in states if state not in (FINISHED, RUNNING)]:
        return fail(f"{len(bad)} of {len(states)} runs did not finish; {HINT}", RunFailed.exit_status)
    return 0
