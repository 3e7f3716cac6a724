"""Trained parameters in groups that an optimizer treats alike: weight decay, learning rate, update rule."""

from typing import Any

from torch import nn

from alpaca.training.loss import output_projection
from alpaca.training.muon import ADAMW, MUON


def parameter_groups(
    model: nn.Module, learning_rate: float, *, weight_decay: float, b_lr_ratio: float = 1.0, by_rule: bool = False
) -> list[dict[str, Any]]:
    """Groups of the trained parameters of `model`, the first one at `learning_rate`.

    Norms, biases and DoRA's magnitudes are never decayed: a pull towards zero would not make a function
    simpler but smaller. LoRA's B matrices learn at `b_lr_ratio` times the rate (LoRA+). With `by_rule` a
    group also says whether Muon may update it: matrices that are neither embedding nor output projection.
    """
    undecayed = _undecayed(model)
    outside = {id(one) for module in _embeddings(model) for one in module.parameters()} if by_rule else set()
    groups: dict[tuple[Any, ...], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        rate = learning_rate * (b_lr_ratio if ".lora_B." in name else 1.0)
        decay = 0.0 if id(parameter) in undecayed else weight_decay
        settings: dict[str, Any] = {"weight_decay": decay, "lr": rate}
        if by_rule:
            matrix = parameter.dim() == 2 and id(parameter) not in outside and id(parameter) not in undecayed
            settings["rule"] = MUON if matrix else ADAMW
        groups.setdefault(tuple(settings.values()), {"params": [], **settings})["params"].append(parameter)
    # The Trainer logs the first group's rate: that of the weights, not of a LoRA's B. Sorting is stable.
    return sorted(groups.values(), key=lambda group: group["lr"] != learning_rate)


def _undecayed(model: nn.Module) -> set[int]:
    """Ids of norms' parameters, biases and magnitude vectors, by what their module is."""
    found = set()
    for module in model.modules():
        kind = type(module).__name__
        whole = kind.endswith("Norm") or "LayerNorm" in kind or "RMSNorm" in kind or kind == "DoraLinearLayer"
        for name, parameter in module.named_parameters(recurse=False):
            if whole or name == "bias":
                found.add(id(parameter))
    return found


def _embeddings(model: nn.Module) -> list[nn.Module]:
    """Embeddings, and the output projection, tied or not."""
    return [*(module for module in model.modules() if isinstance(module, nn.Embedding)), output_projection(model)]
