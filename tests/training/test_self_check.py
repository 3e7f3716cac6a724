"""A run checks its own first rows before it trains, and refuses where packing would change a number."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from tiny_models import (
    FP32,
    FULL,
    LORA,
    alone,
    build,
    difference,
    examples_of,
    family,
    of_step,
    shipped,
    some_examples,
)  # fmt: skip

from alpaca.config import AdapterConfig
from alpaca.data.encoding import Examples
from alpaca.data.microbatch import MicroBatch, Segments
from alpaca.data.steps import StepPlan
from alpaca.errors import RunFailed
from alpaca.modeling.layers import dropout_settings
from alpaca.training.batches import Layout, Steps
from alpaca.training.precision import Compute
from alpaca.training.self_check import _compared, exact_layout, self_check

BF16 = Compute(torch.device("cpu"), "bf16")
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
def test_one_example_that_reads_another_is_seen(name: str, layout: Layout):
    found = self_check(build(shipped(name)), some_examples(), layout, FP32)
    assert found.leak > 0
    assert not found.holds("fp32")


@pytest.mark.parametrize("layout", [WrongPositions(2048), LabelsMoved(2048)])
def test_positions_or_labels_out_of_place_are_seen(layout: Layout):
    assert not self_check(build(shipped("tiny")), some_examples(), layout, FP32).holds("fp32")


def test_a_leak_is_seen_in_bf16_too_though_its_bounds_are_wider():
    compute = Compute(torch.device("cpu"), "bf16")
    assert self_check(build(shipped("tiny")), some_examples(), SHARED, compute).leak == 0
    assert not self_check(build(shipped("tiny")), some_examples(), Leaking(2048), compute).holds("bf16")


def _scaled_when_packed(module: torch.nn.Module, given: object) -> None:
    module.scaling = 0.25 if module.config._attn_implementation == "alpaca_segment" else 0.3


def test_attention_that_differs_from_the_models_own_is_seen():
    # The scale of the scores is the model's; one that ours does not know of would be seen.
    model = build(shipped("tiny"))
    assert self_check(model, some_examples(), SHARED, FP32).gradient < 1e-5
    for layer in model.model.layers:
        layer.self_attn.register_forward_pre_hook(_scaled_when_packed)
    assert not self_check(model, some_examples(), SHARED, FP32).holds("fp32")


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


def layout_found(architecture: dict, adapter: AdapterConfig = FULL, layout: Layout = SHARED) -> tuple[str, str]:
    """What a run of the model does with its rows, and why it is not what was chosen."""
    found, check, reasons = exact_layout(build(architecture, adapter), some_examples(), layout, FP32)
    assert check.holds("fp32")
    return found.in_words, "; ".join(reasons)


def test_a_model_that_cannot_be_packed_exactly_is_trained_in_the_fastest_layout_that_is_exact():
    assert layout_found(shipped("tiny")) == ("packed rows with shared prefixes", "")
    words, reasons = layout_found(family("minimax", num_local_experts=2, num_experts_per_tok=1))
    assert words == "padded rows"
    assert reasons.startswith("packed rows with shared prefixes: loss off by")
    assert "packed rows: loss off by" in reasons
    words, reasons = layout_found(family("nemotron"))
    assert words == "padded rows"
    assert reasons.endswith(
        "; packed rows: it fails (train.packing=on: NemotronAttention does not hand keywords on to its attention)"
    )


@dataclass(frozen=True)
class PaddedWrong(Layout):
    """Rows that stand together are wrong, as with a model whose state runs over padding."""

    def lay_out(self, examples: Examples, indices: np.ndarray) -> MicroBatch:
        batch = super().lay_out(examples, indices)
        return batch if self.one_by_one else replace(batch, label_positions=batch.label_positions - 1)


def test_where_padding_disturbs_too_rows_are_trained_one_at_a_time():
    assert layout_found(shipped("tiny"), layout=PaddedWrong(2048))[0] == "one row at a time"
    examples, layout = some_examples(), Layout(2048, packed=False, one_by_one=True)
    steps = [Steps(examples, StepPlan(8, 0, 1, 8), layout, rank=rank, ranks=3)[0] for rank in range(3)]
    assert [len(step.micro_batches) for step in steps] == [3, 3, 3]
    assert {batch.logical for step in steps for batch in step.micro_batches} == {0, *examples.lengths.tolist()}
    model = build(shipped("tiny"), implementation="sdpa")
    assert difference(of_step(model, steps), alone(model, examples)) < 1e-5


def test_a_run_that_no_layout_makes_exact_ends_with_what_is_not_set_already():
    known = ((FP32, r"one row at a time: .*; train.self_check=false"), (BF16, "set train.precision=fp32, or"))
    for compute, advised in known:
        with pytest.raises(RunFailed, match=advised) as failed:
            exact_layout(build(shipped("tiny")), some_examples(), LabelsMoved(2048), compute)
        assert "packing=off" not in str(failed.value)
        assert failed.value.exit_status == 1


def test_a_model_that_reads_ahead_is_refused():
    with pytest.raises(RunFailed, match=r"reads ahead.*is_decoder=true"):
        exact_layout(build(family("bert"), implementation="sdpa"), some_examples(), Layout(2048), FP32)
    assert layout_found(family("bert", is_decoder=True), layout=Layout(2048))[1] == ""


def test_a_model_that_cannot_run_at_all_is_refused_in_one_line():
    model = build(shipped("tiny"))
    model.model.layers[0].mlp.forward = lambda hidden: hidden @ hidden
    with pytest.raises(
        RunFailed, match=r"cannot be run on one row by itself \(RuntimeError: .*\); choose another model="
    ):
        exact_layout(model, some_examples(), SHARED, FP32)


def test_noise_of_routers_and_dropout_under_any_name_are_off_while_the_check_looks():
    noisy = {
        "mixtral": {"num_local_experts": 4, "router_jitter_noise": 0.1},
        "gpt_bigcode": {"n_head": 4, "n_layer": 2, "n_embd": 32, "attn_pdrop": 0.1, "resid_pdrop": 0.1},
        "seed_oss": {"residual_dropout": 0.1, "attention_dropout": 0.1},
    }
    for name, sizes in noisy.items():
        model = build(family(name, **sizes), implementation="sdpa")
        assert dropout_settings(model), name
        assert self_check(model, some_examples(), Layout(2048, packed=False), FP32).holds("fp32"), name


def test_both_halves_of_a_large_lora_are_compared():
    model = build(family("llama"), LORA)
    chosen = {id(parameter) for parameter in _compared(model, at_most=2048)}
    assert 0 < len(chosen) < sum(parameter.requires_grad for parameter in model.parameters())
    names = [name for name, parameter in model.named_parameters() if id(parameter) in chosen]
    assert any("lora_A" in name for name in names)
    assert any("lora_B" in name for name in names)


def test_rows_that_begin_and_end_with_the_first_token_of_the_vocabulary_are_checked():
    examples = examples_of([[0, 5, 6], [0, 9]], [[7, 0], [0, 0]])
    _, found, reasons = exact_layout(build(shipped("tiny")), examples, Layout(2048), FP32)
    assert (found.holds("fp32"), reasons) == (True, [])
