"""Cross-entropy on supervised positions only, fused with the output projection and chunked.

Logits of Alpaca rows are the largest tensor of a training step: tokens x vocabulary. Half the tokens
are prompt and have no label, so their logits are never made; of the rest only a chunk exists at a
time, and its gradient is computed at once, so that no logits are kept for the backward pass.

The head runs inside the model's own forward (its output projection is asked for losses instead of
logits), because under FSDP2 its weight is whole only there.

`F.cross_entropy` is not used: on a CPU its log-softmax adds up the exponentials of a row in too few partial sums.
In fp32 over the 49,152 logits of SmolLM2-135M that costs 3e-6 of the loss and 6e-5 of the gradient; the sums here
cost 7e-8 and 3e-6.
"""

import contextlib
import inspect
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from alpaca.data.microbatch import Segments

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


class _CrossEntropy(torch.autograd.Function):
    """Sum of -log softmax(logits)[label] of logits that the model made itself; the gradient is p - y."""

    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """logits (n, v), labels (n,) int64; returns a fp32 scalar."""
        slope = logits.to(torch.float32, copy=True)
        total = _losses_to_gradients(slope, labels[:, None])
        ctx.save_for_backward(slope)
        ctx.dtype = logits.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return (slope * grad_output).to(ctx.dtype), None


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
    if not _can_fuse(model, head, inputs):
        summed: torch.Tensor = _CrossEntropy.apply(_logits(model, inputs, label_positions), labels)
        return summed

    def losses(hidden: torch.Tensor) -> torch.Tensor:
        dtype = hidden.dtype
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
        total: torch.Tensor = _FusedCrossEntropy.apply(
            _selected(hidden, kept, label_positions), head.weight, labels, dtype
        )
        return total

    kept = _kept(model, inputs, label_positions)
    with _head_replaced(head, losses):
        total: torch.Tensor = model(**inputs, **kept, use_cache=False).logits
    return total


@torch.no_grad()
def token_losses(
    model: nn.Module, inputs: dict[str, Any], label_positions: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Per supervised token: cross-entropy (fp32) and whether the likeliest token is the label (bool)."""
    found: list[tuple[torch.Tensor, torch.Tensor]] = []

    def measure(logits: torch.Tensor, target: torch.Tensor) -> None:
        logits = logits.float()
        losses = logits.logsumexp(1) - logits.gather(1, target[:, None])[:, 0]
        found.append((losses, logits.argmax(1) == target))

    head = output_projection(model)
    if _can_fuse(model, head, inputs):
        original, kept = head.forward, _kept(model, inputs, label_positions)

        def chunked(hidden: torch.Tensor) -> torch.Tensor:
            chosen = _selected(hidden, kept, label_positions)
            for start in range(0, len(labels), CHUNK):
                measure(original(chosen[start : start + CHUNK]), labels[start : start + CHUNK])
            return hidden

        with _head_replaced(head, chunked):
            model(**inputs, **kept, use_cache=False)
    else:
        measure(_logits(model, inputs, label_positions), labels)
    if not found:  # a rank without an example
        nothing = torch.zeros(0, device=labels.device)
        return nothing, nothing.bool()
    losses, hits = zip(*found, strict=True)
    return torch.cat(losses), torch.cat(hits)


def _kept(model: nn.Module, inputs: dict[str, Any], label_positions: torch.Tensor) -> dict[str, Any]:
    """A packed row selects hidden states before the projection, where the model can; padded rows keep all."""
    if "segments" not in inputs or "logits_to_keep" not in inspect.signature(_inner(model).forward).parameters:
        return {}
    return {"logits_to_keep": label_positions}


def _selected(hidden: torch.Tensor, kept: dict[str, Any], label_positions: torch.Tensor) -> torch.Tensor:
    """(supervised, hidden) from what the model hands its head."""
    return hidden[0] if kept else hidden.flatten(0, 1)[label_positions]


def _logits(model: nn.Module, inputs: dict[str, Any], label_positions: torch.Tensor) -> torch.Tensor:
    """(supervised, vocabulary), for heads that cannot be fused."""
    kept = _kept(model, inputs, label_positions)
    return _selected(model(**inputs, **kept, use_cache=False).logits, kept, label_positions)


def _inner(model: nn.Module) -> Any:
    """The model itself, under DDP's and PEFT's wrappers."""
    inner: Any = model.module if hasattr(model, "module") else model
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def output_projection(model: nn.Module) -> Any:
    """The module that turns hidden states into logits, under whatever wraps the model; None where it has none."""
    return _inner(model).get_output_embeddings()


_fusible: "weakref.WeakKeyDictionary[nn.Module, bool]" = weakref.WeakKeyDictionary()


def _can_fuse(model: nn.Module, head: Any, inputs: dict[str, Any]) -> bool:
    """Only a plain linear head whose result is the model's logits as they are: not capped, not scaled, not cut.

    Found once for each model, by running two tokens through it.
    """
    if type(head) is not nn.Linear or head.bias is not None:
        return False
    if head not in _fusible:
        _fusible[head] = _gives_logits(model, head, inputs)
    return _fusible[head]


@torch.no_grad()
def _gives_logits(model: nn.Module, head: nn.Module, inputs: dict[str, Any]) -> bool:
    ids = inputs["input_ids"][:1, :2]
    few: dict[str, Any] = {"input_ids": ids}
    if "segments" in inputs:
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        few |= {"position_ids": positions, "segments": Segments((ids.shape[1],), (-1,))}
    results: list[torch.Tensor] = []
    training = model.training
    model.eval()  # dropout would take random numbers from the run
    handle = head.register_forward_hook(lambda module, given, result: results.append(result))
    try:
        logits = model(**few, use_cache=False).logits
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
        if isinstance(error, torch.OutOfMemoryError):
            raise
        return False  # too few tokens for this model: its logits are taken as it gives them
    finally:
        handle.remove()
        model.train(training)
    return len(results) == 1 and results[0].shape == logits.shape and torch.equal(results[0].to(logits.dtype), logits)


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
