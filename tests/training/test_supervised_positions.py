"""Logits are made of supervised positions alone, a chunk at a time, and tied weights get both their gradients."""

import numpy as np
import pytest
import torch
from tiny_models import CPU, FULL, LORA, alone, build, difference, examples_of, family, of_step, some_examples

from alpaca.data.steps import StepPlan
from alpaca.training.batches import Layout, Steps, label_tensors, model_inputs
from alpaca.training.loss import CHUNK, output_projection, supervised_loss, token_losses

WIDE = 640  # of the vocabulary; no other size of the model


@pytest.mark.parametrize("share_prefix", [False, True], ids=["apart", "shared"])
def test_logits_of_prompts_and_of_more_than_a_chunk_are_never_made(share_prefix: bool):
    model = build(family("llama", vocab_size=WIDE, tie_word_embeddings=False))
    examples = some_examples(9, longest=1000)
    examples = examples_of(
        [examples.prompt(index).tolist() for index in range(9)],
        [[*examples.ids(index)[examples.prompt_lengths[index] :].tolist(), *[7] * 60] for index in range(9)],
    )
    batch = Layout(1 << 14, share_prefix=share_prefix).lay_out(examples, range(9))
    assert CHUNK < len(batch.labels) < batch.executed
    made: list[int] = []

    class Logits(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            found = function(*args, **(kwargs or {}))
            if function is torch.ops.aten.mm.default and found.shape[-1] == WIDE:
                made.append(found.shape[0])
            return found

    supervised_loss(model, model_inputs(batch, CPU), *label_tensors(batch, CPU))  # looks at the head once
    with Logits():
        supervised_loss(model, model_inputs(batch, CPU), *label_tensors(batch, CPU)).backward()
    assert made == [CHUNK, len(batch.labels) - CHUNK]


def test_the_head_is_the_models_own_again_afterwards():
    model, examples = build(family("llama")), some_examples()
    batch = Layout(2048).lay_out(examples, range(len(examples)))
    inputs, labels = model_inputs(batch, CPU), label_tensors(batch, CPU)
    supervised_loss(model, inputs, *labels)
    token_losses(model, inputs, *labels)
    assert "forward" not in vars(output_projection(model))


@pytest.mark.parametrize("adapter", [FULL, LORA], ids=["full", "lora"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_tied_and_untied_heads_are_exact_at_both_ends_of_the_vocabulary(tied: bool, adapter):
    model = build(family("llama", vocab_size=77, tie_word_embeddings=tied, pad_token_id=None), adapter)
    examples = examples_of([[3, 4, 5], [0, 76, 3]], [[0, 76, 0, 76, 2], [76, 76, 0, 2]])
    step = Steps(examples, StepPlan(2, 0, 1, 2), Layout(64))[0]
    assert difference(of_step(model, [step]), alone(model, examples)) < 1e-5


def test_a_trained_head_gets_its_gradient_and_a_frozen_one_none():
    model, examples = build(family("llama", tie_word_embeddings=False), LORA), some_examples()
    step = Steps(examples, StepPlan(8, 0, 1, 8), Layout(2048))[0]
    _, found = of_step(model, [step])
    assert found
    assert all("lora" in name for name in found)


def test_the_step_loss_is_the_mean_over_supervised_tokens_not_over_micro_batches():
    model, examples = build(family("llama")), some_examples()
    step = Steps(examples, StepPlan(8, 0, 1, 8), Layout(300))[0]
    assert len(step.micro_batches) > 1
    sums, counts = [], []
    for batch in step.micro_batches:
        losses, _ = token_losses(model, model_inputs(batch, CPU), *label_tensors(batch, CPU))
        sums.append(float(losses.sum()))
        counts.append(len(losses))
    loss, _ = of_step(model, [step])
    assert loss == pytest.approx(sum(sums) / sum(counts), rel=1e-6)
    assert abs(loss - np.mean(np.divide(sums, counts))) > 1e-5
