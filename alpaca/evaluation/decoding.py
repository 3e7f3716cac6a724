"""Answers of a model: batched greedy decoding, in order of length, cut at EOS and stop strings."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from alpaca.modeling.attention import plain_attention
from alpaca.training.precision import Compute
from alpaca.training.sharding import is_sharded, without_wrapper
from alpaca.training.world import World


def greedy_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[np.ndarray],
    *,
    compute: Compute,
    max_new_tokens: int,
    batch_size: int,
    stop: Sequence[str] = (),
    world: World,
    on_done: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """One answer for each prompt, in the order given.

    Args:
        prompts: token ids as `data/encoding.py` makes them, so inference asks what training taught.
        max_new_tokens: longest answer, EOS included.
        stop: an answer is cut before the first of these.
        world: batches are dealt out over its ranks; each gets all answers in the end.
        on_done: told how many answers each batch finished, over all ranks.
    """
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    answers = [""] * len(prompts)
    settings = GenerationConfig(
        do_sample=False,
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        use_cache=True,
    )
    with torch.no_grad(), plain_attention(without_wrapper(model)) as inner, compute.autocast():
        share = max(1, min(batch_size, -(-len(order) // world.size)))
        batches = [order[start : start + share] for start in range(0, len(order), share)]
        rounds = -(-len(batches) // world.size)
        for turn in range(rounds):
            # A rank left without a batch repeats one: where weights are split, all must compute alike.
            mine = turn * world.size + world.rank
            chosen = batches[min(mine, len(batches) - 1)]
            longest = len(prompts[chosen[0]])
            ids = torch.full((len(chosen), longest), int(tokenizer.pad_token_id), dtype=torch.long)
            seen = torch.zeros_like(ids)
            for row, index in enumerate(chosen):
                ids[row, longest - len(prompts[index]) :] = torch.from_numpy(prompts[index].astype(np.int64))
                seen[row, longest - len(prompts[index]) :] = 1
            made = inner.generate(
                input_ids=ids.to(compute.device),
                attention_mask=seen.to(compute.device),
                generation_config=settings,
                synced_gpus=is_sharded(model),
            )[:, longest:]
            found = [cut(_until_eos(tokens, tokenizer), stop) for tokens in made.tolist()]
            for rank, texts in enumerate(world.gather(found)):
                if (number := turn * world.size + rank) < len(batches):
                    for index, text in zip(batches[number], texts, strict=True):
                        answers[index] = text
                    on_done(len(texts))
    return answers


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string, without white space around it."""
    ends = [found for mark in stop if (found := text.find(mark)) >= 0]
    return text[: min(ends, default=len(text))].strip()


def _until_eos(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    end = tokens.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in tokens else len(tokens)
    return str(tokenizer.decode(tokens[:end], skip_special_tokens=True))
