"""Parameter counts by formula are those of the models themselves."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from configs import composed, options
from transformers import AutoConfig, AutoModelForCausalLM

from alpaca.errors import UserError
from alpaca.modeling.adapters import add_adapter, trained_parameters
from alpaca.planning.architecture import shape
from alpaca.planning.parameters import parameters


def made_without_memory(architecture: dict[str, Any]) -> Any:
    """The model of these sizes on the meta device."""
    sizes = {key: value for key, value in architecture.items() if key != "model_type"}
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(architecture["model_type"], **sizes))


@pytest.mark.parametrize("model", options("model"))
def test_every_model_has_as_many_parameters_as_its_formula_says(model: str):
    config = composed(f"model={model}")
    real = made_without_memory(config.model.architecture)
    assert shape(config.model).parameters == sum(parameter.numel() for parameter in real.parameters())


@pytest.mark.parametrize(
    ("model", "adapter"),
    [
        *(("tiny", adapter) for adapter in options("adapter")),
        *(("tiny_opt", adapter) for adapter in ("full", "lora", "lora_qv", "lora_attention", "dora")),
        ("tiny_qwen3", "lora_qv"),
        ("smollm2_135m", "qlora"),
        ("mistral_7b", "lora"),
    ],
)
def test_every_adapter_trains_as_many_parameters_as_its_formula_says(model: str, adapter: str):
    config = composed(f"model={model}", f"adapter={adapter}")
    # What the base is stored in and how A and B start changes no count, and neither works without memory.
    plain = replace(config.adapter, bits=None, quant_type="nf4", double_quant=True, init="default")
    adapted = add_adapter(made_without_memory(config.model.architecture), plain, seed=0)
    counted = parameters(shape(config.model), config.adapter)
    assert (counted.trained, counted.total) == trained_parameters(adapted)


def test_layers_can_be_named():
    config = composed("adapter=lora", "adapter.targets=[q_proj,mlp]")
    names = [linear.name for linear in parameters(shape(config.model), config.adapter).targets]
    assert names == ["q_proj", "gate_proj", "up_proj", "down_proj"]
    config.adapter.targets = ["c_attn"]
    with pytest.raises(UserError, match=r"'c_attn' is no role .* it has q_proj"):
        parameters(shape(config.model), config.adapter)


@pytest.mark.parametrize(
    ("architecture", "said"),
    [
        ({}, "sizes are not known here"),
        ({"model_type": "mamba"}, "model_type=mamba cannot be planned"),
        ({"model_type": "llama", "hidden_size": 64}, "no usable num_attention_heads"),
    ],
)
def test_a_model_without_sizes_is_refused_in_a_line(architecture: dict[str, Any], said: str):
    config = composed("model=llama7b")
    with pytest.raises(UserError, match=said):
        shape(replace(config.model, architecture=architecture))
