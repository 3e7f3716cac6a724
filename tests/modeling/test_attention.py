"""Packing is exact: a micro-batch has the loss and the gradients of its examples run one at a time."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from commands import CHECKOUT
from omegaconf import OmegaConf
from torch.nn import functional as F

from alpaca.config import ModelConfig
from alpaca.data.microbatch import MicroBatch, Segments, pack
from alpaca.modeling import attention
from alpaca.modeling.base import load_model, load_tokenizer
from alpaca.training.batches import label_tensors, model_inputs
from alpaca.training.loss import supervised_loss, token_losses

MODELS = ["tiny", "tiny_qwen3", "tiny_opt"]
CPU = torch.device("cpu")


def model_of(name: str) -> torch.nn.Module:
    settings = OmegaConf.merge(OmegaConf.structured(ModelConfig), OmegaConf.load(CHECKOUT / f"conf/model/{name}.yaml"))
    config = OmegaConf.to_object(settings)
    attention.register()
    return load_model(config, load_tokenizer(config), seed=0, dtype=torch.float32, device=CPU)


def examples(count: int = 6) -> tuple[list[np.ndarray], list[int]]:
    """Examples whose prompts share 40 tokens, some of them 20 more; one is longer than a block of queries."""
    draw = np.random.default_rng(0)
    opening, branch = draw.integers(3, 2000, 40), draw.integers(3, 2000, 20)
    ids, prompt_lengths = [], []
    for number in range(count):
        prompt = [*opening, *(branch if number % 2 else []), *draw.integers(3, 2000, 5 + number)]
        response = draw.integers(3, 2000, 200 if number == 3 else 4 + number)
        ids.append(np.array([*prompt, *response, 2], dtype=np.int32))
        prompt_lengths.append(len(prompt))
    return ids, prompt_lengths


def alone(model: torch.nn.Module, ids: list[np.ndarray], prompt_lengths: list[int]) -> tuple[float, dict]:
    """Summed loss and gradients of the examples one at a time, with transformers' own attention and logits."""
    model.zero_grad()
    model.set_attn_implementation("eager")
    total = 0.0
    for tokens, prompt in zip(ids, prompt_lengths, strict=True):
        row = torch.from_numpy(tokens.astype(np.int64))[None]
        logits = model(input_ids=row, use_cache=False).logits[0, prompt - 1 : -1]
        loss = F.cross_entropy(logits.double(), row[0, prompt:], reduction="sum")
        loss.backward()
        total += float(loss.detach())
    return total, gradients(model)


def packed(model: torch.nn.Module, batch: MicroBatch) -> tuple[float, dict]:
    model.zero_grad()
    model.set_attn_implementation(attention.SEGMENT)
    loss = supervised_loss(model, model_inputs(batch, CPU), *label_tensors(batch, CPU))
    loss.backward()
    return float(loss.detach()), gradients(model)


def gradients(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: parameter.grad.clone() for name, parameter in model.named_parameters() if parameter.grad is not None}


def largest_difference(found: tuple[float, dict], expected: tuple[float, dict]) -> float:
    """Relative: of the loss, and of each parameter's gradient to the largest gradient norm of any."""
    assert found[1].keys() == expected[1].keys()
    scale = max(float(gradient.norm()) for gradient in expected[1].values())
    worst = max(float((found[1][name] - expected[1][name]).norm()) / scale for name in expected[1])
    return max(worst, abs(found[0] - expected[0]) / abs(expected[0]))


@pytest.mark.parametrize("share_prefix", [False, True], ids=["apart", "shared"])
@pytest.mark.parametrize("name", MODELS)
def test_a_packed_micro_batch_equals_its_examples_one_at_a_time(name: str, share_prefix: bool):
    model, (ids, prompt_lengths) = model_of(name), examples()
    batch = pack(ids, prompt_lengths, share_prefix=share_prefix)
    assert (max(batch.segments.parents) >= 0) == share_prefix
    assert largest_difference(packed(model, batch), alone(model, ids, prompt_lengths)) < 1e-5


@pytest.mark.parametrize("name", MODELS)
def test_the_check_would_see_one_example_reading_another(name: str):
    model, (ids, prompt_lengths) = model_of(name), examples()
    batch = pack(ids, prompt_lengths)
    parents = [-1, 0, *batch.segments.parents[2:]]  # the second example now sees the first
    leaking = replace(batch, segments=Segments(batch.segments.lengths, tuple(parents)))
    assert largest_difference(packed(model, leaking), alone(model, ids, prompt_lengths)) > 1e-3


@pytest.mark.parametrize("name", MODELS)
def test_the_losses_of_single_tokens_equal_those_of_plain_logits(name: str):
    model, (ids, prompt_lengths) = model_of(name).eval(), examples()
    batch = pack(ids, prompt_lengths, share_prefix=True)
    model.set_attn_implementation(attention.SEGMENT)
    losses, hits = token_losses(model, model_inputs(batch, CPU), *label_tensors(batch, CPU))
    model.set_attn_implementation("eager")
    for example, (tokens, prompt) in enumerate(zip(ids, prompt_lengths, strict=True)):
        row = torch.from_numpy(tokens.astype(np.int64))
        with torch.no_grad():
            logits = model(input_ids=row[None], use_cache=False).logits[0, prompt - 1 : -1]
        expected = F.cross_entropy(logits, row[prompt:], reduction="none")
        torch.testing.assert_close(losses[batch.owners == example], expected, rtol=1e-4, atol=1e-5)
        assert hits[batch.owners == example].tolist() == (logits.argmax(1) == row[prompt:]).tolist()


def test_plain_attention_is_ordinary_inside_and_as_before_after():
    model = model_of("tiny").train()
    model.set_attn_implementation(attention.SEGMENT)
    with attention.plain_attention(model) as plain:
        assert (plain.config._attn_implementation, plain.training) == ("sdpa", False)
    assert (model.config._attn_implementation, model.training) == (attention.SEGMENT, True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the variable-length kernel needs a GPU")
@pytest.mark.parametrize("share_prefix", [False, True], ids=["apart", "shared"])
def test_the_gpu_kernel_agrees_with_the_matrix_products(share_prefix: bool):
    ids, prompt_lengths = examples()
    segments = pack(ids, prompt_lengths, share_prefix=share_prefix).segments
    tokens, module = sum(segments.lengths), torch.nn.Module()
    draw = torch.Generator("cuda").manual_seed(0)
    query, key, value = (
        torch.randn(1, heads, tokens, 64, generator=draw, device="cuda", dtype=torch.bfloat16) for heads in (4, 2, 2)
    )
    expected, _ = attention.segment_attention(
        module, query.float(), key.float(), value.float(), None, segments=segments
    )
    found, _ = attention.varlen_attention(module, query, key, value, None, segments=segments)
    torch.testing.assert_close(found.float(), expected, rtol=2e-2, atol=2e-2)
