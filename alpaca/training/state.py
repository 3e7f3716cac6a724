"""What a checkpoint holds of a run under way, and how it is put back."""

from dataclasses import asdict
from typing import Any

import torch
from torch import nn

from alpaca.training.checkpoint import Reader, restore_rng, rng_state
from alpaca.training.loop import LossScale, Progress
from alpaca.training.metering import Meter
from alpaca.training.sharding import trained
from alpaca.training.world import World

_NOT_SAVED = ("params", "lr", "peak_lr")  # parameters go by name, learning rates follow from settings and step


def tensors_of(
    model: nn.Module, optimizer: torch.optim.Optimizer, world: World, device: torch.device
) -> dict[str, Any]:
    """Every tensor of the state by name: `model/NAME`, `optimizer/NAME/KEY`, `rng/RANK/KIND`."""
    found: dict[str, torch.Tensor] = {f"model/{name}": tensor for name, tensor in trained(model).items()}
    for name, state in _states(model, optimizer).items():
        found |= {f"optimizer/{name}/{key}": value for key, value in state.items() if isinstance(value, torch.Tensor)}
    return found | rng_state(world.rank, device)


def facts_of(
    model: nn.Module, progress: Progress, meter: Meter, identity: dict[str, Any], world: World
) -> dict[str, Any]:
    """The rest, as JSON: the run's signature and settings, world size, optimizer's numbers, loss scale, totals."""
    saved = progress.optimizer.state_dict()["param_groups"]
    return {
        **identity,
        "world_size": world.size,
        "groups": [{key: value for key, value in group.items() if key not in _NOT_SAVED} for group in saved],
        "numbers": {
            name: {key: value for key, value in state.items() if not isinstance(value, torch.Tensor)}
            for name, state in _states(model, progress.optimizer).items()
        },
        "scale": asdict(progress.scale),
        "recent": progress.recent,
        "best": progress.best,
        "totals": meter.totals(),
    }


def restore(
    reader: Reader, model: nn.Module, progress: Progress, meter: Meter, world: World, device: torch.device
) -> None:
    """Put the state of `reader`'s checkpoint into model, optimizer, meter and generators.

    Raises:
        UserError: the checkpoint is of another model or optimizer.
    """
    parameters = trained(model)
    with torch.no_grad():
        for name, parameter in parameters.items():
            reader.read_into(f"model/{name}", parameter)
    optimizer, facts = progress.optimizer, reader.facts
    names = _names(model, optimizer)
    states: dict[int, dict[str, Any]] = {}
    for index, name in enumerate(names):
        prefix = f"optimizer/{name}/"
        state: dict[str, Any] = dict(facts["numbers"].get(name, {}))
        for key in reader.names(prefix):
            state[key.removeprefix(prefix)] = _loaded(reader, key, parameters[name])
        if state:
            states[index] = state
    current = optimizer.state_dict()["param_groups"]
    groups = [{**now, **_like(now, then)} for now, then in zip(current, facts["groups"], strict=True)]
    optimizer.load_state_dict({"state": states, "param_groups": groups})
    progress.step = facts["step"]
    progress.scale, progress.recent = LossScale(**facts["scale"]), list(facts["recent"])
    progress.best = facts.get("best")
    meter.resume(facts["totals"])
    restore_rng(reader, world.rank, device)


def _loaded(reader: Reader, name: str, parameter: torch.Tensor) -> torch.Tensor:
    """A state tensor where its parameter is: split like it if it has its shape."""
    shape = reader.shapes[name]
    if shape != tuple(parameter.shape) or not shape:
        return reader.read(name).to(parameter.device if shape else "cpu")
    target = torch.empty_like(parameter, dtype=reader.read(name, 0, 0).dtype, requires_grad=False)
    reader.read_into(name, target)
    return target


def _names(model: nn.Module, optimizer: torch.optim.Optimizer) -> list[str]:
    """Names of the optimizer's parameters in the order its state dict numbers them."""
    known = {id(parameter): name for name, parameter in trained(model).items()}
    return [known[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]


def _states(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, dict[str, Any]]:
    names, states = _names(model, optimizer), optimizer.state_dict()["state"]
    return {names[index]: state for index, state in states.items()}


def _like(now: dict[str, Any], then: dict[str, Any]) -> dict[str, Any]:
    """JSON made lists of tuples: what is a tuple now was one then."""
    return {key: tuple(value) if isinstance(now.get(key), tuple) else value for key, value in then.items()}
