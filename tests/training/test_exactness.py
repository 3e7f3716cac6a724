"""However a step's examples are laid out, its loss and gradients are those of the examples one at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import CPU, FULL, LORA, alone, build, difference, examples_of, family, of_step, shipped, some_examples

from alpaca.config import AdapterConfig
from alpaca.data.encoding import Examples
from alpaca.data.microbatch import Segments, empty
from alpaca.data.steps import StepPlan
from alpaca.modeling.layers import repeated_layers
from alpaca.modeling.segment_products import QUERY_BLOCK
from alpaca.training.batches import Layout, Step, Steps, label_tensors, model_inputs
from alpaca.training.loss import supervised_loss

MODELS = ["tiny", "tiny_qwen3", "tiny_opt"]
ADAPTERS = {"full": FULL, "lora": LORA}
BOUND = 1e-5
PACKED, SHARED, PADDED = Layout(2048), Layout(2048, share_prefix=True), Layout(2048, packed=False)
SMALL = [Layout(512), Layout(300, share_prefix=True), Layout(512, packed=False)]


def shares(examples: Examples, layout: Layout, ranks: int = 1) -> list[Step]:
    """The only step over all examples, as each rank sees it."""
    plan = StepPlan(len(examples), 0, 1, len(examples))
    return [Steps(examples, plan, layout, rank=rank, ranks=ranks)[0] for rank in range(ranks)]


def built(name: str, layout: Layout, adapter: AdapterConfig = FULL, checkpointing: str = "off"):
    implementation = "alpaca_segment" if layout.packed else "sdpa"
    return build(shipped(name), adapter, checkpointing=checkpointing, implementation=implementation)


@pytest.mark.parametrize("layout", [PACKED, SHARED, PADDED, *SMALL], ids=str)
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", MODELS)
def test_every_layout_gives_the_gradient_of_one_example_at_a_time(name: str, adapter: str, layout: Layout):
    model, examples = built(name, layout, ADAPTERS[adapter]), some_examples()
    assert difference(of_step(model, shares(examples, layout)), alone(model, examples)) < BOUND


@pytest.mark.parametrize("checkpointing", ["on", "selective"])
@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", MODELS)
def test_activation_checkpointing_changes_no_gradient(name: str, adapter: str, checkpointing: str):
    model, examples = built(name, SHARED, ADAPTERS[adapter], checkpointing), some_examples()
    assert difference(of_step(model, shares(examples, SHARED)), alone(model, examples)) < BOUND


@pytest.mark.parametrize(("checkpointing", "expected"), [("off", [1, 1]), ("on", [2, 2]), ("selective", [2, 1])])
def test_checkpointed_layers_run_again_in_the_backward_pass(checkpointing: str, expected: list[int]):
    model = built("tiny", PACKED, checkpointing=checkpointing)
    of_step(model, shares(some_examples(), PACKED))  # looks at the head once
    runs = [0, 0]
    for number, layer in enumerate(repeated_layers(model)):

        def count(*_: object, number: int = number) -> None:
            runs[number] += 1

        layer.input_layernorm.register_forward_hook(count)
    of_step(model, shares(some_examples(), PACKED))
    assert runs == expected


@pytest.mark.parametrize("name", MODELS)
def test_several_responses_to_one_prompt_share_all_of_it_but_its_last_token(name: str):
    draw = np.random.default_rng(1)
    prompt = draw.integers(3, 500, 60).tolist()
    examples = examples_of([prompt] * 4, [[*draw.integers(3, 500, 5 + size), 2] for size in range(4)])
    model, steps = built(name, SHARED), shares(examples, SHARED)
    (batch,) = steps[0].micro_batches
    assert (batch.segments.lengths[0], batch.segments.parents) == (59, (-1, 0, 0, 0, 0))
    assert difference(of_step(model, steps), alone(model, examples)) < BOUND


@pytest.mark.parametrize("longest", [QUERY_BLOCK - 1, QUERY_BLOCK, QUERY_BLOCK + 1, 2 * QUERY_BLOCK + 1, 512])
def test_examples_up_to_the_maximal_length_are_exact_across_blocks_of_queries(longest: int):
    model, examples = built("tiny", SHARED), some_examples(5, longest=longest)
    assert examples.lengths.max() == longest
    for layout in (Layout(512), Layout(512, share_prefix=True)):
        assert difference(of_step(model, shares(examples, layout)), alone(model, examples)) < BOUND


def test_identical_rows_count_as_often_as_they_occur():
    one = [5, 6, 7, *range(10, 40)]
    examples = examples_of([one] * 3, [[8, 9, 2]] * 3)
    model = built("tiny", SHARED)
    assert difference(of_step(model, shares(examples, SHARED)), alone(model, examples)) < BOUND


@pytest.mark.parametrize("layout", [PACKED, SHARED, PADDED], ids=str)
def test_labels_on_prompts_are_exact_too(layout: Layout):
    model, examples = built("tiny", layout), some_examples(on_prompt=True)
    labels = sum(len(batch.labels) for batch in shares(examples, layout)[0].micro_batches)
    assert labels == examples.lengths.sum() - len(examples)
    assert difference(of_step(model, shares(examples, layout)), alone(model, examples)) < BOUND


@pytest.mark.parametrize("ranks", [2, 3, 12])
@pytest.mark.parametrize("layout", [SHARED, PADDED], ids=str)
def test_the_shares_of_all_ranks_sum_to_the_gradient_of_one_process(layout: Layout, ranks: int):
    model, examples = built("tiny", layout), some_examples()
    steps = shares(examples, layout, ranks)
    assert len({len(step.micro_batches) for step in steps}) == 1
    assert difference(of_step(model, steps), of_step(model, shares(examples, layout))) < BOUND


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize("name", [*MODELS, "gemma2"])
def test_an_empty_micro_batch_gives_every_weight_a_gradient_of_zero(name: str, adapter: str):
    capped = family("gemma2", attn_logit_softcapping=None)  # its head cannot be fused: logits are capped
    model = build(capped if name == "gemma2" else shipped(name), ADAPTERS[adapter])
    batch = empty()
    loss = supervised_loss(model, model_inputs(batch, CPU), *label_tensors(batch, CPU))
    (loss / 7).backward()
    assert float(loss.detach()) == 0
    for name_of, parameter in model.named_parameters():
        if parameter.requires_grad:
            assert parameter.grad is not None, name_of
            assert not parameter.grad.any(), name_of


@pytest.mark.parametrize("name", MODELS)
def test_a_wrong_parent_or_a_merged_segment_is_far_from_exact(name: str):
    model, examples = built(name, PACKED), some_examples()
    expected, step = alone(model, examples), shares(examples, PACKED)[0]
    (batch,) = step.micro_batches
    sizes = batch.segments.lengths
    for segments in (Segments(sizes, (-1, 0, *batch.segments.parents[2:])), Segments((sum(sizes),), (-1,))):
        leaking = replace(step, micro_batches=[replace(batch, segments=segments)])
        assert difference(of_step(model, [leaking]), expected) > 100 * BOUND


@pytest.mark.parametrize(
    "architecture",
    [
        family("mistral", sliding_window=None),
        family("gemma"),
        family("gemma2", attn_logit_softcapping=None),
        family("gemma3_text", sliding_window=1024),
        family("qwen2"),
        family("phi3"),
        family("gpt_neox", attention_dropout=0.0),
        family("granite", logits_scaling=8.0, attention_multiplier=0.1),
        family("mixtral", num_local_experts=4, num_experts_per_tok=2),
    ],
    ids=lambda architecture: architecture["model_type"],
)
def test_other_families_are_exact(architecture: dict):
    model, examples = build(architecture), some_examples()
    assert difference(of_step(model, shares(examples, SHARED)), alone(model, examples)) < BOUND


def test_keys_and_values_of_different_widths_are_exact():
    sizes = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 12}
    experts = {"n_routed_experts": 4, "n_group": 2, "topk_group": 1, "num_experts_per_tok": 2}
    architecture = family(
        "deepseek_v3", **sizes, **experts, first_k_dense_replace=1, moe_intermediate_size=16, num_key_value_heads=4
    )
    model, examples = build(architecture), some_examples()
    assert difference(of_step(model, shares(examples, SHARED)), alone(model, examples)) < BOUND


def test_bf16_compute_stays_near_fp32():
    model, examples = built("tiny", SHARED), some_examples()
    steps, expected = shares(examples, SHARED), alone(model, examples)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = of_step(model, steps)
    assert 1e-6 < difference(found, expected) < 6e-2
    assert {gradient.dtype for gradient in found[1].values()} == {torch.float32}
