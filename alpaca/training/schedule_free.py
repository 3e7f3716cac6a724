"""AdamW without a schedule: gradients are taken near an average of the weights, and the average is the result.

Three sequences of weights: z takes AdamW's steps, x is the average of z, and y = (1 - beta1) z + beta1 x is
where gradients are taken. While it trains the model holds y; scores and results are those of x, which
`averaged` and `settle` put into the model.
"""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch.optim import Optimizer

from alpaca.training.closure import loss_of


class ScheduleFreeAdamW(Optimizer):
    """Defazio et al. 2024, "The Road Less Scheduled" (arXiv:2405.15682), algorithm 1 on AdamW.

    With gradient g at y and step t, v = beta2 v + (1 - beta2) g^2:

        z = z - lr (g / (sqrt(v / (1 - beta2^t)) + eps) + weight_decay y)
        c = r^2 / (sum of r^2 so far), r the largest lr so far, so warm-up steps weigh little
        x = (1 - c) x + c z

    Two states for each weight, z and v, as AdamW has: x follows from y and z. The rate must stay
    constant after its warm-up; the average does what a decay would.
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
        counters = {"step": 0, "largest_lr": 0.0, "weight_sum": 0.0}
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, **counters})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update of every parameter that has a gradient; `closure` computes the loss again if given."""
        loss = loss_of(closure)
        for group in self.param_groups:
            group["step"] += 1
            group["largest_lr"] = max(group["largest_lr"], group["lr"])
            weight = group["largest_lr"] ** 2
            group["weight_sum"] += weight
            share = weight / group["weight_sum"] if group["weight_sum"] else 0.0
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, group, share)
        return loss

    def _update(self, y: torch.Tensor, group: dict[str, Any], share: float) -> None:
        state, gradient = self.state[y], y.grad.to(y.dtype)  # type: ignore[union-attr]
        if not state:
            state["z"] = y.detach().clone()
            state["exp_avg_sq"] = torch.zeros_like(y)
        first, second = group["betas"]
        z, square, rate = state["z"], state["exp_avg_sq"], group["lr"]
        square.mul_(second).addcmul_(gradient, gradient, value=1 - second)
        denominator = (square / (1 - second ** group["step"])).sqrt_().add_(group["eps"])
        direction = (gradient / denominator).add_(y, alpha=group["weight_decay"])
        # y moves by what the new z and the new x change in it; x itself is never stored:
        # new y = (1 - beta1) (z - lr d) + beta1 ((1 - c) x + c (z - lr d)), and beta1 x = y - (1 - beta1) z.
        y.lerp_(z, share)
        y.add_(direction, alpha=rate * (first * (1 - share) - 1))
        z.sub_(direction, alpha=rate)

    @torch.no_grad()
    def averages(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """Each trained parameter, and its average x where it has been updated."""
        for group in self.param_groups:
            first = group["betas"][0]
            for parameter in group["params"]:
                if state := self.state.get(parameter):
                    yield parameter, torch.lerp(state["z"], parameter, 1 / first)


def _schedule_free(optimizer: Any) -> ScheduleFreeAdamW | None:
    return optimizer if isinstance(optimizer, ScheduleFreeAdamW) else None


@torch.no_grad()
def settle(optimizer: Any) -> None:
    """Training has ended: the model holds the result from now on. Does nothing for other optimizers."""
    if (inner := _schedule_free(optimizer)) is not None:
        for parameter, average in inner.averages():
            parameter.copy_(average)


@contextlib.contextmanager
def averaged(optimizer: Any) -> Iterator[None]:
    """The model as its result would be now, for scoring in between; then bit for bit as it was.

    A checkpoint is taken outside of this: it holds y.
    """
    inner = _schedule_free(optimizer)
    kept = []
    with torch.no_grad():
        for parameter, average in inner.averages() if inner is not None else ():
            kept.append((parameter, parameter.detach().clone()))
            parameter.copy_(average)
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, y in kept:
                parameter.copy_(y)
