"""Operations are counted as PyTorch counts them on the plain model, and attention's pairs as they are."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny_models import CPU, FULL, LORA, build, family, shipped, some_examples
from torch.utils.flop_counter import FlopCounterMode

from alpaca.data.microbatch import Segments, empty, pack, pad
from alpaca.modeling.fused import unfused
from alpaca.training.batches import Layout
from alpaca.training.flops import ModelFlops, attended_pairs, peak_tflops

ARCHITECTURES = {"tiny": shipped("tiny"), "tiny_qwen3": shipped("tiny_qwen3"), "tiny_opt": shipped("tiny_opt")}
ARCHITECTURES["llama of 6 layers"] = family("llama", num_hidden_layers=6, tie_word_embeddings=False)


def counted(model: torch.nn.Module, tokens: int) -> int:
    """Linear layers and head of one row with a label everywhere, forward and backward; attention left out."""
    counter = FlopCounterMode(display=False)
    with counter, unfused(model):  # sums in place are not in its table
        model(input_ids=torch.arange(tokens)[None] % 64, use_cache=False).logits.sum().backward()
    by_operator = counter.get_flop_counts()["Global"]
    return sum(int(count) for operator, count in by_operator.items() if str(operator) in ("aten.mm", "aten.addmm"))


def ours(model: torch.nn.Module, tokens: int) -> float:
    """The same without attention: executed tokens and labels alone count."""
    flops = ModelFlops.of(model)
    batch = pack([np.arange(tokens)], [1])
    whole = flops.training_step(batch) - 3 * flops.attention * attended_pairs(batch)
    return whole + 2 * flops.head * (3 if flops.head_trained else 2)  # the last position has no label with us


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_linear_layers_and_head_of_a_full_training_step_are_counted_as_pytorch_does(name: str):
    model = build(ARCHITECTURES[name], FULL, implementation="sdpa")
    assert ours(model, 96) == pytest.approx(counted(model, 96), rel=0.01)


def test_frozen_weights_cost_no_weight_gradient():
    # The first layer's inputs need no gradient under LoRA; with twelve layers that is below 3 per cent.
    model = build(family("llama", num_hidden_layers=12), LORA, implementation="sdpa")
    assert ours(model, 64) == pytest.approx(counted(model, 64), rel=0.03)
    assert ours(model, 64) < 0.9 * ours(build(family("llama", num_hidden_layers=12), FULL), 64)


def test_attention_costs_four_operations_for_each_pair_head_and_width():
    model = build(shipped("tiny"))  # 2 layers, 4 heads of 16
    assert ModelFlops.of(model).attention == 4 * 2 * 4 * 16
    assert ModelFlops.of(build(shipped("tiny_opt"))).attention == 4 * 2 * 4 * 16


def brute_force(segments: Segments) -> int:
    """Each query asks every key whether it sees it."""
    owner = np.repeat(np.arange(len(segments.lengths)), segments.lengths)
    return sum(
        owner[key] in segments.chain(int(owner[query])) for query in range(len(owner)) for key in range(query + 1)
    )


@given(st.lists(st.integers(1, 6), min_size=1, max_size=5), st.data())
def test_attended_pairs_are_those_that_see_each_other(lengths: list[int], data: st.DataObject):
    parents = tuple(data.draw(st.integers(-1, index - 1)) for index in range(len(lengths)))
    batch = pack([np.arange(sum(lengths))], [1])
    segments = Segments(tuple(lengths), parents)
    from dataclasses import replace

    assert attended_pairs(replace(batch, segments=segments)) == brute_force(segments)


def test_padded_rows_attend_over_their_whole_width():
    assert attended_pairs(pad([np.arange(3), np.arange(5)], [1, 1])) == 2 * 15


def test_an_empty_micro_batch_costs_next_to_nothing():
    flops = ModelFlops.of(build(shipped("tiny")))
    examples = some_examples()
    batch = Layout(2048).lay_out(examples, range(len(examples)))
    assert flops.training_step(empty()) < 0.01 * flops.training_step(batch)


def test_sharing_lowers_the_operations_of_the_same_examples():
    flops, examples = ModelFlops.of(build(shipped("tiny"))), some_examples()
    apart, shared = (Layout(2048, share_prefix=how).lay_out(examples, range(len(examples))) for how in (False, True))
    assert flops.training_step(shared) < flops.training_step(apart)


def test_no_peak_is_stated_for_a_cpu():
    assert peak_tflops(CPU, "bf16") is None
