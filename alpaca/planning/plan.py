"""Everything a plan says, found once, for the terminal and for `--json`."""

from dataclasses import dataclass
from typing import Any

from alpaca.config import Config
from alpaca.planning.counts import Counts
from alpaca.planning.devices import Device, here, known_devices, price_list
from alpaca.planning.estimate import Estimate, Planner, device_count
from alpaca.planning.generation import GenerationCost, generation_cost
from alpaca.planning.memory import GIB
from alpaca.planning.schedule import QUICK
from alpaca.planning.variants import Choice, cheapest, counts_here, nearest, over, wanted_counts
from alpaca.signature import GENERATED


@dataclass(frozen=True)
class Row:
    """One kind of device: its plan for each number of devices, and the nearest change where none of them fits."""

    device: Device
    plans: dict[int, Estimate]
    change: Choice | None


@dataclass(frozen=True)
class Plan:
    """The whole answer.

    Attributes:
        config: what was planned.
        here: the plan on this machine.
        here_change: the smallest change that fits on this machine; None where it fits or nothing does.
        rows: devices of the table.
        same, other: the cheapest choice of the same experiment, and with another adapter where that is cheaper.
        generation: cost of the data where a model writes it.
    """

    config: Config
    here: Estimate
    here_change: Choice | None
    rows: list[Row]
    same: Choice | None
    other: Choice | None
    generation: GenerationCost | None

    @property
    def counts(self) -> Counts:
        """Rows and tokens of an epoch."""
        return self.here.counts


def make_plan(config: Config, mfu: float | None = None) -> Plan:
    """Plan `config` for this machine and for the table.

    Raises:
        UserError: rows that cannot be read or are not known, sizes that are not known, seeds that cannot be read.
    """
    planner, device = Planner.of(config), here(mfu)
    mine = planner.estimate(device, device_count(config, device))
    listed = [found for found in known_devices(mfu) if found.listed]
    change = None
    if not mine.fits:
        change = nearest(planner, device, counts_here(planner.config, device))
    rows = [_row(planner, found) for found in listed]
    same = cheapest(planner, listed, same_numbers=True)
    other = cheapest(planner, listed, same_numbers=False)
    if other is not None and other.variant.same_numbers:
        other = None
    generated = config.data_source.path == GENERATED
    return Plan(config, mine, change, rows, same, other, generation_cost(config.generation) if generated else None)


def _row(planner: Planner, device: Device) -> Row:
    counts = wanted_counts(planner.config)
    plans = {count: planner.estimate(device, count, over(planner.config, count), look_at=QUICK) for count in counts}
    fits = any(plan.fits for plan in plans.values())
    return Row(device, plans, None if fits else nearest(planner, device, counts))


def as_json(plan: Plan) -> dict[str, Any]:
    """Plain values of everything."""
    mine, counts = plan.here, plan.counts
    steps = mine.schedule
    return {
        "model": plan.config.model.name,
        "adapter": plan.config.adapter.name,
        "parameters": mine.parameters.total,
        "trained_parameters": mine.parameters.trained,
        "rows": counts.rows,
        "examples": counts.examples,
        "held_out": counts.held_out,
        "counts_exact": counts.exact,
        "counts_from": counts.source,
        "steps": steps.steps,
        "original_steps": steps.original_steps,
        "tokens": {"logical": steps.logical, "executed": steps.executed, "supervised": steps.supervised},
        "tokens_exact": steps.exact,
        "operations": mine.operations,
        "prices_from": price_list(),
        "here": _estimate(mine),
        "here_change": _choice(plan.here_change),
        "devices": [
            {
                "name": row.device.name,
                "memory_gib": row.device.memory_gib,
                "dollars_per_hour": row.device.dollars_per_hour,
                "plans": [_estimate(found) for found in row.plans.values()],
                "change": _choice(row.change),
            }
            for row in plan.rows
        ],
        "cheapest": _choice(plan.same),
        "cheapest_other_adapter": _choice(plan.other),
        "generation": None if plan.generation is None else vars(plan.generation),
    }


def _estimate(found: Estimate) -> dict[str, Any]:
    return {
        "device": found.device.name,
        "devices": found.devices,
        "precision": found.precision,
        "speed_from": found.device.assumption(found.precision),
        "micro_batch_tokens": found.micro_batch_tokens,
        "micro_batches_per_step": round(found.schedule.micro_batches, 2),
        "memory_gib": {name: round(size / GIB, 3) for name, size in vars(found.memory).items()},
        "total_gib": round(found.memory_gib, 3),
        "needed_gib": round(found.needed_gib, 3),
        "available_gib": round(found.device.memory_gib, 2),
        "fits": found.fits,
        "hours": round(found.hours, 4),
        "dollars": None if found.dollars is None else round(found.dollars, 2),
    }


def _choice(choice: Choice | None) -> dict[str, Any] | None:
    if choice is None:
        return None
    return {"overrides": list(choice.variant.overrides), **_estimate(choice.estimate)}
