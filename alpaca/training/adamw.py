"""AdamW whose moments are stored in bf16: 4 bytes of state for each trained weight instead of 8."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.optim import Optimizer

from alpaca.training.closure import loss_of


class Bf16AdamW(Optimizer):
    """`torch.optim.AdamW` computed in fp32, its two moments kept in bf16 between steps.

    With beta2 = 0.999 a step changes the second moment by about a thousandth of itself, less than half
    the distance of two bf16 numbers, and rounding to the nearest would never move it. So both moments are
    rounded up or down by chance, in proportion to the distance, which is right on average. The chance
    depends on the number of the step alone: a resumed run goes on as it would have, and no other random
    number of the run changes.
    """

    def __init__(
        self,
        params: Iterable[Any],
        *,
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ):
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; `closure` computes the loss again if given."""
        loss = loss_of(closure)
        chance: dict[torch.device, torch.Generator] = {}
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, chance)
        return loss

    def _update(self, parameter: torch.Tensor, group: dict[str, Any], chance: dict[Any, torch.Generator]) -> None:
        state, gradient = self.state[parameter], parameter.grad.float()  # type: ignore[union-attr]
        if not state:
            state["step"] = torch.zeros(())
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(parameter, dtype=torch.bfloat16)
        state["step"] += 1
        step = int(state["step"])
        device = parameter.device
        if device not in chance:
            chance[device] = torch.Generator(device).manual_seed(step)
        first, second = group["betas"]
        mean = state["exp_avg"].float().lerp_(gradient, 1 - first)
        square = state["exp_avg_sq"].float().mul_(second).addcmul_(gradient, gradient, value=1 - second)
        parameter.mul_(1 - group["lr"] * group["weight_decay"])
        denominator = (square.sqrt() / (1 - second**step) ** 0.5).add_(group["eps"])
        parameter.addcdiv_(mean, denominator, value=-group["lr"] / (1 - first**step))
        state["exp_avg"] = rounded_by_chance(mean, chance[device])
        state["exp_avg_sq"] = rounded_by_chance(square, chance[device])


def rounded_by_chance(values: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """fp32 to bf16, up or down with a probability by the distance; what bf16 can hold stays as it is."""
    noise = torch.randint(0, 1 << 16, values.shape, dtype=torch.int32, device=values.device, generator=chance)
    bits = values.contiguous().view(torch.int32) + noise
    return (bits & -(1 << 16)).view(torch.float32).to(torch.bfloat16)
