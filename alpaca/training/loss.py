"""Cross-entropy on supervised positions only, fused with the output projection and chunked.

Logits of Alpaca rows are the largest tensor of a training step: tokens x vocabulary. Half the tokens
are prompt and have no label, so their logits are never made; of the rest only a chunk exists at a
time, and its gradient is computed at once, so that no logits are kept for the backward pass.

The head runs inside the model's own forward (its output projection is asked for losses instead of
logits), because under FSDP2 its weight is whole only there.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

CHUNK = 1024  # supervised positions whose logits exist at once: 1,024 x 49,152 bf16 logits are 96 MiB
CPU_BLOCK = 64  # of these, rows that a CPU turns into losses and gradients at once: 12 MiB in fp32 stay in its caches


class _FusedCrossEntropy(torch.autograd.Function):
    """Sum of -log softmax(hidden @ weight.T)[label], its gradients made in the forward pass.

    With p the softmax and y the one-hot label, d loss / d logits = p - y; so
    d loss / d hidden = (p - y) @ weight and d loss / d weight = (p - y).T @ hidden.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """hidden (n, h), weight (v, h), labels (n,) int64; matrix products in `dtype`; returns a fp32 scalar."""
        with torch.autocast(hidden.device.type, enabled=False):
            matrix = weight.to(dtype)
            grad_hidden = torch.empty_like(hidden)
            grad_weight = None
            total = torch.zeros((), dtype=torch.float32, device=hidden.device)
            for start in range(0, len(labels), CHUNK):
                part, target = hidden[start : start + CHUNK].to(dtype), labels[start : start + CHUNK, None]
                slope = part @ matrix.T
                total += _losses_to_gradients(slope, target)
                grad_hidden[start : start + CHUNK] = slope @ matrix
                if ctx.needs_input_grad[1]:
                    product = _product(slope.T, part)
                    grad_weight = product if grad_weight is None else grad_weight.add_(product)
            if ctx.needs_input_grad[1] and grad_weight is None:
                grad_weight = torch.zeros_like(weight, dtype=torch.float32)
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        grad_hidden, grad_weight = ctx.saved_tensors
        scaled_weight = None if grad_weight is None else grad_weight.mul_(grad_output).to(ctx.weight_dtype)
        return grad_hidden * grad_output.to(grad_hidden.dtype), scaled_weight, None, None


def _product(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Their product in fp32; in fp16 made smaller meanwhile, since a sum over a chunk may pass 65,504."""
    if first.dtype != torch.float16:
        return (first @ second).float()
    return (first @ (second / 32)).float().mul_(32)


def _losses_to_gradients(logits: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Sum of the losses of `logits` (n, v) for `target` (n, 1), in fp32; the logits become p - y in place."""
    total = torch.zeros((), dtype=torch.float32, device=logits.device)
    block = CPU_BLOCK if logits.device.type == "cpu" else CHUNK
    for start in range(0, len(logits), block):
        place, wanted = logits[start : start + block], target[start : start + block]
        wide = place.float()
        largest = wide.amax(1, keepdim=True)
        gold = wide.gather(1, wanted)
        weight = wide.sub_(largest).exp_().sum(1, keepdim=True)
        total += (weight.log() + largest - gold).sum()
        wide.div_(weight).scatter_add_(1, wanted, torch.full_like(gold, -1))
        place.copy_(wide)
    return total


def supervised_loss(
    model: nn.Module, inputs: dict[str, Any], label_positions: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    """Summed cross-entropy (fp32 scalar with gradient) of one micro-batch.

    Args:
        model: causal LM, wrapped or not.
        inputs: keywords of its forward.
        label_positions: (supervised,) flat positions whose next token is predicted.
        labels: (supervised,) those tokens.
    """
    head = output_projection(model)
    if not _can_fuse(model, head):
        return F.cross_entropy(_logits(model, inputs, label_positions).float(), labels, reduction="sum")

    def losses(hidden: torch.Tensor) -> torch.Tensor:
        dtype = hidden.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
        total: torch.Tensor = _FusedCrossEntropy.apply(
            _selected(hidden, inputs, label_positions), head.weight, labels, dtype
        )
        return total

    with _head_replaced(head, losses):
        total: torch.Tensor = model(**inputs, **_kept(inputs, label_positions), use_cache=False).logits
    return total


@torch.no_grad()
def token_losses(
    model: nn.Module, inputs: dict[str, Any], label_positions: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per supervised token: cross-entropy (fp32) and whether the likeliest token is the label (bool)."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def measure(logits: torch.Tensor, target: torch.Tensor) -> None:
        logits = logits.float()
        found.append((F.cross_entropy(logits, target, reduction="none"), logits.argmax(1) == target))

    head = output_projection(model)
    if _can_fuse(model, head):
        original = head.forward

        def chunked(hidden: torch.Tensor) -> torch.Tensor:
            chosen = _selected(hidden, inputs, label_positions)
            for start in range(0, len(labels), CHUNK):
                measure(original(chosen[start : start + CHUNK]), labels[start : start + CHUNK])
            return hidden

        with _head_replaced(head, chunked):
            model(**inputs, **_kept(inputs, label_positions), use_cache=False)
    else:
        measure(_logits(model, inputs, label_positions), labels)
    if not found:  # a rank without an example
        nothing = torch.zeros(0, device=labels.device)
        return nothing, nothing.bool()
    losses, hits = zip(*found, strict=True)
    return torch.cat(losses), torch.cat(hits)


def _is_packed(inputs: dict[str, Any]) -> bool:
    return bool(inputs["input_ids"].shape[0] == 1)


def _kept(inputs: dict[str, Any], label_positions: torch.Tensor) -> dict[str, Any]:
    """A single row selects hidden states before the projection; padded rows differ in theirs and keep all."""
    return {"logits_to_keep": label_positions} if _is_packed(inputs) else {}


def _selected(hidden: torch.Tensor, inputs: dict[str, Any], label_positions: torch.Tensor) -> torch.Tensor:
    """(supervised, hidden) from what the model hands its head."""
    return hidden[0] if _is_packed(inputs) else hidden.flatten(0, 1)[label_positions]


def _logits(model: nn.Module, inputs: dict[str, Any], label_positions: torch.Tensor) -> torch.Tensor:
    """(supervised, vocabulary), for heads that cannot be fused."""
    logits = model(**inputs, **_kept(inputs, label_positions), use_cache=False).logits
    return _selected(logits, inputs, label_positions)


def output_projection(model: nn.Module) -> nn.Module:
    """The module that turns hidden states into logits, under whatever wraps the model."""
    inner: Any = model.module if hasattr(model, "module") else model
    if hasattr(inner, "get_base_model"):
        inner = inner.get_base_model()
    head: nn.Module = inner.get_output_embeddings()
    return head


def _can_fuse(model: nn.Module, head: nn.Module) -> bool:
    """Only a plain linear head whose logits the model uses as they are."""
    config = getattr(model.module if hasattr(model, "module") else model, "config", None)
    rescaled = any(
        getattr(config, name, None) not in (None, 1, 1.0)
        for name in ("final_logit_softcapping", "logit_scale", "logits_scaling")
    )
    return type(head) is nn.Linear and head.bias is None and not rescaled


@contextlib.contextmanager
def _head_replaced(head: nn.Module, forward: Any) -> Iterator[None]:
    before = head.__dict__.get("forward")
    head.forward = forward
    try:
        yield
    finally:
        if before is None:
            del head.forward
        else:
            head.forward = before
