"""The optimizer and the learning rate of every step."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from alpaca.config import AdapterConfig, OptimizerConfig
from alpaca.modeling.quantised import quiet_import
from alpaca.training.adamw import Bf16AdamW
from alpaca.training.lion import Lion
from alpaca.training.muon import MuonWithAdamW
from alpaca.training.parameter_groups import parameter_groups
from alpaca.training.schedule_free import ScheduleFreeAdamW


def peak_learning_rate(optimizer: OptimizerConfig, adapter: AdapterConfig) -> float:
    """`optimizer.lr`, or `adapter.default_lr x optimizer.lr_factor` where it is null."""
    return optimizer.lr if optimizer.lr is not None else adapter.default_lr * optimizer.lr_factor


def build_optimizer(
    model: nn.Module, config: OptimizerConfig, learning_rate: float, *, b_lr_ratio: float = 1.0
) -> torch.optim.Optimizer:
    """The update rule of `config.kind` over the trained parameters of `model`, in groups."""
    groups: Any = parameter_groups(
        model,
        learning_rate,
        weight_decay=config.weight_decay,
        b_lr_ratio=b_lr_ratio,
        by_rule=config.kind == "muon",
    )
    return RULES[config.kind](groups, config, learning_rate)


def _adamw(groups: Any, config: OptimizerConfig, rate: float) -> torch.optim.Optimizer:
    if config.state_precision == "bf16":
        return Bf16AdamW(groups, lr=rate, betas=_betas(config), eps=_eps(config))
    return _with_state(torch.optim.AdamW(groups, lr=rate, betas=_betas(config), eps=_eps(config), fused=True))


def _with_state(optimizer: torch.optim.Optimizer) -> torch.optim.Optimizer:
    """The same with its moments, all zero, in memory before the first step.

    What stays is then allocated before what comes and goes: made in the middle of the first step, the moments lie
    scattered over a heap that a CPU never gets back whole.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = 0.0
        for parameter in group["params"]:
            parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    for state in optimizer.state.values():
        state["step"].zero_()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return optimizer


def _adamw_8bit(groups: Any, config: OptimizerConfig, rate: float) -> torch.optim.Optimizer:
    with quiet_import():
        from alpaca.training.adamw_8bit import AdamW8bit, PagedAdamW8bit
    on_cpu = all(parameter.device.type == "cpu" for group in groups for parameter in group["params"])
    made = PagedAdamW8bit if config.kind == "paged_adamw_8bit" and not on_cpu else AdamW8bit
    return made(groups, lr=rate, betas=_betas(config), eps=_eps(config))


def _adafactor(groups: Any, config: OptimizerConfig, rate: float) -> torch.optim.Optimizer:
    from transformers import Adafactor

    # Its own learning rate is off: the schedule and `default_lr` are the run's. Clipping at 1 keeps a step's root
    # mean square at the learning rate, as AdamW's is.
    fixed = {"scale_parameter": False, "relative_step": False, "warmup_init": False, "clip_threshold": 1.0}
    return Adafactor(groups, lr=rate, eps=(_eps(config), 1e-3), **fixed)


def _lion(groups: Any, config: OptimizerConfig, rate: float) -> torch.optim.Optimizer:
    return Lion(groups, lr=rate, betas=_betas(config))


def _muon(groups: Any, config: OptimizerConfig, rate: float) -> torch.optim.Optimizer:
    return MuonWithAdamW(groups, lr=rate, betas=_betas(config), eps=_eps(config), momentum=config.momentum or 0.0)


def _schedule_free(groups: Any, config: OptimizerConfig, rate: float) -> torch.optim.Optimizer:
    return ScheduleFreeAdamW(groups, lr=rate, betas=_betas(config), eps=_eps(config))


def _sgd(groups: Any, config: OptimizerConfig, rate: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=rate, momentum=config.momentum or 0.0)


RULES: dict[str, Callable[[Any, OptimizerConfig, float], torch.optim.Optimizer]] = {
    "adamw": _adamw,
    "adamw_8bit": _adamw_8bit,
    "paged_adamw_8bit": _adamw_8bit,
    "adafactor": _adafactor,
    "lion": _lion,
    "muon": _muon,
    "schedule_free": _schedule_free,
    "sgd": _sgd,
}


def _betas(config: OptimizerConfig) -> tuple[float, float]:
    return config.betas[0], config.betas[1]


def _eps(config: OptimizerConfig) -> float:
    assert config.eps is not None, "checks.py has seen to it"
    return config.eps


def warmup_steps(warmup: float, total: int) -> int:
    """Steps of warm-up: a share of `total` (rounded up) below 1, a number of steps from 1 on."""
    return math.ceil(warmup * total) if warmup < 1 else int(warmup)


def learning_rate_factor(schedule: str, warmup: float, total: int, decay_share: float = 0.1) -> Callable[[int], float]:
    """Multiplier of the peak rate at step k = 0 … total - 1; never 0.

    Warm-up over w steps is (k + 1) / (w + 1), so the first step trains too. After it, with
    p = (k - w) / (total - w): cosine is (1 + cos(pi p)) / 2, linear is 1 - p, constant is 1, as in
    `transformers.get_scheduler`, whose own warm-up k / w wastes the first step at rate 0. wsd (warm-up,
    stable, decay) is 1 until the last `decay_share` of all steps, d of them, and there (total - k) / (d + 1).
    """
    warm = warmup_steps(warmup, total)
    decay = math.ceil(decay_share * total)

    def factor(step: int) -> float:
        if step < warm:
            return (step + 1) / (warm + 1)
        if schedule == "wsd":
            return min(1.0, max(0, total - step) / (decay + 1))
        progress = min(1.0, (step - warm) / max(1, total - warm))
        if schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        return 1.0 - progress if schedule == "linear" else 1.0

    return factor
