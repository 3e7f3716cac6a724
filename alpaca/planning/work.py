"""Operations of a whole training, and the hours and dollars they take on a device.

Counted as in `alpaca/training/flops.py`: 2 for each weight of a linear layer and token forward, as much again
backward for the activations and once more where the weight is trained, 4 x heads x head_dim for each pair of
a query and a key, the output projection for labelled positions. What checkpointing does again is added here.
"""

from alpaca.config import Config
from alpaca.planning.architecture import Shape
from alpaca.planning.devices import Device, parallel_efficiency
from alpaca.planning.parameters import FULL, Parameters
from alpaca.planning.schedule import Schedule


def operations(config: Config, shape: Shape, counted: Parameters, plan: Schedule) -> float:
    """Operations of forward and backward over the whole run, all ranks."""
    full = config.adapter.kind == FULL
    adapter = shape.layers * sum(config.adapter.rank * (one.inputs + one.outputs) for one in counted.targets)
    frozen, trained = (0, shape.matrices) if full else (shape.matrices, adapter)
    forward = plan.executed * 2 * (frozen + trained)
    attention = 4 * shape.query_size * shape.layers * plan.pairs
    total = plan.executed * (4 * frozen + 6 * trained) + 3 * attention
    total += plan.supervised * 2 * shape.embedding * (3 if full else 2)
    again = {"on": 1.0, "selective": 0.5}.get(config.train.activation_checkpointing, 0.0)
    return float(total + again * (forward + attention))


def hours(config: Config, work: float, device: Device, devices: int, precision: str) -> float:
    """Hours of `work` operations on `devices` of a kind; a CPU's processes share its cores."""
    rate = device.rate(precision) * 1e12
    if not device.is_cpu:
        rate *= devices * (parallel_efficiency(config.parallelism) if devices > 1 else 1.0)
    return work / rate / 3600


def dollars(time: float, device: Device, devices: int) -> float | None:
    """List price of `time` hours on `devices`; None where the device has no price."""
    return None if device.dollars_per_hour is None else time * devices * device.dollars_per_hour
