"""RMSNorm as one autograd function that keeps its input and one number a token, and nothing in between.

transformers' own form keeps the fp32 input, its normalised copy and the product with the weight.
"""

from typing import Any

import torch


class RmsNorm(torch.autograd.Function):
    """y = w * x * r with r = (mean(x^2) + eps)^(-1/2), over the last dimension.

    With g = dy * w: dx = r * (g - x * r^2 * mean(g * x)), and dw = sum over tokens of dy * x * r.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
        """hidden (..., size), weight (size,); statistics in fp32 (fp64 for fp64); returns hidden's shape in `dtype`."""
        wide = hidden if hidden.dtype == torch.float64 else hidden.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(hidden, weight, scale)
        return (wide * scale).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, scale = ctx.saved_tensors
        slope = grad_output.to(scale.dtype)
        normal = hidden.to(scale.dtype) * scale
        grad_hidden = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (slope * normal).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            slope = slope * weight
            share = (slope * normal).mean(-1, keepdim=True)
            grad_hidden = slope.sub_(normal.mul_(share)).mul_(scale).to(hidden.dtype)
        return grad_hidden, grad_weight, None, None
