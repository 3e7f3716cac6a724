"""Device and compute precision of a run, and the rules by which they are chosen."""

import contextlib
import os
from dataclasses import dataclass

import torch

from alpaca.devices import multiplies_bf16
from alpaca.errors import UserError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class Compute:
    """Where and in which precision a run computes.

    Attributes:
        device: one accelerator, or the CPU.
        precision: `bf16` or `fp16` (matrix products in it, trained weights and optimizer state in fp32) or `fp32`.
    """

    device: torch.device
    precision: str

    @property
    def frozen_dtype(self) -> torch.dtype:
        """Storage of weights that are not trained."""
        return _DTYPES[self.precision]

    def autocast(self) -> contextlib.AbstractContextManager[None]:
        """Context in which a forward runs."""
        if self.precision == "fp32":
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, dtype=_DTYPES[self.precision])


def choose(precision: str, local_rank: int = 0) -> Compute:
    """The device of this machine's rank `local_rank`, and `precision`; for `auto` bf16 where the device does it well.

    On a CPU that means instructions for bf16 matrix products (AVX512-BF16 or AMX): without them, or where
    `ONEDNN_MAX_CPU_ISA` forbids them, bf16 is emulated and slower than fp32. On a GPU it means native bf16 (compute
    capability 8.0 and up).

    Raises:
        UserError: bf16 was asked for and the GPU has none, or fp16 on a CPU.
    """
    device = torch.device("cpu")
    if visible := torch.cuda.device_count():
        if local_rank >= visible > 1:
            raise UserError(
                f"rank {local_rank} of this machine has no GPU of its own: {visible} are visible; start as many ranks"
            )
        device = torch.device("cuda", local_rank if local_rank < visible else 0)  # one visible: the launcher gave it
    native = torch.cuda.is_bf16_supported(including_emulation=False) if device.type == "cuda" else _cpu_has_bf16()
    if precision == "bf16" and device.type == "cuda" and not native:
        raise UserError("train.precision=bf16: this GPU has no native bf16; set train.precision=fp16 or fp32")
    if precision == "fp16" and device.type == "cpu":
        raise UserError("train.precision=fp16: needs a GPU (loss scaling); set train.precision=bf16 or fp32")
    return Compute(device, ("bf16" if native else "fp32") if precision == "auto" else precision)


def _cpu_has_bf16() -> bool:
    flags = {name for name, there in torch.cpu.get_capabilities().items() if there}
    return multiplies_bf16(flags, os.environ.get("ONEDNN_MAX_CPU_ISA", ""))
