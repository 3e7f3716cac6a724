"""`sweep.dry_run=true`: the runs of a sweep, what each costs, and what is already there. Nothing is started."""

from typing import TYPE_CHECKING

from alpaca.cli import fail
from alpaca.config import Config
from alpaca.errors import UserError
from alpaca.sweeping.planning import Job
from alpaca.tracking.run_directory import FINISHED

if TYPE_CHECKING:
    from alpaca.planning.estimate import Estimate


def show(planned: list[Job]) -> None:
    """Print it: every job with its batch arithmetic, memory and cost, then the sum over those that would run."""
    from alpaca.planning.command import in_a_line
    from alpaca.planning.estimate import estimate
    from alpaca.planning.terminal import duration

    would_run, known, hours, dollars = 0, 0, 0.0, 0.0
    for job in planned:
        if job.config is None:
            fail(f"job {job.number} ({job.title}): {job.error}", UserError.exit_status)
            continue
        state = job.state
        print(f"job {job.number}: {job.title}\n  -> {job.folder}: {state}", flush=True)
        found: Estimate | None = None
        try:
            found = estimate(job.config)
            print(f"  {_batch(job.config, found)}\n  {in_a_line(found)}", flush=True)
        except UserError as error:  # rows that are not here: the run itself may fetch them
            print(f"  no estimate: {error}", flush=True)
        if state == FINISHED:
            continue
        would_run += 1
        if found is not None:
            known, hours, dollars = known + 1, hours + found.hours, dollars + (found.dollars or 0.0)
    cost = f", ${dollars:,.2f}" if dollars else ""
    rest = f"; {would_run - known} without an estimate" if known < would_run else ""
    runs = f"{would_run} run{'' if would_run == 1 else 's'}"
    print(f"{runs} to do; one after another they train {duration(hours)}{cost}{rest}")


def _batch(config: Config, found: "Estimate") -> str:
    """How a step comes about: examples, devices, micro-batches."""
    plan, ranks = found.schedule, found.devices
    devices = f"{ranks} devices" if ranks > 1 else "1 device"
    return (
        f"{plan.steps:,} steps of {config.train.global_batch_size} examples on {devices}, "
        f"{plan.micro_batches:.1f} micro-batches of at most {found.micro_batch_tokens:,} tokens each a step; "
        f"{plan.logical:,} tokens in all"
    )
