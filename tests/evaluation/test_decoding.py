"""Decoding: what a row says depends on nothing but itself, and stops where it should."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from alpaca.engines.decoding import Decoded
from alpaca.engines.local import model_of
from alpaca.evaluation.decoding import Sampling, answers
from alpaca.evaluation.instruction_sets import seed_holdout
from alpaca.modeling.base import load_model, load_tokenizer
from alpaca.training.precision import Compute
from alpaca.training.world import World

CPU = Compute(torch.device("cpu"), "fp32")
TIE = 1e-4  # two batch shapes may round differently: below this the best two tokens count as equal


@pytest.fixture(scope="module")
def tiny():
    config = model_of("tiny")
    tokenizer = load_tokenizer(config)
    model = load_model(config, tokenizer, seed=3, dtype=torch.float32, device=CPU.device)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.dim() == 2 and "embed" not in name:
                weight.mul_(8)  # as drawn, layers hardly change anything: this way answers differ and move
    return model, tokenizer


def prompts_of(tokenizer, count: int) -> list[np.ndarray]:
    texts = [row.instruction for row in seed_holdout()[:count]]
    return [np.array(tokenizer(text)["input_ids"]) for text in texts]


def decode(tiny, prompts: Sequence[np.ndarray], sampling: Sampling, *, keys=None, batch_size=16, stop=()):
    model, tokenizer = tiny
    return answers(
        model, tokenizer, prompts, sampling, keys=keys or [str(n) for n in range(len(prompts))], compute=CPU,
        batch_size=batch_size, stop=stop, world=World(),
    )  # fmt: skip


def same_but_for_ties(tiny, prompt: np.ndarray, one: Decoded, other: Decoded) -> bool:
    model, tokenizer = tiny
    if one == other:
        return True
    ids = [list(tokenizer(answer.text, add_special_tokens=False)["input_ids"]) for answer in (one, other)]
    shared = next((i for i, (a, b) in enumerate(zip(*ids, strict=False)) if a != b), min(map(len, ids)))
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt.tolist(), *ids[0][:shared]]])).logits[0, -1]
    best = logits.topk(2).values
    return float(best[0] - best[1]) <= TIE


def test_greedy_answers_of_one_at_a_time_and_of_sixteen_at_once_are_the_same(tiny):
    prompts = prompts_of(tiny[1], 24)
    assert len({len(prompt) for prompt in prompts}) > 8, "prompts of one length would need no padding"
    alone = decode(tiny, prompts, Sampling(32), batch_size=1)
    together = decode(tiny, prompts, Sampling(32), batch_size=16)
    assert all(map(lambda *three: same_but_for_ties(tiny, *three), prompts, alone, together))
    assert len({answer.text for answer in alone}) > 12, "a model that always says the same would prove nothing"


def test_greedy_answers_are_those_of_transformers_own_generate(tiny):
    model, tokenizer = tiny
    for prompt, answer in zip(
        prompts_of(tokenizer, 4), decode(tiny, prompts_of(tokenizer, 4), Sampling(16)), strict=True
    ):
        made = model.generate(torch.from_numpy(prompt)[None], max_new_tokens=16, do_sample=False)[0, len(prompt) :]
        expected = Decoded(tokenizer.decode(made, skip_special_tokens=True).strip(), len(made), answer.finish_reason)
        assert same_but_for_ties(tiny, prompt, expected, answer)


def test_sampled_answers_depend_neither_on_batch_size_nor_on_order(tiny):
    prompts = prompts_of(tiny[1], 12)
    keys = [f"row {number}" for number in range(12)]
    hot = Sampling(24, temperature=0.9, top_p=0.95, seed=7)
    together = decode(tiny, prompts, hot, keys=keys)
    assert decode(tiny, prompts, hot, keys=keys, batch_size=1) == together
    order = [5, 0, 11, 3, 8, 1, 2, 10, 4, 9, 7, 6]
    shuffled = decode(tiny, [prompts[i] for i in order], hot, keys=[keys[i] for i in order], batch_size=5)
    assert shuffled == [together[i] for i in order]
    assert decode(tiny, prompts[:3], hot, keys=keys[:3]) == together[:3]


def test_another_seed_or_another_row_samples_something_else(tiny):
    prompts = prompts_of(tiny[1], 1) * 4
    one = decode(tiny, prompts, Sampling(24, temperature=1.0, seed=0))
    assert len({answer.text for answer in one}) == 4
    assert decode(tiny, prompts, Sampling(24, temperature=1.0, seed=1)) != one
    assert decode(tiny, prompts, Sampling(24, temperature=1.0, seed=0)) == one


def test_a_stop_string_ends_an_answer_at_once_and_is_no_part_of_it(tiny):
    prompts = prompts_of(tiny[1], 4)
    whole = decode(tiny, prompts, Sampling(32))
    mark = whole[0].text[8:11]
    cut = decode(tiny, prompts, Sampling(32), stop=(mark,))
    assert cut[0].text == whole[0].text[: whole[0].text.index(mark)].strip()
    assert cut[0].finish_reason == "stop"
    assert cut[0].tokens < whole[0].tokens


def test_eos_ends_an_answer_and_counts_as_a_token_of_it(tiny):
    model, tokenizer = tiny
    prompts = prompts_of(tokenizer, 3)
    head = model.lm_head.weight
    before = head.detach().clone()
    with torch.no_grad():
        head[tokenizer.eos_token_id] = head[decode_first(tiny, prompts[0])] * 2
    try:
        answer = decode(tiny, prompts[:1], Sampling(8))[0]
    finally:
        with torch.no_grad():
            head.copy_(before)
    assert (answer.text, answer.tokens, answer.finish_reason) == ("", 1, "stop")


def decode_first(tiny, prompt: np.ndarray) -> int:
    with torch.no_grad():
        return int(tiny[0](torch.from_numpy(prompt)[None]).logits[0, -1].argmax())


def test_a_prompt_that_fills_every_position_has_an_empty_answer_and_the_others_theirs(tiny):
    model, tokenizer = tiny
    positions = model.config.max_position_embeddings
    prompts = [np.full(positions, 5), *prompts_of(tokenizer, 1), np.full(positions - 3, 5)]
    full, normal, nearly = decode(tiny, prompts, Sampling(8))
    assert (full.text, full.tokens, full.finish_reason) == ("", 0, "length")
    assert normal == decode(tiny, prompts[1:2], Sampling(8), keys=["1"])[0]
    assert nearly.tokens <= 3


def test_progress_counts_every_answer_once(tiny):
    model, tokenizer = tiny
    told: list[int] = []
    answers(
        model, tokenizer, prompts_of(tokenizer, 10), Sampling(4), keys=list("abcdefghij"), compute=CPU, batch_size=4,
        world=World(), on_done=told.append,
    )  # fmt: skip
    assert told == [4, 4, 2]
