"""Sampled answers of a model in this process, many at once, each as if it were alone.

Rows are padded on the left and share a KV cache; rows that ended leave it. Every row draws from a generator
of its own, and a draw picks a token by the cumulative distribution in float64, so what a row says does
not depend on which others are decoded beside it, up to rounding of the logits.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedTokenizerBase

from alpaca.engines.protocol import cut_at_stop
from alpaca.modeling.attention import plain_attention

COMPACT_AT = 0.75  # share of rows still going at which the others leave the cache

LIKELIEST = 1024


@dataclass(frozen=True)
class Row:
    """One answer to make: prompt ids, its limit in tokens (EOS included), and how to sample."""

    ids: tuple[int, ...]
    max_tokens: int
    temperature: float
    top_p: float
    stop: tuple[str, ...]
    seed: str


@dataclass(frozen=True)
class Decoded:
    """An answer: its text before any stop string, tokens sampled (EOS included), and `stop` or `length`."""

    text: str
    tokens: int
    finish_reason: str


@torch.no_grad()  # not inference_mode: weights that FSDP gathers in it could not be trained on afterwards
def decode(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    rows: Sequence[Row],
    *,
    ends: frozenset[int],
    device: torch.device,
    wanted: Callable[[int], bool] = lambda row: True,
    all_done: Callable[[bool], bool] = lambda done: done,
) -> list[Decoded | None]:
    """One answer for each row, in order; None for a row that was no longer wanted.

    Args:
        ends: ids that end an answer and are no part of its text.
        wanted: asked before each token whether the answer of a row is still of use.
        all_done: asked after each token, with whether these rows are done, whether those of every rank are. Where
            ranks hold parts of one model, one that is done computes on with the others until they are.
    """
    made: list[list[int]] = [[] for _ in rows]
    results: list[Decoded | None] = [None] * len(rows)
    generators = [random.Random(row.seed) for row in rows]
    going = list(range(len(rows)))  # row of each line of the batch
    over: set[int] = set()
    ids, seen = _left_padded(rows, int(tokenizer.pad_token_id), device)
    positions = (seen.cumsum(1) - 1).clamp(min=0)
    with plain_attention(model) as inner:
        cache = DynamicCache(config=inner.config)
        while True:
            logits = inner(
                input_ids=ids,
                attention_mask=seen,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            ids = sample(logits, [rows[row] for row in going], [generators[row].random() for row in going])[:, None]
            for row, token in zip(going, ids[:, 0].tolist(), strict=True):
                if row in over:
                    continue
                made[row].append(token)
                results[row] = _finished(rows[row], made[row], tokenizer, ends)
                if results[row] is not None or not wanted(row):
                    over.add(row)
            if all_done(len(over) == len(rows)):
                return results
            if len(over) == len(rows):
                while True:
                    inner(input_ids=ids[:1], use_cache=False)
                    if all_done(True):
                        return results
            positions = positions[:, -1:] + 1
            seen = torch.cat([seen, seen.new_ones(len(going), 1)], dim=1)
            if sum(row not in over for row in going) <= COMPACT_AT * len(going):
                kept = torch.tensor([line for line, row in enumerate(going) if row not in over], device=device)
                cache.batch_select_indices(kept)
                ids, seen, positions = ids[kept], seen[kept], positions[kept]
                going = [going[line] for line in kept.tolist()]


def sample(logits: torch.Tensor, rows: Sequence[Row], draws: Sequence[float]) -> torch.Tensor:
    """A token for each row of logits (rows, vocabulary): the likeliest at temperature 0, else by `draws` in [0, 1)."""
    greedy = logits.argmax(-1)
    if all(row.temperature <= 0 for row in rows):
        return greedy
    warmth = torch.tensor([row.temperature or 1.0 for row in rows], dtype=torch.float64, device=logits.device)
    nucleus = torch.tensor([row.top_p for row in rows], dtype=torch.float64, device=logits.device)
    chances = (logits.double() / warmth[:, None]).softmax(-1)
    if bool((nucleus < 1).any()):
        chances = _nucleus(chances, nucleus[:, None])
    up_to = chances.cumsum(-1)
    drawn = torch.tensor(draws, dtype=torch.float64, device=logits.device)[:, None] * up_to[:, -1:]
    picked = torch.searchsorted(up_to, drawn, right=True)[:, 0].clamp(max=logits.shape[-1] - 1)
    cold = torch.tensor([row.temperature <= 0 for row in rows], device=logits.device)
    return torch.where(cold, greedy, picked)


def _nucleus(chances: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """The likeliest tokens that make up `share` (rows, 1) of each row; the others get no chance.

    They are looked for among the likeliest thousand first: sorting the whole vocabulary takes longer than
    a small model's forward pass.
    """
    falling, order = chances.topk(min(LIKELIEST, chances.shape[-1]))
    if bool(((falling.sum(-1, keepdim=True) < share) & (share < 1)).any()):
        falling, order = chances.sort(descending=True)
    before = falling.cumsum(-1) - falling  # the likeliest token always stays: nothing is before it
    kept = torch.zeros_like(chances).scatter_(-1, order, falling.where(before < share, 0.0))
    return torch.where(share < 1, kept, chances)


def _left_padded(rows: Sequence[Row], pad: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(len(row.ids) for row in rows)
    ids = torch.tensor([[pad] * (longest - len(row.ids)) + list(row.ids) for row in rows])
    seen = torch.tensor([[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows])
    return ids.to(device), seen.to(device)


def _finished(row: Row, made: list[int], tokenizer: PreTrainedTokenizerBase, ends: frozenset[int]) -> Decoded | None:
    if made[-1] in ends:
        text = str(tokenizer.decode(made[:-1], skip_special_tokens=True))
        return Decoded(cut_at_stop(text, row.stop), len(made), "stop")
    if row.stop:
        reach = 4 * max(map(len, row.stop)) + 4  # a character is at most four tokens; some more for what merges
        tail = str(tokenizer.decode(made[-reach:], skip_special_tokens=True))
        if any(mark in tail for mark in row.stop):
            text = str(tokenizer.decode(made, skip_special_tokens=True))
            if (cut := cut_at_stop(text, row.stop)) != text:
                return Decoded(cut, len(made), "stop")
    if len(made) >= row.max_tokens:
        return Decoded(str(tokenizer.decode(made, skip_special_tokens=True)), len(made), "length")
    return None
