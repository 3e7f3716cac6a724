"""The optimizer and the learning rate of every step."""

import math
from collections.abc import Callable

import torch
from torch import nn

from alpaca.config import AdapterConfig, OptimizerConfig
from alpaca.training.adamw import Bf16AdamW


def peak_learning_rate(optimizer: OptimizerConfig, adapter: AdapterConfig) -> float:
    """`optimizer.lr`, or `adapter.default_lr x optimizer.lr_factor` where it is null."""
    return optimizer.lr if optimizer.lr is not None else adapter.default_lr * optimizer.lr_factor


def build_optimizer(model: nn.Module, config: OptimizerConfig, learning_rate: float) -> torch.optim.Optimizer:
    """AdamW over the trained parameters; norms and biases (one dimension) are never decayed."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [parameter for parameter in trained if parameter.dim() > 1], "weight_decay": config.weight_decay},
        {"params": [parameter for parameter in trained if parameter.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    betas = (config.betas[0], config.betas[1])
    if config.state_precision == "bf16":
        return Bf16AdamW(groups, lr=learning_rate, betas=betas, eps=config.eps)
    return torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=config.eps, fused=True)


def warmup_steps(warmup: float, total: int) -> int:
    """Steps of warm-up: a share of `total` (rounded up) below 1, a number of steps from 1 on."""
    return math.ceil(warmup * total) if warmup < 1 else int(warmup)


def learning_rate_factor(schedule: str, warmup: float, total: int) -> Callable[[int], float]:
    """Multiplier of the peak rate at step k = 0 … total - 1; never 0.

    Warm-up over w steps is (k + 1) / (w + 1), so the first step trains too. After it, with
    p = (k - w) / (total - w): cosine is (1 + cos(pi p)) / 2, linear is 1 - p, constant is 1, as in
    `transformers.get_scheduler`, whose own warm-up k / w wastes the first step at rate 0.
    """
    warm = warmup_steps(warmup, total)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        progress = min(1.0, (step - warm) / max(1, total - warm))
        if schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        return 1.0 - progress if schedule == "linear" else 1.0

    return factor
