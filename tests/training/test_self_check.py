"""A run checks its own first rows before it trains, and refuses where packing would change a number."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny_models import FP32, LORA, build, examples_of, family, shipped, some_examples

from alpaca.data.encoding import Examples
from alpaca.data.microbatch import MicroBatch, Segments
from alpaca.errors import RunFailed
from alpaca.training.batches import Layout
from alpaca.training.precision import Compute
from alpaca.training.self_check import _compared, self_check

SHARED = Layout(2048, share_prefix=True)


@dataclass(frozen=True)
class Leaking(Layout):
    """The second segment also sees the first one's tokens."""

    def lay_out(self, examples: Examples, indices: np.ndarray) -> MicroBatch:
        batch = super().lay_out(examples, indices)
        parents = (-1, 0, *batch.segments.parents[2:])
        return replace(batch, segments=Segments(batch.segments.lengths, parents))


@dataclass(frozen=True)
class Merged(Layout):
    """All examples as one segment: each sees every one before it."""

    def lay_out(self, examples: Examples, indices: np.ndarray) -> MicroBatch:
        batch = super().lay_out(examples, indices)
        return replace(batch, segments=Segments((batch.executed,), (-1,)))


@dataclass(frozen=True)
class WrongPositions(Layout):
    """Positions run on from one example to the next."""

    def lay_out(self, examples: Examples, indices: np.ndarray) -> MicroBatch:
        batch = super().lay_out(examples, indices)
        return replace(batch, position_ids=np.arange(batch.executed) * 3 % 97)


@dataclass(frozen=True)
class LabelsMoved(Layout):
    """Each label is asked for one position too early."""

    def lay_out(self, examples: Examples, indices: np.ndarray) -> MicroBatch:
        batch = super().lay_out(examples, indices)
        return replace(batch, label_positions=batch.label_positions - 1)


@pytest.mark.parametrize(
    "layout", [SHARED, Layout(2048), Layout(2048, packed=False)], ids=["shared", "apart", "padded"]
)
@pytest.mark.parametrize("name", ["tiny", "tiny_qwen3", "tiny_opt"])
def test_a_right_layout_passes(name: str, layout: Layout):
    model = build(shipped(name), implementation="sdpa" if not layout.packed else "alpaca_segment")
    result = self_check(model, some_examples(), layout, FP32)
    assert result.rows == 3
    assert result.loss < 1e-5
    assert result.gradient < 1e-5
    assert result.leak == 0


@pytest.mark.parametrize("layout", [Leaking(2048), Merged(2048), Merged(2048, share_prefix=True)])
@pytest.mark.parametrize("name", ["tiny", "tiny_qwen3", "tiny_opt"])
def test_one_example_that_reads_another_stops_the_run(name: str, layout: Layout):
    with pytest.raises(RunFailed, match=r"self-check: 3 rows together differ.*train.packing=off") as failed:
        self_check(build(shipped(name)), some_examples(), layout, FP32)
    leak = float(str(failed.value).split("another's loss by ")[1].split()[0])
    assert leak > 0
    assert failed.value.exit_status == 1


@pytest.mark.parametrize("layout", [WrongPositions(2048), LabelsMoved(2048)])
def test_positions_or_labels_out_of_place_stop_the_run(layout: Layout):
    with pytest.raises(RunFailed, match=r"differ from the same rows one at a time by \d"):
        self_check(build(shipped("tiny")), some_examples(), layout, FP32)


def test_a_leak_stops_a_run_in_bf16_too_though_its_bounds_are_wider():
    compute = Compute(torch.device("cpu"), "bf16")
    assert self_check(build(shipped("tiny")), some_examples(), SHARED, compute).leak == 0
    with pytest.raises(RunFailed, match="self-check"):
        self_check(build(shipped("tiny")), some_examples(), Leaking(2048), compute)


def test_attention_that_differs_from_the_models_own_stops_the_run():
    # The scale of the scores is the model's; one that ours does not know of would be seen.
    model = build(shipped("tiny"))
    assert self_check(model, some_examples(), SHARED, FP32).gradient < 1e-5
    for layer in model.model.layers:
        layer.self_attn.is_causal = False  # read by transformers' attention alone
    with pytest.raises(RunFailed, match="self-check"):
        self_check(model, some_examples(), SHARED, FP32)


def test_dropout_is_off_while_the_check_looks_and_back_afterwards():
    opt = build({**shipped("tiny_opt"), "dropout": 0.3})  # OPT calls the function, it has no dropout module
    lora = build(shipped("tiny"), replace(LORA, dropout=0.3))
    for model in (opt, lora):
        assert self_check(model, some_examples(), Layout(2048), FP32).gradient < 1e-5
        assert model.training
    assert opt.model.decoder.layers[0].dropout == 0.3
    assert {module.p for module in lora.modules() if isinstance(module, torch.nn.Dropout)} == {0.3}


def test_the_check_leaves_no_gradient_and_the_models_attention_as_it_was():
    model = build(shipped("tiny"))
    self_check(model, some_examples(), SHARED, FP32)
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.config._attn_implementation == "alpaca_segment"


def test_rows_of_the_last_token_of_an_odd_vocabulary_can_be_checked():
    last = 302
    examples = examples_of([[5, 6, 7]] * 3, [[last] * 4, [last] * 5, [last] * 6])
    assert self_check(build(family("llama", vocab_size=last + 1)), examples, SHARED, FP32).leak == 0


def test_one_row_is_enough():
    assert self_check(build(shipped("tiny")), some_examples(1), SHARED, FP32).rows == 1


def test_experts_are_checked_too():
    model = build(family("mixtral", num_local_experts=4, num_experts_per_tok=2))
    assert self_check(model, some_examples(), SHARED, FP32).gradient < 1e-5


def test_both_halves_of_a_large_lora_are_compared():
    model = build(family("llama"), LORA)
    chosen = {id(parameter) for parameter in _compared(model, at_most=2048)}
    assert 0 < len(chosen) < sum(parameter.requires_grad for parameter in model.parameters())
    names = [name for name, parameter in model.named_parameters() if id(parameter) in chosen]
    assert any("lora_A" in name for name in names)
    assert any("lora_B" in name for name in names)
