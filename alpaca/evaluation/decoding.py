"""Answers of a model in this process: batches of like length, spread over the ranks, each row as if it were alone.

`engines/decoding.py` makes the tokens: left-padded, with a KV cache that finished rows leave, ended by EOS or
a stop string at once. Here rows are sorted, dealt out and put back in order. A row samples from a seed of its
own, so neither batch size nor order nor ranks change what it says, up to rounding of the logits.
"""

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from alpaca.engines.decoding import Decoded, Row, decode
from alpaca.engines.protocol import cut_at_stop
from alpaca.errors import RunFailed, UserError
from alpaca.modeling.attention import plain_attention, takes_kv_cache
from alpaca.training.precision import Compute
from alpaca.training.sharding import is_sharded, whole, without_wrapper
from alpaca.training.world import World

NO_ROOM = Decoded("", 0, "length")  # for a prompt that fills every position of the model


@dataclass(frozen=True)
class Sampling:
    """How tokens are chosen; temperature 0 is greedy. `max_new_tokens` counts EOS."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


def answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[np.ndarray],
    sampling: Sampling,
    *,
    keys: Sequence[str],
    compute: Compute,
    batch_size: int,
    stop: Sequence[str] = (),
    world: World,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[Decoded]:
    """One answer for each prompt, in the order given.

    Args:
        prompts: token ids as `data/encoding.py` makes them, so inference asks what training taught.
        keys: a name for each prompt, such as its example id; with the seed it decides what is drawn for it.
        stop: an answer ends before the first of these.
        world: batches are dealt out over its ranks; each gets all answers in the end.
        on_done: told how many answers each round finished, over all ranks.

    Raises:
        RunFailed: not even one answer fits into memory.
    """
    plain = without_wrapper(model)
    positions = getattr(whole(plain).config.get_text_config(), "max_position_embeddings", None)
    rows = [
        Row(
            ids=tuple(ids.tolist()),
            max_tokens=min(sampling.max_new_tokens, positions - len(ids) if positions else sampling.max_new_tokens),
            temperature=sampling.temperature,
            top_p=sampling.top_p,
            stop=tuple(mark for mark in stop if mark),
            seed=f"seed {sampling.seed}, {key}",
        )
        for ids, key in zip(prompts, keys, strict=True)
    ]
    made: list[Decoded] = [NO_ROOM] * len(rows)
    order = sorted((i for i, row in enumerate(rows) if row.max_tokens > 0), key=lambda i: (-len(rows[i].ids), keys[i]))
    share = max(1, min(batch_size, -(-len(order) // world.size)))
    batches = [order[start : start + share] for start in range(0, len(order), share)]
    decoder = _Decoder(plain, tokenizer, compute, world if is_sharded(model) else World())
    for turn in range(-(-len(batches) // world.size)):
        # A rank left without a batch repeats one: where weights are split, all must compute alike.
        mine = batches[min(turn * world.size + world.rank, len(batches) - 1)]
        with compute.autocast():
            found = decoder.decode([rows[index] for index in mine])
        told = [[one.text.strip(), one.tokens, one.finish_reason] for one in found]
        for rank, texts in enumerate(world.gather(told)):
            if (number := turn * world.size + rank) < len(batches):
                for index, (text, tokens, reason) in zip(batches[number], texts, strict=True):
                    made[index] = Decoded(text, tokens, reason)
                on_done(len(texts))
    return made


class _Decoder:
    """One batch at a time; one that does not fit into memory is halved where no other rank must keep step."""

    def __init__(self, model: Any, tokenizer: PreTrainedTokenizerBase, compute: Compute, together: World):
        self._model, self._tokenizer, self._compute, self._together = model, tokenizer, compute, together
        self._ends = frozenset({int(tokenizer.eos_token_id)})
        self._stateful = not takes_kv_cache(whole(model))

    def decode(self, rows: list[Row]) -> list[Decoded]:
        try:
            if self._stateful:
                return self._generated(rows)
            found = decode(
                self._model,
                self._tokenizer,
                rows,
                ends=self._ends,
                device=self._compute.device,
                all_done=self._all_done,
            )
            return [one for one in found if one is not None]
        except torch.OutOfMemoryError:
            if len(rows) == 1 or not self._together.alone:
                raise RunFailed(
                    f"out of memory while decoding {len(rows)} answers; lower the evaluation's batch_size or "
                    "max_new_tokens"
                ) from None
        torch.cuda.empty_cache()
        half = len(rows) // 2
        return self.decode(rows[:half]) + self.decode(rows[half:])

    def _all_done(self, done: bool) -> bool:
        if self._together.alone:
            return done
        return int(self._together.sum(torch.tensor(int(done)))) == self._together.size

    @torch.no_grad()
    def _generated(self, rows: list[Row]) -> list[Decoded]:
        """By transformers' own loop, for models that carry a state in place of a KV cache; greedy only."""
        if rows[0].temperature > 0:
            raise UserError(
                f"evaluation.decode.temperature={rows[0].temperature:g}: {type(whole(self._model)).__name__} carries "
                "a state from token to token and is decoded greedily only; set evaluation.decode.temperature=0"
            )
        longest, pad = max(len(row.ids) for row in rows), int(self._tokenizer.pad_token_id)
        ids = torch.tensor([[pad] * (longest - len(row.ids)) + list(row.ids) for row in rows])
        seen = torch.tensor([[0] * (longest - len(row.ids)) + [1] * len(row.ids) for row in rows])
        settings = GenerationConfig(
            do_sample=False,
            max_new_tokens=max(row.max_tokens for row in rows),
            eos_token_id=sorted(self._ends),
            pad_token_id=pad,
        )
        given = {
            "input_ids": ids.to(self._compute.device),
            "attention_mask": seen.to(self._compute.device),
            "generation_config": settings,
            "synced_gpus": not self._together.alone,
        }
        with plain_attention(self._model) as inner:
            try:
                tokens = inner.generate(**given)
            except ValueError:  # a cache without an attention layer cannot say its length (RecurrentGemma, 2 layers)
                settings.use_cache = False
                tokens = inner.generate(**given)
        made = tokens[:, longest:]
        return [self._cut(row, answer) for row, answer in zip(rows, made.tolist(), strict=True)]

    def _cut(self, row: Row, tokens: list[int]) -> Decoded:
        end = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        kept = tokens[: row.max_tokens] if end is None else tokens[:end]
        text = str(self._tokenizer.decode(kept, skip_special_tokens=True))
        before = cut_at_stop(text, row.stop)
        return Decoded(before, len(kept) + (end is not None), _reason(end is not None or before != text))


def _reason(stopped: bool) -> str:
    return "stop" if stopped else "length"


def request_seed(seed: int, key: str) -> int:
    """A seed for the row `key`, for engines that take a number of 31 bits."""
    return zlib.crc32(f"seed {seed}, {key}".encode()) & 0x7FFFFFFF
