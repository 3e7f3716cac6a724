"""The plan as commands use it: one line at the start of a run, and the refusal of what cannot fit."""

from alpaca.config import Config
from alpaca.errors import UserError
from alpaca.planning.counts import Counts
from alpaca.planning.estimate import Estimate, estimate

SURE = 1.15  # a plan is refused when it needs this many times the memory there is: predictions are within 15 %


def one_line(config: Config, counts: Counts | None = None) -> str:
    """Memory, time and where it runs, in a line."""
    return in_a_line(estimate(config, counts=counts))


def in_a_line(found: Estimate) -> str:
    """The line of a plan."""
    part = found.memory
    gib = 2**30
    pieces = {
        "weights": part.weights,
        "gradients": part.gradients,
        "optimizer": part.optimizer,
        "activations": part.activations,
    }
    listed = ", ".join(f"{name} {size / gib:.1f}" for name, size in pieces.items() if size >= 0.05 * gib)
    return (
        f"about {found.needed_gib:.1f} of {found.device.memory_gib:.1f} GiB{f' ({listed})' if listed else ''} and "
        f"{duration(found.hours)} of training (at {found.device.assumption(found.precision)})"
    )


def duration(hours: float) -> str:
    """Hours as people say them."""
    minutes = hours * 60
    if minutes < 1:
        return "under a minute"
    if minutes < 90:
        return f"{minutes:.0f} minutes"
    return f"{hours:.1f} hours" if hours < 48 else f"{hours / 24:.1f} days"


def refuse_impossible(config: Config, counts: Counts | None = None) -> None:
    """Raise `UserError` where the run cannot fit on the devices of this machine, unless `train.force=true`."""
    found = estimate(config, counts=counts)
    if config.train.force or found.needed_gib <= SURE * found.device.memory_gib:
        return
    raise UserError(too_large(config, found))


def too_large(config: Config, found: Estimate) -> str:
    """Why a plan is refused, with the nearest change."""
    return (
        f"model={config.model.name} adapter={config.adapter.name}: about {found.needed_gib:.1f} GiB are needed and "
        f"there are {found.device.memory_gib:.1f}; choose adapter=qlora or a smaller model, see python -m alpaca.plan; "
        "train.force=true starts all the same"
    )
