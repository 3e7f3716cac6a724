"""Which weights get LoRA: roles (`all`, `attention`, `query_value`, `mlp`, `experts`) of any model, or names of layers.

Roles come from what a layer does, not from a list of names. One token goes through the model with an
attention function that looks at its query, key and value: a linear layer whose output reaches the query
with no other linear layer in between makes the query. Everything in the module that called the attention
is `attention`; the rest of a decoder layer is `mlp`. `experts` are those kept as one tensor (experts, ., .), which are
no linear layers and which `all` leaves out: under LoRA PEFT makes their updated weights anew in every forward, so they
cost as much memory again.
"""

import functools
import inspect
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from alpaca.errors import UserError
from alpaca.modeling.layers import repeated_layers

EXPERTS = "experts"
ROLES = ("all", "attention", "query_value", "mlp", EXPERTS)
MODELS = "transformers.models."
_LOOKING = "alpaca_looking"


@dataclass(frozen=True)
class Roles:
    """Full names of linear layers by what they do.

    Attributes:
        query, key, value: layers whose output is the query, key or value; a fused one is in all three.
        attention: every linear layer of an attention module.
        mlp: every other linear layer of a decoder layer.
    """

    query: frozenset[str]
    key: frozenset[str]
    value: frozenset[str]
    attention: frozenset[str]
    mlp: frozenset[str]


def linear_layers(model: Any) -> dict[str, nn.Linear]:
    """All linear layers that text goes through by full name, quantised ones too, but not the output projection.

    Left out are those that LoRA cannot reach: a subclass that computes something else (Llama 4's router), and one
    whose weight its owner reads past its forward (Mamba's kernels take `out_proj.weight`).
    """
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    modules = dict(model.named_modules())
    inside = {id(module) for module in text_part(model).modules()}
    return {
        name: module
        for name, module in modules.items()
        if isinstance(module, nn.Linear) and module is not head and id(module) in inside and is_plain(modules, name)
    }


def is_plain(modules: dict[str, Any], name: str) -> bool:
    """Whether the linear layer `name` among the `modules` of a model is used as one, and nothing but called."""
    owner, _, last = name.rpartition(".")
    return _is_linear(modules[name]) and not _is_read_directly(modules[owner], last)


def text_part(model: Any) -> nn.Module:
    """What text goes through: all of a language model, the decoder of one that sees or hears too."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    composite = hasattr(inner, "config") and inner.config.get_text_config() is not inner.config
    part: nn.Module = inner.get_decoder() if composite else inner
    return part


@torch.no_grad()
def _is_linear(module: nn.Linear) -> bool:
    """Whether a subclass of a model's own still gives x W^T + b."""
    if not type(module).__module__.startswith(MODELS):
        return True
    x = torch.randn(2, module.in_features, dtype=module.weight.dtype, device=module.weight.device)
    try:
        result: Any = module(x)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    expected = nn.functional.linear(x, module.weight, module.bias)
    if not isinstance(result, torch.Tensor) or result.shape != expected.shape:
        return False
    return result.is_meta or torch.allclose(result, expected)


def _is_read_directly(owner: nn.Module, name: str) -> bool:
    pattern = (
        rf"\bself\.{re.escape(name)}\.weight\b(?!\.(dtype|device|shape|size)|\[)"  # slices are BLOOM's pretraining_tp
    )
    return bool(re.search(pattern, _source(f"{type(owner).__module__}:{type(owner).__qualname__}")))


@functools.lru_cache(maxsize=256)
def _source(owner: str) -> str:
    """Source of a class of transformers' models, given as MODULE:NAME; empty where it cannot be had."""
    module, _, name = owner.partition(":")
    try:
        return inspect.getsource(getattr(sys.modules[module], name)) if module.startswith(MODELS) else ""
    except (OSError, TypeError, AttributeError):
        return ""


def target_names(model: Any, targets: list[str]) -> list[str]:
    """Names as PEFT takes them, for roles and layer names; last parts of names where they are enough.

    Raises:
        UserError: a target that is neither a role nor a layer, or one that this model cannot tell apart.
    """
    layers = linear_layers(model)
    if not layers and EXPERTS not in targets:
        raise UserError(f"adapter: {type(model).__name__} has no linear layer to put LoRA on; set adapter=full")
    roles: Roles | None = None
    chosen: set[str] = set()
    for target in targets or ["all"]:
        if target == EXPERTS:
            continue
        if target == "all":
            chosen |= layers.keys()
        elif target in ROLES:
            roles = roles or find_roles(model)
            chosen |= _of_role(model, target, roles)
        else:
            named = {name for name in layers if name == target or name.endswith(f".{target}")}
            if not named:
                last = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in layers}))
                raise UserError(
                    f"adapter.targets: {target!r} is no role ({', '.join(ROLES)}) and the model has no linear layer of "
                    f"that name; it has {last}"
                )
            chosen |= named
    last_parts = {name.rsplit(".", 1)[-1] for name in chosen}
    everywhere = [name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in last_parts]
    return sorted(last_parts) if set(everywhere) == chosen else sorted(chosen)


def expert_parameters(model: Any) -> list[str]:
    """Weights of experts kept as one tensor, as PEFT takes them: `experts.gate_up_proj` and the like."""
    names = {id(module): name for name, module in model.named_modules()}
    return sorted(
        {
            f"{names[id(module)].rpartition('.')[2]}.{name}"
            for module in text_part(model).modules()
            for name, parameter in module.named_parameters(recurse=False)
            if parameter.dim() == 3 and parameter.is_floating_point() and not isinstance(module, nn.Conv1d)
        }
    )


def _of_role(model: Any, role: str, roles: Roles) -> frozenset[str]:
    if role == "query_value" and (shared := (roles.query | roles.value) & roles.key):
        fused = ", ".join(sorted({name.rsplit(".", 1)[-1] for name in shared}))
        raise UserError(
            f"adapter.targets=[query_value]: {type(model).__name__} makes query, key and value in one layer "
            f"({fused}), which cannot be told apart; set adapter.targets=[attention] or adapter.targets=[{fused}]"
        )
    found = (
        roles.query | roles.value if role == "query_value" else roles.attention if role == "attention" else roles.mlp
    )
    if not found:
        raise UserError(
            f"adapter.targets=[{role}]: {type(model).__name__} has no such layer; set adapter.targets=[all]"
        )
    return found


def find_roles(model: Any) -> Roles:
    """Watch one token go through `model`; its weights, mode and attention are left as they were.

    Raises:
        UserError: the model does not use transformers' attention interface.
    """
    layers = linear_layers(model)
    names = {id(module): name for name, module in model.named_modules()}
    made: dict[str, list[set[str]]] = {"query": [], "key": [], "value": []}
    attention_modules: set[str] = set()
    outputs: dict[str, torch.Tensor] = {}

    def remember(name: str) -> Callable[[nn.Module, Any, torch.Tensor], torch.Tensor]:
        def hook(module: nn.Module, given: Any, output: torch.Tensor) -> torch.Tensor:
            outputs[name] = output.detach().requires_grad_()  # what came before this layer is cut off
            return outputs[name]

        return hook

    def look(module: nn.Module, query: Any, key: Any, value: Any, mask: Any, **kwargs: Any) -> tuple[Any, None]:
        attention_modules.add(names[id(module)])
        for what, tensor in (("query", query), ("key", key), ("value", value)):
            made[what].append(_sources(tensor, outputs))
        repeats = query.shape[1] // value.shape[1]
        return value.repeat_interleave(repeats, 1).transpose(1, 2).contiguous(), None  # one token attends to itself

    hooks = [module.register_forward_hook(remember(name)) for name, module in layers.items()]
    before, training = model.config.get_text_config()._attn_implementation, model.training
    try:
        from transformers import AttentionInterface

        AttentionInterface.register(_LOOKING, look)
        model.set_attn_implementation(_LOOKING)
        model.eval()
        device = model.get_input_embeddings().weight.device
        with torch.enable_grad():
            model(input_ids=torch.zeros((1, 1), dtype=torch.long, device=device), use_cache=False)
    finally:
        for handle in hooks:
            handle.remove()
        model.set_attn_implementation(before)
        model.train(training)
    if not attention_modules:
        raise UserError(
            f"adapter.targets: roles of {type(model).__name__} cannot be found, it does not use transformers' "
            f"attention interface; name its layers: {', '.join(sorted({name.rsplit('.', 1)[-1] for name in layers}))}"
        )
    inside = {name for name in layers if any(name.startswith(f"{module}.") for module in attention_modules)}
    repeated = {id(inner) for layer in repeated_layers(model) for inner in layer.modules()}
    rest = {name for name, module in layers.items() if id(module) in repeated and name not in inside}
    query, key, value = (frozenset[str]().union(*made[what]) for what in ("query", "key", "value"))
    return Roles(query, key, value, frozenset(inside) | query | key | value, frozenset(rest - query - key - value))


def _sources(tensor: torch.Tensor, outputs: dict[str, torch.Tensor]) -> set[str]:
    """Names of the layers whose output `tensor` was made from."""
    if not tensor.requires_grad:
        return set()
    names = list(outputs)
    slopes = torch.autograd.grad(
        tensor.float().sum(), [outputs[name] for name in names], allow_unused=True, retain_graph=True
    )
    return {name for name, slope in zip(names, slopes, strict=True) if slope is not None}
