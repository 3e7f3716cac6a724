"""Which layers get LoRA: roles are found by what a layer does, in models whose layers are called differently."""

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from alpaca.errors import UserError
from alpaca.modeling.targets import find_roles, target_names

SIZES = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "vocab_size": 64,
    "pad_token_id": 0,
}
LLAMA = ({"q_proj", "v_proj"}, {"q_proj", "k_proj", "v_proj", "o_proj"}, {"gate_proj", "up_proj", "down_proj"})
ROLES = {
    "llama": LLAMA,
    "mistral": LLAMA,
    "qwen3": LLAMA,
    "gemma2": LLAMA,
    "opt": ({"q_proj", "v_proj"}, {"q_proj", "k_proj", "v_proj", "out_proj"}, {"fc1", "fc2"}),
    "phi": ({"q_proj", "v_proj"}, {"q_proj", "k_proj", "v_proj", "dense"}, {"fc1", "fc2"}),
    "gpt_neox": (None, {"query_key_value", "dense"}, {"dense_h_to_4h", "dense_4h_to_h"}),
    "phi3": (None, {"qkv_proj", "o_proj"}, {"gate_up_proj", "down_proj"}),
}


def model_of(model_type: str, **sizes: Any) -> Any:
    extra = {"ffn_dim": 48, "word_embed_proj_dim": 32} if model_type == "opt" else {}
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**SIZES, **extra, **sizes}))


@pytest.mark.parametrize("model_type", ROLES)
def test_roles_are_found_in_every_family(model_type: str):
    model, (query_value, attention, mlp) = model_of(model_type), ROLES[model_type]
    assert set(target_names(model, ["attention"])) == attention
    assert set(target_names(model, ["mlp"])) == mlp
    assert set(target_names(model, [])) == set(target_names(model, ["all"])) == attention | mlp
    if query_value is not None:
        assert set(target_names(model, ["query_value"])) == query_value


@pytest.mark.parametrize(("model_type", "fused"), [("gpt_neox", "query_key_value"), ("phi3", "qkv_proj")])
def test_query_and_value_made_by_one_layer_are_refused_with_the_way_out(model_type: str, fused: str):
    with pytest.raises(
        UserError, match=rf"in one layer \({fused}\).*targets=\[attention\] or adapter.targets=\[{fused}"
    ):
        target_names(model_of(model_type), ["query_value"])


def test_roles_and_names_of_layers_go_together():
    model = model_of("llama")
    assert set(target_names(model, ["query_value", "down_proj"])) == {"q_proj", "v_proj", "down_proj"}
    last = "model.layers.1.self_attn.q_proj"
    assert target_names(model, ["layers.1.self_attn.q_proj"]) == [last], "one of two layers of that name: in full"


def test_a_name_that_is_neither_is_refused_with_what_there_is():
    with pytest.raises(UserError, match=r"'query' is no role \(all, attention, .*it has down_proj, gate_proj, k_proj"):
        target_names(model_of("llama"), ["query"])


def test_the_output_projection_is_never_a_target():
    model = model_of("llama", tie_word_embeddings=False)
    assert "lm_head" not in target_names(model, ["all"])
    with pytest.raises(UserError, match="lm_head"):
        target_names(model, ["lm_head"])


def test_a_model_with_another_attention_must_name_its_layers():
    model = model_of("bloom", n_head=4, n_layer=2)
    with pytest.raises(UserError, match=r"roles of BloomForCausalLM cannot be found.*query_key_value"):
        target_names(model, ["attention"])
    assert target_names(model, ["query_key_value"]) == ["query_key_value"]


def test_looking_leaves_the_model_as_it_was():
    model = model_of("llama").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    implementation = model.config._attn_implementation
    find_roles(model)
    assert model.training
    assert model.config._attn_implementation == implementation
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert not any(module._forward_hooks for module in model.modules())
