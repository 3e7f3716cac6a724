"""Operations of a whole training, and the hours and dollars they take on a device.

Counted as in `alpaca/training/flops.py`: 2 for each weight of a linear layer and token forward, as much again
backward for the activations and once more where the weight is trained, 4 x heads x head_dim for each pair of
a query and a key, the output projection for labelled positions. What checkpointing does again is added here.
"""

from alpaca.config import Config
from alpaca.planning.architecture import Shape
from alpaca.planning.devices import Device, links
from alpaca.planning.memory import Placement, state_bytes, weight_bytes
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


def hours(config: Config, shape: Shape, counted: Parameters, plan: Schedule, device: Device, place: Placement) -> float:
    """Hours of the training: operations, and what several devices send each other, one after the other.

    A CPU's processes share its cores and send through its memory, which costs next to nothing.
    """
    rate = device.rate(place.precision) * 1e12
    work = operations(config, shape, counted, plan)
    if device.is_cpu:
        return work / rate / 3600
    return (work / (rate * place.ranks) + plan.steps * exchange_s(config, shape, counted, plan, device, place)) / 3600


def exchange_s(
    config: Config, shape: Shape, counted: Parameters, plan: Schedule, device: Device, place: Placement
) -> float:
    """Seconds in which one device sends and receives in one optimizer step.

    Copies exchange gradients once a step. Split weights are gathered for every forward and backward pass (only
    forward with `grad_op`), and their gradients are summed once a step.
    """
    if place.ranks == 1:
        return 0.0
    speeds, nodes = links(), config.parallelism.nodes
    assert device.link is not None
    within = speeds.network if nodes > 1 and config.parallelism.sharding != "hybrid" else device.link
    across = speeds.network if nodes > 1 else device.link
    gradients = 4 * counted.trained
    if place.split_over == 1:
        return 2 * gradients * (1 - 1 / place.ranks) / across / 1e9
    weights = weight_bytes(config, shape, counted, place)
    passes = plan.micro_batches * (1 if config.parallelism.sharding == "grad_op" else 2)
    share = 1 - 1 / place.split_over
    sent = (weights * passes + gradients) * share / within
    if place.ranks > place.split_over:  # hybrid: sums across nodes, a slice for each device
        sent += 2 * gradients / place.split_over / across
    if config.parallelism.offload:
        sent += (weights * passes + gradients) / place.split_over / speeds.bus
        touched = (12 + 2 * state_bytes(config)) * counted.trained * nodes / place.ranks
        sent += touched * (place.ranks // nodes) / speeds.host_update
    return sent / 1e9


def dollars(time: float, device: Device, devices: int) -> float | None:
    """List price of `time` hours on `devices`; None where the device has no price."""
    return None if device.dollars_per_hour is None else time * devices * device.dollars_per_hour
