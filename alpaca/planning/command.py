"""The plan as commands use it: the whole of it, one line at the start of a run, the refusal of what cannot fit."""

import json
import sys
from collections.abc import Sequence
from dataclasses import replace

from rich.console import Console

from alpaca.config import Config
from alpaca.data.encoding import Examples
from alpaca.errors import UserError
from alpaca.planning.architecture import weights_folder
from alpaca.planning.counts import Counts, of_examples
from alpaca.planning.devices import available_gib, here
from alpaca.planning.estimate import Estimate, Planner, device_count, estimate
from alpaca.planning.memory import GIB
from alpaca.planning.plan import as_json, make_plan
from alpaca.planning.schedule import QUICK
from alpaca.planning.terminal import PARTS, duration, money, render
from alpaca.planning.variants import counts_here, nearest
from alpaca.signature import RANDOM

SURE = 1.15  # refused where it takes this many times the memory there is: predictions are within 15 %
WIDTH = 160  # of a plan that goes into a file


def plan(config: Config, *, to_json: bool = False, mfu: float | None = None, typed: Sequence[str] = ()) -> None:
    """Print the plan of `config`.

    Args:
        typed: the overrides that it was composed of.

    Raises:
        UserError: rows that cannot be read or are not known, sizes that are not known.
    """
    _refuse_sizes_of_another(config, typed)
    made = make_plan(config, mfu)
    if to_json:
        print(json.dumps(as_json(made), indent=2))
        return
    console = Console(file=sys.stdout, highlight=False, width=None if sys.stdout.isatty() else WIDTH)
    for part in render(made):
        console.print(part)


def _refuse_sizes_of_another(config: Config, typed: Sequence[str]) -> None:
    """A hub id that was typed alone has not the sizes of the option of conf/model that it takes the place of."""
    model = config.model
    keys = [part.lstrip("+").partition("=")[0] for part in typed]
    if "model.weights" not in keys or any(key.startswith("model.architecture") for key in keys):
        return
    if model.weights == RANDOM or weights_folder(model.weights) is not None:
        return
    raise UserError(
        f"model.weights={model.weights}: its sizes are not known here, those of model={model.name} are another "
        "model's; give a local folder, model.weights=DIR, or what differs, model.architecture.hidden_size=..."
    )


def one_line(config: Config, counts: Counts | None = None) -> str:
    """What the run takes on this machine, in a line."""
    return in_a_line(estimate(config, counts=counts))


def in_a_line(found: Estimate) -> str:
    """The line of a plan."""
    sizes = {name: getattr(found.memory, part) / GIB for part, name in PARTS.items()}
    largest = sorted((name for name in sizes if sizes[name] >= 0.05), key=lambda name: -sizes[name])[:3]
    listed = ", ".join(f"{name} {sizes[name]:.1f}" for name in largest)
    cost = "" if found.dollars is None else f", {money(found.dollars)}"
    free = available_gib() if found.device.is_cpu else found.device.memory_gib
    short = f", of which {free:.1f} are free now" if found.needed_gib > free else ""
    return (
        f"about {found.needed_gib:.1f} of {found.device.memory_gib:.1f} GiB{short} ({listed}); training "
        f"{duration(found.hours)}{cost} ({found.device.assumption(found.precision)})"
    )


def refuse_impossible(config: Config, counts: Counts | None = None) -> None:
    """Raise `UserError` where the run cannot fit on this machine's devices, unless `train.force=true`."""
    device = here()
    planner = Planner.of(config, counts)
    _refuse(planner, planner.estimate(device, device_count(config, device)))


def at_the_start(config: Config, examples: Examples, *, devices: int, nodes: int) -> str | None:
    """The line for a run whose rows are there; None for a model that cannot be planned.

    Args:
        devices, nodes: ranks of the run and the machines they are on.

    Raises:
        UserError: it cannot fit, and `train.force` is not set.
    """
    device = here()
    spread = replace(config.parallelism, devices=devices // nodes, nodes=nodes)
    try:
        planner = Planner.of(replace(config, parallelism=spread), of_examples(examples))
    except UserError:
        return None  # of an architecture without formulas nothing is said
    found = planner.estimate(device, devices, look_at=QUICK)
    _refuse(planner, found)
    return in_a_line(found)


def _refuse(planner: Planner, found: Estimate) -> None:
    config, device = planner.config, found.device
    if config.train.force or found.needed_gib <= SURE * device.memory_gib:
        return
    change = nearest(planner, device, counts_here(planner.config, device))
    way_out = "nothing near it fits here, choose a smaller model"
    if change is not None:
        way_out = f"{' '.join(change.variant.overrides)} fits ({change.estimate.needed_gib:.1f} GiB)"
    raise UserError(
        f"model={config.model.name} adapter={config.adapter.name} parallelism={config.parallelism.name}: needs about "
        f"{found.needed_gib:.1f} GiB and there are {device.memory_gib:.1f}; {way_out}; see python -m alpaca.plan, or "
        "train.force=true to start all the same"
    )
