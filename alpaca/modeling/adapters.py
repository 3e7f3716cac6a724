"""What is trained: every weight, or low-rank updates on the linear layers (PEFT)."""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from alpaca.config import AdapterConfig
from alpaca.errors import UserError
from alpaca.modeling.quantised import logical_size

FULL = "full"


def linear_layers(model: Any) -> list[str]:
    """Last parts of the names of all linear layers but the output projection, as PEFT targets them."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    }
    return sorted(names)


def add_adapter(model: nn.Module, config: AdapterConfig, *, seed: int) -> nn.Module:
    """Put the adapter on `model`; afterwards exactly the trained parameters require gradients, in fp32.

    Raises:
        UserError: `adapter.targets` names no layer of the model.
    """
    if config.kind == FULL:
        return model.float().requires_grad_(True)
    with quiet_import():
        from peft import LoraConfig, get_peft_model
    known = linear_layers(model)
    unknown = [target for target in config.targets if target not in known]
    if unknown:
        raise UserError(f"adapter.targets: the model has no linear layer {unknown[0]!r}; it has {', '.join(known)}")
    torch.manual_seed(seed)
    adapted = get_peft_model(
        model,
        LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=list(config.targets) or known,
            use_dora=config.use_dora,
            use_rslora=config.use_rslora,
            init_lora_weights=True if config.init == "default" else config.init,
            task_type="CAUSAL_LM",
        ),
        autocast_adapter_dtype=True,
    )
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return adapted


def trained_parameters(model: nn.Module) -> tuple[int, int]:
    """Number of trained parameters and of all parameters."""
    trained = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    return trained, sum(logical_size(parameter) for parameter in model.parameters())


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Importing peft imports bitsandbytes, which prints about 4-bit CPU kernels it does not have; hide that line."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
