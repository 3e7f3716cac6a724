"""Works a sweep off: what is finished is skipped, what was cut off goes on, one failure stops no other run.

Every run is a process of its own (`alpaca/jobs.py`), so that memory, W&B and a crash stay with it.
"""

import contextlib
import os
import shlex
import sys
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TextIO

from alpaca.cli import INTERRUPTED as INTERRUPTED_STATUS
from alpaca.cli import fail
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.jobs import Jobs
from alpaca.signature import is_generated
from alpaca.sweeping import closing, damage, record
from alpaca.sweeping.expansion import Combination
from alpaca.sweeping.planning import DAMAGED, MISSING, REFUSED, RUNNING, Job, check_baseline, other_evaluation, plan
from alpaca.tracking.folders import LOCK, SWEEP
from alpaca.tracking.lock import HeldError, hold
from alpaca.tracking.run_directory import FAILED, FINISHED, IN_USE, INTERRUPTED, InUseError
from alpaca.tracking.wandb_places import places_of_sweep
from alpaca.tracking.wandb_settings import DISABLED, REPORT, chosen_mode, is_silent, names, notes

LEFT = "  another process is at it, left to it"
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

    def write_list() -> None:
        record.write(place, first.name, question, [job.record() for job in planned], first.sweep.baseline)

    left: set[int] = set()
    with contextlib.ExitStack() as held, tempfile.TemporaryDirectory(prefix="alpaca-sweep-") as notes:
        if (lock := lock_of(place)) is not None:
            held.enter_context(lock)
            write_list()
        else:
            print("  another sweep is at work in this folder: what it runs is left to it", flush=True)
        jobs.on_end = lambda number, status: _ended(planned, number, status, Path(notes), left)
        for job in planned:
            _start(job, jobs, Path(notes), generate, own, left)
        jobs.finish()
    return close(planned, place, left, write_list)


def lock_of(place: Path) -> TextIO | None:
    """The lock of a sweep's folder, whose holder alone writes its list and report; None while another sweep has it.

    Raises:
        UserError: the folder cannot be written.
    """
    try:
        return hold(place / LOCK, SWEEP)
    except HeldError:
        return None
    except OSError as error:
        raise UserError(f"output_dir={place}: {error.strerror}; choose a folder that can be written") from error


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


def _start(
    job: Job,
    jobs: Jobs,
    notes: Path,
    generate: Callable[[Config, list[str]], Config],
    own: list[str],
    left: set[int],
) -> None:
    """Begin one job, unless its run is finished, held by another process (then it is `left`), or left as it failed."""
    if job.config is None or job.folder is None:
        fail(f"job {job.number} ({job.title}): {job.error}", UserError.exit_status)
        return
    state = job.state
    print(f"job {job.number}: {job.title}\n  -> {job.folder}", flush=True)
    if state == FINISHED:
        print("  finished already, skipped", flush=True)
        if changed := other_evaluation(job.folder, job.config):
            print(f"  its scores are of another evaluation ({changed})", flush=True)
        return
    if state == RUNNING:
        print(LEFT, flush=True)
        left.add(job.number)
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
        except InUseError as error:
            print(f"  its data are being made: {error}", flush=True)
            left.add(job.number)
            return
        except (UserError, RunFailed) as error:
            fail(f"job {job.number} ({job.title}): {error}", error.exit_status)
            _close_job(job, str(error))
            return
    jobs.room(config.sweep.parallel_jobs, config.parallelism.devices)
    if (state := job.state) in (FINISHED, RUNNING):  # of another sweep, while this one waited for room
        print(f"job {job.number}: {state} by now, left to the process that began it", flush=True)
        left.add(job.number)
        return
    command = command_of(job.combination.overrides, job.folder, notes / str(job.number), own)
    jobs.start(job.number, command, job.folder, config.sweep.parallel_jobs, config.parallelism.devices)


def command_of(overrides: list[str], folder: Path, note: Path, own: list[str]) -> list[str]:
    """The process of a job: its overrides, as one run in `folder`, its last words in `note`."""
    given = [part for part in overrides if not part.startswith("output_dir=")]
    mode = ["hydra.mode=RUN", "sweep.dry_run=false", "output_dir='{}'".format(str(folder).replace("'", "\\'"))]
    return [sys.executable, "-m", "alpaca.sweeping.job", str(os.getpid()), str(note), *own, *given, *mode]


def _ended(planned: list[Job], number: int, status: int, notes: Path, left: set[int]) -> bool:
    """A job has ended by itself: where it failed, its directory says so. False for one that another process has."""
    if status in (0, INTERRUPTED_STATUS):
        return True
    job = next(job for job in planned if job.number == number)
    note = notes / str(number)
    said = note.read_text(encoding="utf-8") if note.is_file() else ""
    if job.state == FINISHED or (status == UserError.exit_status and IN_USE in said):
        print(f"job {number}:{LEFT}", flush=True)
        left.add(number)
        return False
    _close_job(job, closing.reason(status, said))
    return True


def _close_job(job: Job, error: str) -> None:
    assert job.config is not None
    assert job.settings is not None
    assert job.folder is not None
    closing.close(job.folder, job.config, job.settings, job.signature or "", job.combination.overrides, error)


def report_command(place: Path) -> str:
    """What to type for the report of the sweep in `place`."""
    return f"python -m alpaca.compare {shlex.quote(str(place))}"


def close(
    planned: list[Job],
    place: Path,
    left: Collection[int] = (),
    write_list: Callable[[], None] = lambda: None,
) -> int:
    """The report, and a last line where a run is not finished; returns the exit status.

    The last of several sweeps in one folder writes it: none while a run is under way, and none without the lock.

    Args:
        left: numbers of jobs that other processes have, whose ends are theirs.
        write_list: writes `sweep.yaml`, called with the lock held.
    """
    if under_way := [job.state for job in planned].count(RUNNING):
        print(
            f"no report yet: another process is at {under_way} of the runs; for one: {report_command(place)}",
            flush=True,
        )
    elif (lock := lock_of(place)) is None:
        print(f"no report yet: another sweep is at work in {place}, which writes one at its end", flush=True)
    else:
        with lock:
            write_list()
            _report(planned, place)
    if planned and not is_silent():
        folders = [job.folder for job in planned if job.folder is not None]
        config = first_config(planned)
        for where in places_of_sweep(place, folders, names(config, place, REPORT).group):
            print(f"wandb  {where}", flush=True)
    states = [job.state for job in planned if job.number not in left]
    if bad := [state for state in states if state not in (FINISHED, RUNNING)]:
        return fail(f"{len(bad)} of {len(planned)} runs did not finish; {HINT}", RunFailed.exit_status)
    return 0


def _report(planned: list[Job], place: Path) -> None:
    from alpaca.report.command import write_report

    try:
        write_report(place, say=print)
    except (UserError, RunFailed) as error:
        print(f"no report: {error}; for one afterwards: {report_command(place)}", flush=True)
        return
    if any(job.config is not None and chosen_mode(job.config.tracker.mode) != DISABLED for job in planned):
        closing.tell_wandb("alpaca.sweeping.wandb_report", place)
