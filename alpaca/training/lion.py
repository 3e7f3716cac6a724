"""Lion: the sign of a momentum, one state for each weight. Element by element, so it runs on sharded weights too."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from alpaca.training.closure import loss_of


class Lion(Optimizer):
    """Chen et al. 2023 (arXiv:2302.06675), algorithm 2.

    u = sign(beta1 m + (1 - beta1) g); w = w - lr (u + weight_decay w); m = beta2 m + (1 - beta2) g.
    Every weight moves by lr, so lr is smaller than AdamW's by 3 to 10 times.
    """

    def __init__(
        self, params: Iterable[Any], *, lr: float, betas: tuple[float, float] = (0.9, 0.99), weight_decay: float = 0.0
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; `closure` computes the loss again if given."""
        loss = loss_of(closure)
        for group in self.param_groups:
            first, second = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state["exp_avg"] = torch.zeros_like(parameter)
                momentum, gradient = state["exp_avg"], parameter.grad.to(parameter.dtype)
                direction = torch.lerp(momentum, gradient, 1 - first).sign_()
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(direction, alpha=-group["lr"])
                momentum.lerp_(gradient, 1 - second)
        return loss
