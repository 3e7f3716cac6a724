"""How many weights are trained, and how many there are in all, for one model and adapter: formulas only."""

from dataclasses import dataclass

from alpaca.config import AdapterConfig
from alpaca.errors import UserError
from alpaca.planning.architecture import Linear, Shape

FULL = "full"
ROLES: dict[str, tuple[str, ...]] = {
    "all": ("query", "key", "value", "output", "gate", "up", "down"),
    "attention": ("query", "key", "value", "output"),
    "query_value": ("query", "value"),
    "mlp": ("gate", "up", "down"),
    "experts": (),  # no model that is planned has any; the run refuses it
}


@dataclass(frozen=True)
class Parameters:
    """Counts of weights.

    Attributes:
        base: weights of the base model, tied ones once.
        trained: trained weights, adapters included.
        total: base and adapter.
        targets: linear layers of one decoder layer that carry an adapter.
        layer_adapter: adapter weights of one decoder layer.
    """

    base: int
    trained: int
    total: int
    targets: tuple[Linear, ...]
    layer_adapter: int


def parameters(shape: Shape, adapter: AdapterConfig) -> Parameters:
    """Weights of `shape` under `adapter`: LoRA adds rank x (inputs + outputs) to a matrix, DoRA outputs more.

    Raises:
        UserError: `adapter.targets` names no role or linear layer of the model.
    """
    if adapter.kind == FULL:
        return Parameters(shape.parameters, shape.parameters, shape.parameters, (), 0)
    targets = targeted(shape, adapter.targets)
    added = sum(
        adapter.rank * (linear.inputs + linear.outputs) + (linear.outputs if adapter.use_dora else 0)
        for linear in targets
    )
    trained = shape.layers * added
    return Parameters(shape.parameters, trained, shape.parameters + trained, targets, added)


def targeted(shape: Shape, targets: list[str]) -> tuple[Linear, ...]:
    """The linear layers of a decoder layer that `adapter.targets` means."""
    chosen: set[str] = set()
    for target in targets or ["all"]:
        if target in ROLES:
            chosen |= {linear.name for linear in shape.linears if linear.role in ROLES[target]}
            continue
        named = {linear.name for linear in shape.linears if linear.name == target.rsplit(".", 1)[-1]}
        if not named:
            known = ", ".join(linear.name for linear in shape.linears)
            raise UserError(
                f"adapter.targets: {target!r} is no role ({', '.join(ROLES)}) and the model has no linear layer of "
                f"that name; it has {known}"
            )
        chosen |= named
    return tuple(linear for linear in shape.linears if linear.name in chosen)
