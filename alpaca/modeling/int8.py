"""A linear layer with frozen int8 weights and activations left as they are.

Imported only where `adapter.bits=8` is set, since it needs bitsandbytes.
"""

from typing import Any

import bitsandbytes as bnb
import torch


class WholeActivations(bnb.nn.Linear8bitLt):
    """`bitsandbytes.nn.Linear8bitLt` with products in the run's precision: y = (x C^T) * s / 127 + b.

    C (out, in) int8 are the codes, s (out,) fp32 the largest absolute weight of each row. An int8 is exact
    in bf16, so the codes are multiplied as they are and each output is scaled once. LLM.int8()'s own
    product also rounds activations, and takes outlier columns apart by looking at all tokens of a batch: a
    token's result would depend on its neighbours.
    """

    @classmethod
    def of(cls, module: Any) -> "WholeActivations":
        """The same weights, not copied."""
        with torch.device("meta"):
            made = cls(module.in_features, module.out_features, module.bias is not None, has_fp16_weights=False)
        made.weight, made.bias, made.state = module.weight, module.bias, module.state
        return made.train(module.training)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (..., in) to (..., out), in x's dtype or the autocast's."""
        dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
        scale = self.weight.SCB if self.weight.SCB is not None else self.state.SCB
        result: torch.Tensor = _ScaledProduct.apply(x.to(dtype), self.weight.data, scale)
        return result if self.bias is None else result + self.bias.to(dtype)


class _ScaledProduct(torch.autograd.Function):
    """(x C^T) * s / 127 and its gradient (g * s / 127) C; only the codes are kept for the backward pass."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, codes: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
        """x (..., in), codes (out, in) int8, largest (out,) fp32; returns (..., out)."""
        scale = (largest.float() / 127).to(x.dtype)
        ctx.save_for_backward(codes, scale)
        with torch.autocast(x.device.type, enabled=False):
            if x.dtype == torch.float16:  # sums of codes pass 65,504, the largest fp16 number, before they are scaled
                return x @ (codes.to(x.dtype) * scale[:, None]).T
            return (x @ codes.to(x.dtype).T) * scale

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        codes, scale = ctx.saved_tensors
        with torch.autocast(grad_output.device.type, enabled=False):
            return (grad_output * scale) @ codes.to(grad_output.dtype), None, None
