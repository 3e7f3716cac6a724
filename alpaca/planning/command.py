"""The plan as commands use it: the whole of it, one line at the start of a run, the refusal of what cannot fit."""

import json
import sys

from rich.console import Console

from alpaca.config import Config
from alpaca.errors import UserError
from alpaca.planning.counts import Counts
from alpaca.planning.devices import here
from alpaca.planning.estimate import Estimate, Planner, device_count, estimate
from alpaca.planning.memory import GIB
from alpaca.planning.plan import as_json, make_plan
from alpaca.planning.terminal import PARTS, duration, render
from alpaca.planning.variants import nearest

SURE = 1.15  # refused where it takes this many times the memory there is: predictions are within 15 %
WIDTH = 160  # of a plan that goes into a file


def plan(config: Config, *, to_json: bool = False, mfu: float | None = None) -> None:
    """Print the plan of `config`.

    Raises:
        UserError: rows that cannot be read or are not known, sizes that are not known.
    """
    made = make_plan(config, mfu)
    if to_json:
        print(json.dumps(as_json(made), indent=2))
        return
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for part in render(made):
        console.print(part)


def one_line(config: Config, counts: Counts | None = None) -> str:
    """What the run takes on this machine, in a line."""
    return in_a_line(estimate(config, counts=counts))


def in_a_line(found: Estimate) -> str:
    """The line of a plan."""
    sizes = {name: getattr(found.memory, part) / GIB for part, name in PARTS.items()}
    largest = sorted((name for name in sizes if sizes[name] >= 0.05), key=lambda name: -sizes[name])[:3]
    listed = ", ".join(f"{name} {sizes[name]:.1f}" for name in largest)
    cost = f", ${found.dollars:,.2f}" if found.dollars is not None else ""
    return (
        f"about {found.needed_gib:.1f} of {found.device.memory_gib:.1f} GiB ({listed}); training "
        f"{duration(found.hours)}{cost} ({found.device.assumption(found.precision)})"
    )


def refuse_impossible(config: Config, counts: Counts | None = None) -> None:
    """Raise `UserError` where the run cannot fit on this machine's devices, unless `train.force=true`."""
    if config.train.force:
        return
    device = here()
    planner = Planner.of(config, counts)
    found = planner.estimate(device, device_count(config, device))
    if found.needed_gib <= SURE * device.memory_gib:
        return
    change = nearest(planner, device, tuple(range(1, (device.count or 1) + 1)))
    way_out = "nothing near it fits here, choose a smaller model"
    if change is not None:
        way_out = f"{' '.join(change.variant.overrides)} fits ({change.estimate.needed_gib:.1f} GiB)"
    raise UserError(
        f"model={config.model.name} adapter={config.adapter.name} parallelism={config.parallelism.name}: needs about "
        f"{found.needed_gib:.1f} GiB and there are {device.memory_gib:.1f}; {way_out}; see python -m alpaca.plan, or "
        "train.force=true to start all the same"
    )
