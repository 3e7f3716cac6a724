"""Answers of a chat are evaluation's, and what was shown of one is never taken back."""

import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import Outcome
from hypothesis import given
from hypothesis import strategies as st

from alpaca.chatting.opening import Speaker, open_speaker
from alpaca.chatting.prompts import prompt_ids, question
from alpaca.chatting.replies import Reply, _certain
from alpaca.chatting.sampling import Sampling
from alpaca.engines.protocol import cut_at_stop
from alpaca.errors import UserError
from alpaca.evaluation import decoding
from alpaca.training.precision import Compute
from alpaca.training.world import World

QUESTIONS = [("Count from 5 to 8.", ""), ("Count from 3 to 6.", "in words"), ("Say hello.", ""), ("ünïcode 🙂", "\n")]


def with_noise(run: Path) -> Speaker:
    """The run with so much noise in what it trained that its answers are long, varied and not even whole characters."""
    speaker = open_speaker(str(run))
    noise = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weights in speaker.model.named_parameters():
            if "norm" not in name:
                weights.normal_(0, 0.3, generator=noise)
    return speaker


@pytest.fixture(scope="module")
def full(finished: Outcome) -> Speaker:
    return with_noise(finished.directory)


@pytest.fixture(scope="module")
def lora(finished_lora: Outcome) -> Speaker:
    return with_noise(finished_lora.directory)


def said(speaker: Speaker, ids: list[int], **settings: float) -> tuple[str, Reply]:
    sampling = Sampling(**{"max_new_tokens": 24, **settings})  # type: ignore[arg-type]
    reply = Reply(speaker, ids, sampling, random.Random(sampling.seed))
    shown = ""
    while reply.ended is None:
        shown += reply.step()
    return shown, reply


def evaluated(speaker: Speaker, prompts: list[list[int]]) -> list[str]:
    """What evaluation writes for these prompts."""
    given: tuple[Any, ...] = (speaker.model, speaker.tokenizer, [np.array(ids) for ids in prompts])
    how: dict[str, Any] = {"compute": speaker.compute, "stop": speaker.prompting.template.stop, "world": World()}
    if hasattr(decoding, "greedy_answers"):
        return decoding.greedy_answers(*given, max_new_tokens=24, batch_size=1, **how)
    keys = [str(ids) for ids in prompts]
    made = decoding.answers(*given, decoding.Sampling(24), keys=keys, batch_size=1, **how)
    return [one.text for one in made]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("which", ["full", "lora"])
def test_greedy_answers_are_those_of_evaluation(which: str, precision: str, request: pytest.FixtureRequest):
    speaker: Speaker = replace(request.getfixturevalue(which), compute=Compute(torch.device("cpu"), precision))
    prompts = [prompt_ids(speaker, question(*texts)) for texts in QUESTIONS]
    uncut = [said(speaker, ids)[0] for ids in prompts]
    template = replace(speaker.prompting.template, stop=(uncut[0][20:23], "### Instruction:"))
    speaker = replace(speaker, prompting=replace(speaker.prompting, template=template))
    expected = evaluated(speaker, prompts)
    assert len(set(expected)) == len(expected)
    assert uncut[0].startswith(expected[0])
    assert 0 < len(expected[0]) < len(uncut[0])
    for ids, answer in zip(prompts, expected, strict=True):
        shown, reply = said(speaker, ids)
        assert shown == reply.text == answer


def test_the_seed_decides_a_sampled_answer(full: Speaker):
    ids = prompt_ids(full, question("Count from 5 to 8."))
    first, again, other = (said(full, ids, temperature=1.5, seed=seed)[0] for seed in (1, 1, 2))
    assert first == again != other
    narrow, greedy = said(full, ids, temperature=1.5, top_p=1e-6)[0], said(full, ids)[0]
    assert narrow == greedy


def test_an_answer_ends_where_the_model_has_no_positions_left(full: Speaker):
    ids = prompt_ids(full, question("word " * 1000))
    assert len(ids) > 1000
    _, reply = said(full, (ids * 2)[:2046])
    assert (reply.tokens, reply.ended) == (2, "length")
    with pytest.raises(UserError, match=r"the prompt has 2,048 tokens and \S+ takes 2,048, answer included"):
        said(full, (ids * 2)[:2048])


@given(st.text("ab#:\n \ufffdé", max_size=30), st.lists(st.text("ab#:\n", min_size=1, max_size=4), max_size=3))
def test_what_is_certain_of_an_answer_stays(text: str, stop: list[str]):
    for size in range(len(text) + 1):
        if any(mark in text[:size] for mark in stop):
            break  # the answer has ended
        assert cut_at_stop(text, tuple(stop)).strip().startswith(_certain(text[:size], tuple(stop)))
