"""Attention over segments as matrix products of many blocks of queries at once, on any device.

A flat sequence of short rows is many small attentions: one after another they are some hundred small
operations a layer, and threads wait between them. Here the sequence is cut into blocks of at most 64 queries,
each with the keys it may see; blocks of like shape are padded to one and computed together. Padding is
masked, so what it would add is exactly zero.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from alpaca.data.microbatch import Segments

QUERY_BLOCK = 64  # queries of a segment scored at once: a causal half that is not needed grows with it
LARGEST_GROUP = 1 << 16  # scores of one group, for each head: about what caches hold
WASTE = 1.4  # padded scores of a group to those that are needed


@dataclass(frozen=True)
class Group:
    """Blocks that are computed together; `total` stands for padding, a row after the sequence's last.

    Attributes:
        queries: (blocks, length) int64, where in the sequence the queries are.
        keys: (blocks, seen) int64, the positions that they may see, their own last.
        hidden: (blocks, 1, length, seen), 0 where a query sees a key and -inf where not.
    """

    queries: torch.Tensor
    keys: torch.Tensor
    hidden: torch.Tensor


class SegmentAttention(torch.autograd.Function):
    """softmax(scale Q K^T) V for each block of queries; the weights are made again in the backward pass.

    With P the weights and dO the gradient of the output: dV = P^T dO, dP = dO V^T,
    dS = P * (dP - rowsum(dP * P)), dQ = scale dS K, dK = scale dS^T Q (Dao et al. 2022, arXiv:2205.14135,
    appendix B). Nothing but Q, K and V is kept, and the gradients of a shared prefix are summed in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scale: float
    ) -> torch.Tensor:
        """query (heads, tokens, dim), key and value (key_value_heads, tokens, dim); returns query's shape."""
        ctx.save_for_backward(query, key, value)
        ctx.segments, ctx.scale = segments, scale
        heads, shared = len(query), len(key)
        asked, seen, given = _rows(query), _rows(key), _rows(value)
        output = asked.new_empty(len(asked), heads * value.shape[-1])
        with torch.autocast(query.device.type, enabled=False):
            for group in groups(segments, query.device):
                weights = _weights(
                    _take(asked, group.queries, heads, shared), _take(seen, group.keys, shared, shared), group, scale
                )
                found = weights @ _take(given, group.keys, shared, shared)
                output.index_copy_(0, group.queries.view(-1), _flat(found, group.queries, heads))
        return _heads(output, heads)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        query, key, value = ctx.saved_tensors
        heads, shared = len(query), len(key)
        asked, seen, given, slopes = _rows(query), _rows(key), _rows(value), _rows(grad_output.to(query.dtype))
        grad_query = torch.empty_like(asked)
        wide = torch.promote_types(query.dtype, torch.float32)
        grad_key, grad_value = torch.zeros_like(seen, dtype=wide), torch.zeros_like(given, dtype=wide)
        with torch.autocast(query.device.type, enabled=False):
            for group in groups(ctx.segments, query.device):
                ask = _take(asked, group.queries, heads, shared)
                keys, values = (_take(rows, group.keys, shared, shared) for rows in (seen, given))
                slope = _take(slopes, group.queries, heads, shared)
                weights = _weights(ask, keys, group, ctx.scale)
                _add(grad_value, group.keys, weights.transpose(1, 2) @ slope, shared)
                grad_scores = torch._softmax_backward_data(slope @ values.transpose(1, 2), weights, -1, weights.dtype)
                grad_scores.mul_(ctx.scale)
                found = _flat(grad_scores @ keys, group.queries, heads)
                grad_query.index_copy_(0, group.queries.view(-1), found)
                _add(grad_key, group.keys, grad_scores.transpose(1, 2) @ ask, shared)
        return (
            _heads(grad_query, heads),
            _heads(grad_key, shared).to(key.dtype),
            _heads(grad_value, shared).to(value.dtype),
            None,
            None,
        )


@functools.lru_cache(maxsize=2)  # every layer of a micro-batch asks for the same
def groups(segments: Segments, device: torch.device) -> tuple[Group, ...]:
    """All blocks of a flat sequence, those of like shape together."""
    blocks = sorted(_blocks(segments), key=lambda block: (len(block[1]), len(block[0])))
    found: list[list[tuple[list[int], list[int]]]] = [[]]
    length = seen = needed = 0
    for queries, keys in blocks:
        longer, wider = max(length, len(queries)), max(seen, len(keys))
        padded = (len(found[-1]) + 1) * longer * wider
        area = len(queries) * len(keys)
        if found[-1] and (padded > WASTE * (needed + area) or padded > LARGEST_GROUP):
            found.append([])
            longer, wider, needed = len(queries), len(keys), 0
        found[-1].append((queries, keys))
        length, seen, needed = longer, wider, needed + area
    total = sum(segments.lengths)
    return tuple(_group(each, total, device) for each in found if each)


def _group(blocks: list[tuple[list[int], list[int]]], total: int, device: torch.device) -> Group:
    length, seen = max(len(queries) for queries, _ in blocks), max(len(keys) for _, keys in blocks)
    queries = [own + [total] * (length - len(own)) for own, _ in blocks]
    keys = [each + [total] * (seen - len(each)) for _, each in blocks]
    # A query sees the keys up to its own, which is the last but those of later queries; a padded one sees all.
    last = torch.tensor(
        [[min(len(each) - len(own) + place, len(each) - 1) for place in range(length)] for own, each in blocks]
    )
    hidden = torch.zeros(len(blocks), 1, length, seen)
    hidden.masked_fill_(torch.arange(seen) > last[:, None, :, None], float("-inf"))
    return Group(torch.tensor(queries, device=device), torch.tensor(keys, device=device), hidden.to(device))


def _blocks(segments: Segments) -> Iterator[tuple[list[int], list[int]]]:
    """Positions of at most QUERY_BLOCK queries, and of the keys they see: their parents' and those up to their last."""
    starts = [0]
    for length in segments.lengths:
        starts.append(starts[-1] + length)
    for index, length in enumerate(segments.lengths):
        before = [place for part in segments.chain(index)[:-1] for place in range(starts[part], starts[part + 1])]
        for first in range(starts[index], starts[index] + length, QUERY_BLOCK):
            last = min(first + QUERY_BLOCK, starts[index] + length)
            yield list(range(first, last)), [*before, *range(starts[index], last)]


def _rows(tensor: torch.Tensor) -> torch.Tensor:
    """(heads, tokens, dim) to (tokens + 1, heads * dim), the last row zero: what padding takes."""
    heads, tokens, size = tensor.shape
    rows = tensor.new_empty(tokens + 1, heads, size)
    rows[:tokens] = tensor.transpose(0, 1)
    rows[tokens] = 0
    return rows.view(tokens + 1, heads * size)


def _heads(rows: torch.Tensor, heads: int) -> torch.Tensor:
    """The way back from `_rows`."""
    return rows[:-1].view(len(rows) - 1, heads, -1).transpose(0, 1)


def _take(rows: torch.Tensor, places: torch.Tensor, heads: int, shared: int) -> torch.Tensor:
    """(blocks * shared, heads / shared * length, dim) of the rows at `places`: grouped queries share a product."""
    blocks, length = places.shape
    taken = rows.index_select(0, places.view(-1)).view(blocks, length, heads, -1)
    return taken.transpose(1, 2).reshape(blocks * shared, heads // shared * length, -1)


def _flat(found: torch.Tensor, places: torch.Tensor, heads: int) -> torch.Tensor:
    """The way back from `_take`: (blocks * length, heads * dim)."""
    blocks, length = places.shape
    return found.view(blocks, heads, length, -1).transpose(1, 2).reshape(blocks * length, -1)


def _add(total: torch.Tensor, places: torch.Tensor, gradient: torch.Tensor, shared: int) -> None:
    """Sum gradients of keys or values into `total`; a prefix that several blocks saw gets them all."""
    flat = _flat(gradient, places, shared).to(total.dtype)
    total.scatter_add_(0, places.view(-1, 1).expand(-1, total.shape[1]), flat)


def _weights(query: torch.Tensor, key: torch.Tensor, group: Group, scale: float) -> torch.Tensor:
    """softmax of the scaled scores, (blocks * shared, heads / shared * length, seen), in query's dtype.

    The product and the softmax are computed in fp32 at least and rounded once each.
    """
    scores = torch.baddbmm(query.new_empty(1), query, key.transpose(1, 2), beta=0, alpha=scale)
    blocks, _, length, seen = group.hidden.shape
    scores.view(blocks, -1, length, seen).add_(group.hidden.to(scores.dtype))
    return torch.softmax(scores, dim=-1)
