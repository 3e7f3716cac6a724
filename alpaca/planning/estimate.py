"""The plan of one run on one kind of device: steps, tokens, memory of a device, hours, dollars.

`estimate(config)` is for this machine, or for a device of the table. Nothing is loaded but, where they are
on this machine, the rows and the tokenizer.
"""

from dataclasses import dataclass, field

from alpaca.config import Config
from alpaca.data.steps import token_budget
from alpaca.planning import schedule as schedules
from alpaca.planning.architecture import Shape, shape
from alpaca.planning.counts import Counts, count
from alpaca.planning.devices import Device, here
from alpaca.planning.memory import Batch, Memory, Placement, memory
from alpaca.planning.micro_batch import FREE_SHARE, SHARDED_TOKENS, largest_that_fits
from alpaca.planning.parameters import Parameters, parameters
from alpaca.planning.schedule import Schedule, schedule
from alpaca.planning.work import dollars, hours, operations


@dataclass(frozen=True)
class Estimate:
    """What a run takes on one kind of device.

    Attributes:
        device, devices, nodes: where, how many in all, on how many machines.
        precision: what it computes in there.
        parameters: weights, trained ones among them.
        counts: rows and tokens of an epoch.
        schedule: steps and tokens of the whole run.
        micro_batch_tokens: the budget of one micro-batch.
        memory: of one device at the peak of a step.
        operations: of the whole training.
        hours: of the training, without scoring and saving.
        dollars: at list price; None where the device has none.
    """

    device: Device
    devices: int
    nodes: int
    precision: str
    parameters: Parameters
    counts: Counts
    schedule: Schedule
    micro_batch_tokens: int
    memory: Memory
    operations: float
    hours: float
    dollars: float | None

    @property
    def steps(self) -> int:
        """Optimizer steps."""
        return self.schedule.steps

    @property
    def memory_gib(self) -> float:
        """GiB on one device at the peak."""
        return self.memory.total_gib

    @property
    def needed_gib(self) -> float:
        """GiB out of `device.memory_gib`: processes of a CPU share the machine's memory."""
        each = self.devices // self.nodes if self.device.is_cpu else 1
        return self.memory_gib * each

    @property
    def fits(self) -> bool:
        """Whether the device has that much."""
        return self.needed_gib <= self.device.memory_gib


@dataclass
class Planner:
    """What does not depend on the device, found once, to plan one config for many devices."""

    config: Config
    counts: Counts
    shape: Shape
    _schedules: dict[tuple[int, int, int, str, bool], Schedule] = field(default_factory=dict)

    @classmethod
    def of(cls, config: Config, counts: Counts | None = None) -> "Planner":
        """Count the rows of `config`, unless they are counted, and find the model's shape.

        Raises:
            UserError: rows that cannot be read or are not known, sizes that are not known.
        """
        found = shape(config.model)
        return cls(config, counts if counts is not None else count(config), found)

    def estimate(
        self, device: Device, devices: int, config: Config | None = None, *, look_at: int = schedules.THOROUGH
    ) -> Estimate:
        """The plan on `devices` of `device`; `config` is a variation that keeps model, data and steps."""
        config = config or self.config
        counted = parameters(self.shape, config.adapter)
        nodes = config.parallelism.nodes
        place = placement(config, device, devices)
        budget = self._budget(config, counted, place, device)
        plan = self._schedule(config, place.ranks, budget, look_at)
        seen = plan.pairs / max(1, plan.executed)
        batch = Batch(plan.largest, plan.largest_labels, plan.most_micro_batches > 1, seen)
        work = operations(config, self.shape, counted, plan)
        time = hours(config, self.shape, counted, plan, device, place)
        return Estimate(
            device,
            devices,
            nodes,
            place.precision,
            counted,
            self.counts,
            plan,
            budget,
            memory(config, self.shape, counted, place, batch),
            work,
            time,
            dollars(time, device, devices),
        )

    def _schedule(self, config: Config, ranks: int, budget: int, look_at: int) -> Schedule:
        key = (ranks, budget, look_at, config.train.packing, schedules.shares_prefix(config))
        if key not in self._schedules:
            self._schedules[key] = schedule(
                config, self.counts, ranks=ranks, micro_batch_tokens=budget, look_at=look_at
            )
        return self._schedules[key]

    def _budget(self, config: Config, counted: Parameters, place: Placement, device: Device) -> int:
        """The rule of `alpaca/training/choices.py`; what a GPU would find by trying is found by prediction."""
        train = config.train
        start = token_budget(train.micro_batch_tokens, train.max_length)
        if train.micro_batch_tokens is not None or not place.gpu:
            return start
        if place.split_over > 1:
            return max(SHARDED_TOKENS, start)

        def fits(tokens: int) -> bool:
            batch = Batch(tokens, round(tokens * self.counts.labels / self.counts.logical), True)
            needed = memory(config, self.shape, counted, place, batch).total_gib
            return needed <= (1 - FREE_SHARE) * device.memory_gib

        return largest_that_fits(fits, start, train.max_length)


def placement(config: Config, device: Device, devices: int) -> Placement:
    """How `devices` of a kind share the model."""
    sharding = config.parallelism.sharding
    ranks = 1 if sharding == "none" else devices
    split = 1
    if ranks > 1 and sharding in ("full", "grad_op"):
        split = ranks
    elif ranks > 1 and sharding == "hybrid":
        split = ranks // config.parallelism.nodes
    return Placement(ranks, split, not device.is_cpu, device.precision(config.train.precision))


def device_count(config: Config, device: Device) -> int:
    """Devices of the whole run: as set, else all that are here, of a CPU one process."""
    parallelism = config.parallelism
    if parallelism.sharding == "none":
        return 1
    return (parallelism.devices or device.count or 1) * parallelism.nodes


def estimate(config: Config, device: Device | None = None, *, counts: Counts | None = None) -> Estimate:
    """The plan of `config` on this machine, or on `device`.

    Args:
        counts: rows and tokens, where they were counted before.

    Raises:
        UserError: rows that cannot be read or are not known, sizes that are not known.
    """
    chosen = device if device is not None else here()
    return Planner.of(config, counts).estimate(chosen, device_count(config, chosen))
