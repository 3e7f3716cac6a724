"""Attention over segments as matrix products of many blocks of queries at once, on any device.

A flat sequence of short rows is many small attentions: one after another they are some hundred small
operations a layer, and threads wait between them. Here the sequence is cut into blocks of at most 64 queries,
each with the keys it may see; blocks of like shape are padded to one and computed together. All blocks are
gathered at once, in the order in which they are computed, and the results are gathered back at once. Padding is
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
KEPT_SCORES = 3  # the weights are kept for the backward pass while they are no more than this many times the queries


@dataclass(frozen=True)
class Group:
    """Blocks of one padded shape that are computed together.

    Attributes:
        blocks, length, seen: how many, and queries and keys of each.
        queries, keys: where its own are among the gathered ones of all groups, counted for one head.
        hidden: (blocks, 1, length, seen), 0 where a query sees a key and -inf where not.
    """

    blocks: int
    length: int
    seen: int
    queries: slice
    keys: slice
    hidden: torch.Tensor


@dataclass(frozen=True)
class Gathering:
    """How a flat sequence becomes the blocks of its groups, and the way back.

    Rows are those of a (tokens, heads, size) tensor: head `h` of token `t` is row `t * heads + h`.

    Attributes:
        groups: in the order in which the blocks are gathered.
        asked: rows of the queries; for a block its key-value heads, each with the queries that share it.
        seen: rows of keys and of values.
        padding: which of the gathered queries are padding (they repeat row 0).
        back: for each row of the queries its place among the gathered ones.
    """

    groups: tuple[Group, ...]
    asked: torch.Tensor
    seen: torch.Tensor
    padding: torch.Tensor
    back: torch.Tensor

    @property
    def scores(self) -> int:
        """Scores of one query head, padding included."""
        return sum(group.blocks * group.length * group.seen for group in self.groups)


class SegmentAttention(torch.autograd.Function):
    """softmax(scale Q K^T) V for each block of queries; the weights are kept where they are few, else made again.

    With P the weights and dO the gradient of the output: dV = P^T dO, dP = dO V^T,
    dS = P * (dP - rowsum(dP * P)), dQ = scale dS K, dK = scale dS^T Q (Dao et al. 2022, arXiv:2205.14135,
    appendix B). The gradients of a key that several blocks saw are summed in fp32.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, segments: Segments, scale: float
    ) -> torch.Tensor:
        """query (heads, tokens, dim), key and value (key_value_heads, tokens, dim); returns query's shape."""
        plan = gathering(segments, len(query), len(key), query.device, query.dtype)
        asked, keys, values = _take(query, plan.asked), _take(key, plan.seen), _take(value, plan.seen)
        found = asked.new_empty(len(asked), value.shape[-1])
        kept = []
        with torch.autocast(query.device.type, enabled=False):
            for group in plan.groups:
                weights = _weights(
                    _queries(asked, group, len(query), len(key)), _keys(keys, group, len(key)), group, scale
                )
                torch.bmm(weights, _keys(values, group, len(key)), out=_queries(found, group, len(query), len(key)))
                kept.append(weights)
        if plan.scores * len(query) > KEPT_SCORES * query.numel():
            kept.clear()
        ctx.save_for_backward(query, key, value, *kept)
        ctx.plan, ctx.scale = plan, scale
        return _back(found, plan, query.shape[1])

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        query, key, value, *kept = ctx.saved_tensors
        plan, scale, heads, shared = ctx.plan, ctx.scale, len(query), len(key)
        asked, keys, values = _take(query, plan.asked), _take(key, plan.seen), _take(value, plan.seen)
        slopes = _take(grad_output.to(query.dtype), plan.asked).index_fill_(0, plan.padding, 0)
        grad_asked, grad_keys, grad_values = (torch.empty_like(rows) for rows in (asked, keys, values))
        with torch.autocast(query.device.type, enabled=False):
            for number, group in enumerate(plan.groups):
                ask, slope = (_queries(rows, group, heads, shared) for rows in (asked, slopes))
                see, given = (_keys(rows, group, shared) for rows in (keys, values))
                weights = kept[number] if kept else _weights(ask, see, group, scale)
                torch.bmm(weights.transpose(1, 2), slope, out=_keys(grad_values, group, shared))
                grad_scores = torch._softmax_backward_data(slope @ given.transpose(1, 2), weights, -1, weights.dtype)
                grad_scores.mul_(scale)
                torch.bmm(grad_scores, see, out=_queries(grad_asked, group, heads, shared))
                torch.bmm(grad_scores.transpose(1, 2), ask, out=_keys(grad_keys, group, shared))
        tokens = query.shape[1]
        return (
            _back(grad_asked, plan, tokens),
            _sum(grad_keys, plan, shared, tokens).to(key.dtype),
            _sum(grad_values, plan, shared, tokens).to(value.dtype),
            None,
            None,
        )


@functools.lru_cache(maxsize=2)  # every layer of a micro-batch asks for the same
def gathering(segments: Segments, heads: int, shared: int, device: torch.device, dtype: torch.dtype) -> Gathering:
    """The blocks of a flat sequence for `heads` query heads that share `shared` heads of keys and values."""
    groups, asked, seen, padding = [], [], [], []
    first_query = first_key = 0
    for blocks in _grouped(segments):
        length, width = max(len(queries) for queries, _ in blocks), max(len(keys) for _, keys in blocks)
        own = torch.tensor([queries + [-1] * (length - len(queries)) for queries, _ in blocks])
        known = torch.tensor([keys + [0] * (width - len(keys)) for _, keys in blocks])
        is_padding = (own < 0)[:, None, :].expand(-1, heads, -1)
        rows = own.clamp_min(0)[:, None, :] * heads + torch.arange(heads)[:, None]
        asked.append(rows.masked_fill(is_padding, 0).flatten())
        padding.append(is_padding.flatten())
        seen.append((known[:, None, :] * shared + torch.arange(shared)[:, None]).flatten())
        queries = slice(first_query, first_query := first_query + len(blocks) * length)
        keys = slice(first_key, first_key := first_key + len(blocks) * width)
        hidden = _hidden(blocks, length, width).to(device, dtype)
        groups.append(Group(len(blocks), length, width, queries, keys, hidden))
    rows, unused = torch.cat(asked), torch.cat(padding)
    used = (~unused).nonzero().flatten()
    back = torch.empty(sum(segments.lengths) * heads, dtype=torch.int64)
    back[rows[used]] = used
    places = (rows, torch.cat(seen), unused.nonzero().flatten(), back)
    return Gathering(tuple(groups), *(place.to(device) for place in places))


def _grouped(segments: Segments) -> list[list[tuple[list[int], list[int]]]]:
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
    return found if blocks else []


def _hidden(blocks: list[tuple[list[int], list[int]]], length: int, seen: int) -> torch.Tensor:
    """A query sees the keys up to its own, which is the last but those of later queries; a padded one sees all."""
    last = torch.tensor(
        [[min(len(keys) - len(own) + place, len(keys) - 1) for place in range(length)] for own, keys in blocks]
    )
    hidden = torch.zeros(len(blocks), 1, length, seen)
    return hidden.masked_fill_(torch.arange(seen) > last[:, None, :, None], float("-inf"))


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


def _take(tensor: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
    """(gathered, size) of a (heads, tokens, size) tensor, which lies in memory by tokens."""
    return tensor.transpose(0, 1).reshape(-1, tensor.shape[-1]).index_select(0, rows)


def _back(found: torch.Tensor, plan: Gathering, tokens: int) -> torch.Tensor:
    """The way back from `_take` for queries: (heads, tokens, size)."""
    return found.index_select(0, plan.back).view(tokens, -1, found.shape[-1]).transpose(0, 1)


def _sum(gradient: torch.Tensor, plan: Gathering, shared: int, tokens: int) -> torch.Tensor:
    """The way back for keys and values: each row gets the sum of what the blocks that saw it have for it."""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    total = torch.zeros(tokens * shared, gradient.shape[-1], dtype=wide, device=gradient.device)
    total.index_add_(0, plan.seen, gradient.to(wide))
    return total.view(tokens, shared, -1).transpose(0, 1)


def _queries(rows: torch.Tensor, group: Group, heads: int, shared: int) -> torch.Tensor:
    """(blocks * shared, heads / shared * length, size): grouped queries share a product."""
    own = rows[group.queries.start * heads : group.queries.stop * heads]
    return own.view(group.blocks * shared, heads // shared * group.length, -1)


def _keys(rows: torch.Tensor, group: Group, shared: int) -> torch.Tensor:
    """(blocks * shared, seen, size)."""
    return rows[group.keys.start * shared : group.keys.stop * shared].view(group.blocks * shared, group.seen, -1)


def _weights(query: torch.Tensor, key: torch.Tensor, group: Group, scale: float) -> torch.Tensor:
    """softmax of the scaled scores, (blocks * shared, heads / shared * length, seen), in query's dtype.

    The product and the softmax are computed in fp32 at least and rounded once each.
    """
    scores = torch.baddbmm(query.new_empty(1), query, key.transpose(1, 2), beta=0, alpha=scale)
    scores.view(group.blocks, -1, group.length, group.seen).add_(group.hidden)
    return torch.softmax(scores, dim=-1)
