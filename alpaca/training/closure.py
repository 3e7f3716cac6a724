"""The closure that `torch.optim` lets a caller hand to `step`: it computes the loss again, with gradients."""

from collections.abc import Callable

import torch


def loss_of(closure: Callable[[], float] | None) -> float | None:
    """What `closure` returns, None without one; to be called from a `step` that runs without gradients."""
    if closure is None:
        return None
    with torch.enable_grad():
        return closure()
