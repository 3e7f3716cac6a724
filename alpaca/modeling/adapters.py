"""What is trained: every weight, or low-rank updates on linear layers (LoRA and its variants, by PEFT)."""

from typing import Any

import torch
from torch import nn

from alpaca.config import AdapterConfig
from alpaca.errors import UserError
from alpaca.modeling.quantised import logical_size, quiet_import
from alpaca.modeling.targets import EXPERTS, expert_parameters, linear_layers, target_names, text_part

FULL = "full"

# What PEFT calls our `adapter.init`. PiSSA's singular vectors by 16 rounds of subspace iteration, which its
# paper (arXiv:2404.02948, section 3) finds as good as a full decomposition and takes seconds for a 7B model.
INITS: dict[str, Any] = {"default": True, "gaussian": "gaussian", "pissa": "pissa_niter_16"}


def add_adapter(model: nn.Module, config: AdapterConfig, *, seed: int) -> nn.Module:
    """Put the adapter on `model`; afterwards exactly the trained parameters require gradients, in fp32.

    An adapter that takes its start out of the base (PiSSA) keeps that start as `initial_adapter`, by the
    names under which tensors are saved: `saving.py` needs it to save updates of the base as it was.

    Raises:
        UserError: `adapter.targets` names no layer or role of the model; PiSSA's rank is above a layer's size.
    """
    if config.kind == FULL:
        model.float().requires_grad_(text_part(model) is model)  # what sees or hears gets no gradient
        for part in (text_part(model), _head(model)):
            if part is not None:
                part.requires_grad_(True)
        return model
    with quiet_import():
        from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    names = target_names(model, config.targets)
    experts = _experts(model, config)
    if config.init == "pissa":
        _check_rank(model, names, config.rank)
    torch.manual_seed(seed)
    adapted: Any = get_peft_model(
        model,  # type: ignore[arg-type]
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # type: ignore[arg-type]
            lora_dropout=config.dropout,
            target_modules=names,
            target_parameters=experts or None,
            use_dora=config.use_dora,
            use_rslora=config.use_rslora,
            init_lora_weights=INITS[config.init],
            task_type="CAUSAL_LM",
        ),
        autocast_adapter_dtype=True,
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    if config.init == "pissa":
        start = get_peft_model_state_dict(adapted)
        adapted.initial_adapter = {name: tensor.detach().to("cpu", copy=True) for name, tensor in start.items()}
    return adapted


def left_out(model: Any) -> str | None:
    """Which weights of the layers carry no LoRA although every linear layer does, with their share; None below 1 %."""
    from peft.tuners.lora import LoraLayer

    inside = text_part(model)
    covered, skipped = set[int](), {id(module) for module in (_head(model), *_embeddings(inside))}
    for module in inside.modules():
        if isinstance(module, LoraLayer):
            name = getattr(module, "parameter_name", "weight")
            covered.add(id(getattr(module.get_base_layer(), name)))
    total, missing = 0, dict[str, int]()
    for path, module in inside.named_modules():
        if id(module) in skipped:
            continue
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.dim() < 2 or ".lora_" in f".{path}":
                continue
            total += logical_size(parameter)
            if id(parameter) not in covered:
                part = f"{path}.{name}".replace(".base_layer", "").replace(".weight", "").split(".")[-2:]
                key = ".".join(one for one in part if not one.isdigit())
                missing[key] = missing.get(key, 0) + logical_size(parameter)
    share = sum(missing.values()) / max(1, total)
    if share < 0.01:
        return None
    largest = sorted(missing, key=lambda name: -missing[name])
    named = ", ".join(largest[:4]) + (f" and {len(largest) - 4} more" if len(largest) > 4 else "")
    experts = any(name in missing for name in expert_parameters(inside))
    way = f"; adapter.targets=[all,{EXPERTS}] trains the experts too" if experts else ""
    return f"{share:.0%} of the layers' weights get no LoRA: {named}{way}"


def _head(model: Any) -> nn.Module | None:
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    head: nn.Module | None = inner.get_output_embeddings()
    return head


def _embeddings(model: nn.Module) -> list[nn.Module]:
    return [module for module in model.modules() if isinstance(module, nn.Embedding)]


def _experts(model: nn.Module, config: AdapterConfig) -> list[str]:
    """What `adapter.targets=[..., experts]` means in this model, for PEFT's `target_parameters`."""
    if EXPERTS not in config.targets:
        return []
    if not (names := expert_parameters(model)):
        raise UserError(
            f"adapter.targets=[{EXPERTS}]: {type(model).__name__} has no experts kept as one tensor; leave it out, or "
            "name layers"
        )
    for key, value, plain in (
        ("dropout", config.dropout, 0.0),
        ("use_dora", config.use_dora, False),
        ("init", config.init, "default"),
    ):
        if value != plain:
            raise UserError(
                f"adapter.targets=[{EXPERTS}] with adapter.{key}={value}: PEFT cannot do that for experts kept as one "
                f"tensor; set adapter.{key}={str(plain).lower()}, or leave {EXPERTS} out"
            )
    return names


def _check_rank(model: nn.Module, names: list[str], rank: int) -> None:
    """PiSSA takes `rank` singular vectors, and a matrix has no more than its shorter side."""
    ends = tuple(f".{name}" for name in names)
    sides = {min(layer.weight.shape) for name, layer in linear_layers(model).items() if f".{name}".endswith(ends)}
    if rank > min(sides):
        raise UserError(
            f"adapter.rank={rank} with adapter.init=pissa: a targeted layer has only {min(sides)} singular vectors; "
            f"set adapter.rank={min(sides)} or less"
        )


def trained_parameters(model: nn.Module) -> tuple[int, int]:
    """Number of trained parameters and of all parameters."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trained, sum(logical_size(parameter) for parameter in model.parameters())
