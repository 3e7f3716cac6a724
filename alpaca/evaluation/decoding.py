"""Answers of a model: batched greedy decoding, in order of length, cut at EOS and stop strings."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import nn
from transformers import GenerationConfig, PreTrainedTokenizerBase

from alpaca.modeling.attention import plain_attention
from alpaca.training.precision import Compute


def greedy_answers(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    prompts: Sequence[np.ndarray],
    *,
    compute: Compute,
    max_new_tokens: int,
    batch_size: int,
    stop: Sequence[str] = (),
    on_done: Callable[[int], None] = lambda count: None,
) -> list[str]:
    """One answer for each prompt, in the order given.

    Args:
        prompts: token ids as `data/encoding.py` makes them, so inference asks what training taught.
        max_new_tokens: longest answer, EOS included.
        stop: an answer is cut before the first of these.
        on_done: told how many answers each batch finished.
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
    with torch.no_grad(), plain_attention(model) as inner, compute.autocast():
        for start in range(0, len(order), batch_size):
            chosen = order[start : start + batch_size]
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
            )[:, longest:]
            for index, tokens in zip(chosen, made.tolist(), strict=True):
                answers[index] = cut(_until_eos(tokens, tokenizer), stop)
            on_done(len(chosen))
    return answers


def cut(text: str, stop: Sequence[str]) -> str:
    """The text before the first stop string, without white space around it."""
    ends = [found for mark in stop if (found := text.find(mark)) >= 0]
    return text[: min(ends, default=len(text))].strip()


def _until_eos(tokens: list[int], tokenizer: PreTrainedTokenizerBase) -> str:
    end = tokens.index(tokenizer.eos_token_id) if tokenizer.eos_token_id in tokens else len(tokens)
    return str(tokenizer.decode(tokens[:end], skip_special_tokens=True))
