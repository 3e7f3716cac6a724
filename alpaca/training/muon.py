"""Muon for the matrices inside the layers, AdamW for everything else, as one optimizer."""

from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from alpaca.training.closure import loss_of

MUON, ADAMW = "muon", "adamw"


class MuonWithAdamW(Optimizer):
    """`torch.optim.Muon` on groups whose `rule` is `muon`, `torch.optim.AdamW` on the others.

    Muon's step is scaled by 0.2 sqrt(max(rows, columns)), so that it is as long as AdamW's usually is and
    both take the same learning rate (Liu et al. 2025, arXiv:2502.16982, section 2.2). Groups and states
    lie here, in the usual form, so schedules, checkpoints and wrappers see an ordinary optimizer.
    """

    def __init__(
        self,
        groups: list[dict[str, Any]],
        *,
        lr: float,
        betas: tuple[float, float],
        eps: float,
        momentum: float,
    ):
        self._rules: dict[str, Optimizer] = {}
        for rule in (MUON, ADAMW):
            chosen: Any = [group for group in groups if group["rule"] == rule]
            if chosen and rule == MUON:
                self._rules[rule] = torch.optim.Muon(chosen, lr=lr, momentum=momentum, adjust_lr_fn="match_rms_adamw")
            elif chosen:
                self._rules[rule] = torch.optim.AdamW(chosen, lr=lr, betas=betas, eps=eps, fused=True)
        super().__init__(groups, {"lr": lr})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """One update by both rules; `closure` computes the loss again if given."""
        loss = loss_of(closure)
        for rule, optimizer in self._rules.items():  # linked anew each time: loading a state replaces these objects
            optimizer.param_groups = [group for group in self.param_groups if group["rule"] == rule]
            optimizer.state = self.state
            optimizer.step()
        return loss
