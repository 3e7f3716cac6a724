"""Tiny models of several families, a few examples for them, and gradients in the plainest way there is."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from commands import CHECKOUT
from omegaconf import OmegaConf
from torch.nn import functional as F
from transformers import AutoConfig, AutoModelForCausalLM

from alpaca.config import AdapterConfig
from alpaca.data.encoding import Examples
from alpaca.modeling import attention
from alpaca.modeling.adapters import add_adapter
from alpaca.modeling.fused import fuse_layers, unfused
from alpaca.modeling.layers import checkpoint_activations
from alpaca.training.batches import Step, label_tensors, model_inputs
from alpaca.training.loss import supervised_loss
from alpaca.training.precision import Compute

CPU = torch.device("cpu")
FP32 = Compute(CPU, "fp32")
VOCABULARY = 512
SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": VOCABULARY,
    "max_position_embeddings": 1024,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
LORA = AdapterConfig(name="lora", kind="lora", rank=4, alpha=8)
FULL = AdapterConfig(name="full")

Gradients = dict[str, torch.Tensor]


def shipped(name: str) -> dict[str, Any]:
    """Architecture of `conf/model/NAME.yaml`."""
    return OmegaConf.to_container(OmegaConf.load(CHECKOUT / f"conf/model/{name}.yaml").architecture)


def family(model_type: str, **sizes: Any) -> dict[str, Any]:
    """Architecture of a tiny model of any family transformers knows."""
    return {"model_type": model_type, **SIZES, **sizes}


def build(
    architecture: dict[str, Any],
    adapter: AdapterConfig = FULL,
    *,
    checkpointing: str = "off",
    implementation: str = attention.SEGMENT,
) -> Any:
    """A random fp32 model in training mode, as a run builds it; a LoRA's B matrices are moved off zero."""
    attention.register()
    sizes = dict(architecture)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(sizes.pop("model_type"), **sizes))
    model.set_attn_implementation(implementation)
    checkpoint_activations(model, checkpointing)
    adapted = add_adapter(model, adapter, seed=0)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_B" in name:
                parameter.normal_(std=0.05)
    fuse_layers(adapted)
    return adapted.train()


def examples_of(prompts: Sequence[Sequence[int]], responses: Sequence[Sequence[int]], *, on_prompt: bool = False):
    """`Examples` from token ids of prompts and responses."""
    ids = [np.array([*prompt, *response], np.int32) for prompt, response in zip(prompts, responses, strict=True)]
    return Examples(
        tokens=np.concatenate(ids),
        offsets=np.concatenate([[0], np.cumsum([len(one) for one in ids])]).astype(np.int64),
        prompt_lengths=np.array([len(prompt) for prompt in prompts], np.int32),
        rows=np.arange(len(ids), dtype=np.int32),
        prompts_trained=on_prompt,
    )


def some_examples(count: int = 8, *, longest: int = 300, on_prompt: bool = False) -> Examples:
    """Prompts that open alike, one prompt with three responses, short ones, and one example of `longest` tokens."""
    draw = np.random.default_rng(0)
    opening, branch = draw.integers(3, VOCABULARY, 30).tolist(), draw.integers(3, VOCABULARY, 20).tolist()
    repeated = [*opening, *draw.integers(3, VOCABULARY, 9).tolist()]
    prompts, responses = [], []
    for number in range(count):
        own = draw.integers(3, VOCABULARY, 3 + number % 4).tolist()
        prompt = repeated if number % 3 == 2 else [*opening, *(branch if number % 2 else []), *own]
        length = longest - len(prompt) - 1 if number == 3 else 1 + number
        prompts.append(prompt)
        responses.append([*draw.integers(3, VOCABULARY, length).tolist(), 2])
    return examples_of(prompts, responses, on_prompt=on_prompt)


def of_step(model: Any, steps: Sequence[Step]) -> tuple[float, Gradients]:
    """Loss and gradients of one optimizer step as the trainer sums them, over the shares of all ranks."""
    model.zero_grad()
    total = 0.0
    for step in steps:
        for batch in step.micro_batches:
            summed = supervised_loss(model, model_inputs(batch, CPU), *label_tensors(batch, CPU))
            (summed / step.supervised).backward()
            total += float(summed.detach()) / step.supervised
    return total, gradients(model)


def alone(model: Any, examples: Examples) -> tuple[float, Gradients]:
    """The same from one example at a time, by transformers' own code and logits of every position."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    before, supervised = inner.config._attn_implementation, int(examples.supervised.sum())
    inner.set_attn_implementation("eager")
    model.zero_grad()
    total = 0.0
    with unfused(model):
        for index in range(len(examples)):
            row, first = torch.from_numpy(examples.ids(index).astype(np.int64)), int(examples.first_labels[index])
            logits = model(input_ids=row[None], use_cache=False).logits[0, first - 1 : -1]
            loss = F.cross_entropy(logits.float(), row[first:], reduction="sum") / supervised
            loss.backward()
            total += float(loss.detach())
    inner.set_attn_implementation(before)
    return total, gradients(model)


def gradients(model: Any) -> Gradients:
    """Gradients by name, of the parameters that have one."""
    return {name: one.grad.clone() for name, one in model.named_parameters() if one.grad is not None}


def difference(found: tuple[float, Gradients], expected: tuple[float, Gradients]) -> float:
    """Relative: the larger of the loss's, and of the whole gradient's in the Euclidean norm."""
    assert found[1].keys() == expected[1].keys()
    apart = sum(float((found[1][name] - one).double().square().sum()) for name, one in expected[1].items())
    norm = sum(float(one.double().square().sum()) for one in expected[1].values())
    return max((apart / norm) ** 0.5, abs(found[0] - expected[0]) / abs(expected[0]))
