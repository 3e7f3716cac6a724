"""bitsandbytes' 8-bit AdamW, its state dict in the ordinary form.

Imported only where it is used, since it needs bitsandbytes.
"""

from typing import Any

from bitsandbytes import optim
from torch.optim import Optimizer


class _Flat:
    """bitsandbytes hides its codes from FSDP in a nested dict, and all parameters share one table of code values.

    Checkpoints here save tensors by name, and safetensors saves none that share memory.
    """

    def state_dict(self) -> dict[str, Any]:
        """`state` and `param_groups` as every other optimizer gives them; no two tensors share memory."""
        found = Optimizer.state_dict(self)  # type: ignore[arg-type]
        states = {
            index: {key: value.clone() if key in ("qmap1", "qmap2") else value for key, value in state.items()}
            for index, state in found["state"].items()
        }
        return {**found, "state": states}


class AdamW8bit(_Flat, optim.AdamW8bit):
    """Moments in 8 bits, blocks of 256 with a scale each (Dettmers et al. 2021, arXiv:2110.02861)."""


class PagedAdamW8bit(_Flat, optim.PagedAdamW8bit):
    """The same in memory that moves between GPU and host."""
