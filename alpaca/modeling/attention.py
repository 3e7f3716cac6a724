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
from alpaca.modeling.segment_products import SegmentAttention

SEGMENT = "alpaca_segment"
VARLEN = "alpaca_varlen"


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
    before, training = implementation(inner), model.training
    model.eval()
    use_own_attention(model)
    try:
        with unfused(model):
            yield model
    finally:
        if implementation(inner) != before:
            inner.set_attn_implementation(before)
        model.train(training)


def implementation(model: Any) -> str:
    """The attention that text goes through; a model that sees or hears may have others beside it."""
    return str(model.config.get_text_config()._attn_implementation)


def use_own_attention(model: Any) -> None:
    """Give up ours: transformers' attention, for anything but packed rows."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    if implementation(inner) in (SEGMENT, VARLEN):
        inner.set_attn_implementation("sdpa" if getattr(inner, "_supports_sdpa", True) else "eager")


def takes_kv_cache(model: Any) -> bool:
    """Whether transformers' cache of keys and values serves the model: not if it carries a state or has none."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    return (
        not getattr(inner, "_is_stateful", False)
        and "past_key_values" in inspect.signature(inner.forward).parameters
        and inner._supports_default_dynamic_cache()  # no public name says that MiniMax has a cache of its own
    )


def not_packable(model: Any, max_length: int) -> str | None:
    """Why the model's attention cannot run over segments of up to `max_length` tokens, or None if it can."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    config = inner.config.get_text_config()
    if not getattr(inner, "_supports_attention_backend", False):
        return "does not use transformers' attention interface"
    if not takes_kv_cache(inner):
        return "carries state from token to token"
    window = getattr(config, "sliding_window", None)
    if window is not None and getattr(config, "use_sliding_window", True) and window < max_length:
        return f"has a sliding window of {window} tokens, shorter than train.max_length={max_length}"
    chunk = getattr(config, "attention_chunk_size", None)
    if chunk is not None and chunk < max_length:
        return f"attends in chunks of {chunk} tokens, shorter than train.max_length={max_length}"
    if getattr(config, "attn_logit_softcapping", None):
        return "caps attention scores"
    if any(name.rsplit(".", 1)[-1] == "sinks" for name, _ in inner.named_parameters()):
        return "uses attention sinks"
    for name in ("attention_dropout", "attn_pdrop", "attention_probs_dropout_prob"):
        if getattr(config, name, 0.0):
            return f"drops attention weights ({name}={getattr(config, name)})"
    return None


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
    output = SegmentAttention.apply(query[0].to(dtype), key[0].to(dtype), value[0].to(dtype), segments, scale)
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
