"""Attention over the segments of a flat sequence, registered with transformers as an attention of its own.

A segment's queries see the keys of its chain of parents, all of them, and of itself up to their own
position. `segment` runs matrix products per segment and works on any device; `varlen` runs the
variable-length kernel of PyTorch on a GPU. Both are exact: the tokens of one example never see another's.
"""

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface

from alpaca.data.microbatch import Segments
from alpaca.errors import UserError
from alpaca.modeling.fused import unfused

SEGMENT = "alpaca_segment"
VARLEN = "alpaca_varlen"
QUERY_BLOCK = 128  # queries of a long segment that are scored at once: keys after the block are never touched


def register() -> None:
    """Make both attentions known to transformers; without a mask function of that name no mask is built."""
    AttentionInterface.register(SEGMENT, segment_attention)
    AttentionInterface.register(VARLEN, varlen_attention)


@contextlib.contextmanager
def plain_attention(model: Any) -> Iterator[Any]:
    """The model as generation and a reader from outside use it: evaluation mode, all of it transformers' own code.

    Afterwards everything is as before.
    """
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before, training = inner.config._attn_implementation, model.training
    model.eval()
    if before in (SEGMENT, VARLEN):
        inner.set_attn_implementation("sdpa" if getattr(inner, "_supports_sdpa", True) else "eager")
    try:
        with unfused(model):
            yield model
    finally:
        inner.set_attn_implementation(before)
        model.train(training)


@torch.compiler.disable  # type: ignore[untyped-decorator]
def segment_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Causal attention within segment chains by matrix products.

    Args:
        query: (1, heads, tokens, head_dim).
        key, value: (1, key_value_heads, tokens, head_dim).
        segments: structure of the flat sequence.

    Returns:
        (1, tokens, heads, head_dim), and None for the weights.

    Raises:
        UserError: the model asks for more than plain causal attention, or does not hand the segments down.
    """
    segments = _only_plain(module, segments, kwargs)
    dtype = value.dtype
    if torch.is_autocast_enabled(query.device.type):
        dtype = torch.get_autocast_dtype(query.device.type)
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    output = _SegmentAttention.apply(query[0].to(dtype), key[0].to(dtype), value[0].to(dtype), segments, scale)
    return output.transpose(0, 1).unsqueeze(0), None


def _only_plain(module: nn.Module, segments: Segments | None, wanted: dict[str, Any]) -> Segments:
    """The segments; refuses what neither attention here computes: softcap, sinks, dropout of weights."""
    if segments is None:
        reason = "does not hand keywords on to its attention"
    elif wanted.get("s_aux") is not None:
        reason = "uses attention sinks"
    elif wanted.get("softcap"):
        reason = "caps attention scores"
    elif wanted.get("dropout"):
        reason = f"drops attention weights ({wanted['dropout']:g})"
    else:
        return segments
    raise UserError(f"train.packing=on: {type(module).__name__} {reason}; set train.packing=off (padded rows, slower)")


class _SegmentAttention(torch.autograd.Function):
    """softmax(scale Q K^T) V per block of queries; the weights are made again in the backward pass.

    With P the weights and dO the gradient of the output: dV = P^T dO, dP = dO V^T,
    dS = P * (dP - rowsum(dP * P)), dQ = scale dS K, dK = scale dS^T Q (Dao et al. 2022, arXiv:2205.14135,
    appendix B). Nothing but Q, K and V is kept, and a prefix's gradients are summed in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scale: float
    ) -> torch.Tensor:
        """query (heads, tokens, dim), key and value (key_value_heads, tokens, dim); returns query's shape."""
        ctx.save_for_backward(query, key, value)
        ctx.segments, ctx.scale = segments, scale
        output = query.new_empty(*query.shape[:-1], value.shape[-1])
        with torch.autocast(query.device.type, enabled=False):
            for rows, columns in _blocks(segments):
                seen_key, seen_value = _gather(key, columns), _gather(value, columns)
                weights = _weights(_grouped(query[:, rows], len(key)), seen_key, scale, rows.stop - rows.start)
                output[:, rows] = (weights @ seen_value).view(output[:, rows].shape)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        query, key, value = ctx.saved_tensors
        scale = ctx.scale
        grad_query = torch.empty_like(query, memory_format=torch.contiguous_format)
        grad_key = torch.zeros(key.shape, dtype=torch.float32, device=key.device)
        grad_value = torch.zeros(value.shape, dtype=torch.float32, device=value.device)
        with torch.autocast(query.device.type, enabled=False):
            for rows, columns in _blocks(ctx.segments):
                seen_key, seen_value = _gather(key, columns), _gather(value, columns)
                asked = _grouped(query[:, rows], len(key))
                weights = _weights(asked, seen_key, scale, rows.stop - rows.start)
                slope = _grouped(grad_output[:, rows].to(query.dtype), len(key))
                _scatter(grad_value, columns, weights.transpose(1, 2) @ slope)
                scores = (slope @ seen_value.transpose(1, 2)).float()
                weights = weights.float()
                scores = (scores - (scores * weights).sum(-1, keepdim=True)).mul_(weights).mul_(scale).to(query.dtype)
                grad_query[:, rows] = (scores @ seen_key).view(grad_query[:, rows].shape)
                _scatter(grad_key, columns, scores.transpose(1, 2) @ asked)
        return grad_query, grad_key.to(key.dtype), grad_value.to(value.dtype), None, None


def _blocks(segments: Segments) -> Iterator[tuple[slice, list[slice]]]:
    """Query rows of the flat sequence, at most QUERY_BLOCK at once, and the key ranges they see, in order."""
    starts = [0]
    for length in segments.lengths:
        starts.append(starts[-1] + length)
    for index, length in enumerate(segments.lengths):
        before = [slice(starts[part], starts[part + 1]) for part in segments.chain(index)[:-1]]
        for first in range(starts[index], starts[index] + length, QUERY_BLOCK):
            last = min(first + QUERY_BLOCK, starts[index] + length)
            yield slice(first, last), [*before, slice(starts[index], last)]


def _weights(query: torch.Tensor, key: torch.Tensor, scale: float, length: int) -> torch.Tensor:
    """Attention of the last `length` positions of a context over all of it.

    query (key_value_heads, groups * length, dim), key (key_value_heads, seen, dim); returns
    (key_value_heads, groups * length, seen) in query's dtype, the softmax taken in fp32.
    """
    seen = key.shape[1]
    scores = (query @ key.transpose(1, 2)).float().mul_(scale).view(len(query), -1, length, seen)
    future = torch.full((length, length), float("-inf"), device=query.device).triu_(1)
    scores[..., seen - length :] += future
    return torch.softmax(scores, dim=-1).to(query.dtype).view(len(query), -1, seen)


def _grouped(query: torch.Tensor, key_value_heads: int) -> torch.Tensor:
    """(heads, length, dim) to (key_value_heads, groups * length, dim): grouped queries share a product."""
    return query.reshape(key_value_heads, -1, query.shape[-1])


def _gather(tensor: torch.Tensor, columns: list[slice]) -> torch.Tensor:
    parts = [tensor[:, part] for part in columns]
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)


def _scatter(total: torch.Tensor, columns: list[slice], gradient: torch.Tensor) -> None:
    start = 0
    for part in columns:
        length = part.stop - part.start
        total[:, part] += gradient[:, start : start + length]
        start += length


@torch.compiler.disable  # type: ignore[untyped-decorator]
def varlen_attention(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    segments: Segments | None = None,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """The same by PyTorch's variable-length kernel (GPU, bf16 or fp16); shapes as in `segment_attention`.

    Queries are aligned to the end of their keys, so a segment whose keys begin with its parents' is causal.
    """
    from torch.nn.attention.varlen import varlen_attn

    segments = _only_plain(module, segments, kwargs)
    keys = key[0].transpose(0, 1).split(segments.lengths)
    values = value[0].transpose(0, 1).split(segments.lengths)
    chains = [segments.chain(index) for index in range(len(segments.lengths))]
    shared = any(parent >= 0 for parent in segments.parents)
    flat_key = torch.cat([keys[part] for chain in chains for part in chain]) if shared else key[0].transpose(0, 1)
    flat_value = torch.cat([values[part] for chain in chains for part in chain]) if shared else value[0].transpose(0, 1)
    key_lengths = [sum(segments.lengths[part] for part in chain) for chain in chains]
    known = inspect.signature(varlen_attn).parameters
    options: dict[str, Any] = {"scale": scaling} if "scale" in known else {}
    options |= {"window_size": (-1, 0)} if "window_size" in known else {"is_causal": True}
    if query.shape[1] != key.shape[1]:
        if "enable_gqa" in known:
            options["enable_gqa"] = True
        else:
            repeats = query.shape[1] // key.shape[1]
            flat_key, flat_value = (tensor.repeat_interleave(repeats, 1) for tensor in (flat_key, flat_value))
    output: Any = varlen_attn(
        query[0].transpose(0, 1).contiguous(),
        flat_key.contiguous(),
        flat_value.contiguous(),
        _cumulative(segments.lengths, query.device),
        _cumulative(key_lengths, query.device),
        max(segments.lengths),
        max(key_lengths),
        **options,
    )
    return output.unsqueeze(0), None


def _cumulative(lengths: Any, device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *lengths], dtype=torch.int32).cumsum(0, dtype=torch.int32).to(device)
