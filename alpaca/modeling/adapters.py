"""What is trained: every weight, or low-rank updates on linear layers (LoRA and its variants, by PEFT)."""

from typing import Any

import torch
from torch import nn

from alpaca.config import AdapterConfig
from alpaca.errors import UserError
from alpaca.modeling.quantised import logical_size, quiet_import
from alpaca.modeling.targets import linear_layers, target_names

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
        return model.float().requires_grad_(True)
    with quiet_import():
        from peft import LoraConfig, get_peft_model, get_peft_model_state_dict
    names = target_names(model, config.targets)
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
