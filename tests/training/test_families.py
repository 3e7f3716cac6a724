"""Models that are not built like Llama are trained, or get what they can have, and nothing that helps ends a run."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from tiny_models import CPU, FP32, FULL, LORA, build, family, shipped, some_examples
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from alpaca.config import AdapterConfig, ModelConfig
from alpaca.errors import UserError
from alpaca.evaluation.decoding import Sampling, answers
from alpaca.modeling import attention
from alpaca.modeling.adapters import add_adapter, left_out, trained_parameters
from alpaca.modeling.base import load_tokenizer
from alpaca.modeling.fused import fuse_layers, unfused
from alpaca.modeling.merged import merge
from alpaca.modeling.quantised import for_model, made_exact, quantisation, quantise
from alpaca.modeling.targets import linear_layers
from alpaca.training.batches import Layout, label_tensors, model_inputs
from alpaca.training.flops import counted
from alpaca.training.loss import supervised_loss
from alpaca.training.self_check import exact_layout
from alpaca.training.world import World

MAMBA = family("mamba", state_size=8)
LLAMA4 = family("llama4_text", num_local_experts=2, intermediate_size_mlp=48)
MIXTRAL = family("mixtral", num_local_experts=4, num_experts_per_tok=2)
TEXT = {key: value for key, value in family("x").items() if key != "model_type"}
EYE = {"hidden_size": 32, "image_size": 28, "intermediate_size": 32, "num_attention_heads": 2, "num_hidden_layers": 1}
GEMMA3 = {
    "model_type": "gemma3",
    "text_config": {**TEXT, "sliding_window": 1024},
    "vision_config": {**EYE, "patch_size": 14},
}
FAMILIES = {
    "gemma3": GEMMA3,
    "gemma4_text": family("gemma4_text", sliding_window=1024),
    "mamba": MAMBA,
    "llama4_text": LLAMA4,
    "mixtral": MIXTRAL,
    "recurrent_gemma": family("recurrent_gemma", lru_width=32, attention_window_size=1024),
    "xlstm": family("xlstm", num_heads=4),
    "minimax": family("minimax", num_local_experts=2, num_experts_per_tok=1),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_unusual_families_are_exact_in_some_layout_and_their_operations_are_counted_or_left_out(name: str):
    examples = some_examples(4, longest=120)
    for adapter in (FULL, LORA):
        own = "eager" if name in ("mamba", "xlstm") else "sdpa"
        model = build(FAMILIES[name], adapter, implementation=own)
        layout, found, _ = exact_layout(model, examples, Layout(2048, packed=False), FP32)
        assert found.holds("fp32")
        batch = layout.lay_out(examples, [0])
        summed = supervised_loss(model, model_inputs(batch, CPU), *label_tensors(batch, CPU))
        assert torch.isfinite(summed)
        assert counted(model).training_step(batch) > 0


def test_a_config_that_no_counter_knows_costs_the_count_alone():
    assert counted(torch.nn.Linear(2, 2)) is None


def test_of_a_model_that_sees_only_the_part_for_text_is_trained():
    full = build(GEMMA3, FULL, implementation="sdpa")
    for name, parameter in full.named_parameters():
        assert parameter.requires_grad is not ("vision" in name or "projector" in name), name
    trained, total = trained_parameters(full)
    assert trained < total
    assert not [name for name in linear_layers(build(GEMMA3, FULL)) if "vision" in name]


def test_layers_that_lora_cannot_reach_get_none_and_are_named_with_their_share():
    mamba = build(MAMBA, LORA, implementation="eager")
    assert {name.rpartition(".")[2] for name in linear_layers(build(MAMBA))} == {"in_proj"}
    assert "mixer.out_proj" in left_out(mamba)
    assert "router" not in {name.rpartition(".")[2] for name in linear_layers(build(LLAMA4))}
    assert left_out(build(shipped("tiny"), LORA)) is None
    sentence = left_out(build(MIXTRAL, LORA))
    assert sentence.startswith("86% of the layers' weights get no LoRA: experts.gate_up_proj, experts.down_proj")
    assert "adapter.targets=[all,experts]" in sentence


def test_experts_are_trained_where_that_is_asked_for():
    model = build(MIXTRAL, replace(LORA, targets=["all", "experts"]))
    names = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert any("experts" in name and "lora_B" in name for name in names)
    assert left_out(model) is None or "experts" not in left_out(model)
    layout, _, reasons = exact_layout(model, some_examples(), Layout(2048, share_prefix=True), FP32)
    assert (layout.in_words, reasons) == ("packed rows with shared prefixes", [])


@pytest.mark.parametrize(
    ("architecture", "changes", "reason"),
    [
        (shipped("tiny"), {}, "LlamaForCausalLM has no experts kept as one tensor"),
        (MIXTRAL, {"dropout": 0.1}, r"adapter.dropout=0.1: .*set adapter.dropout=0.0"),
        (MIXTRAL, {"use_dora": True}, r"adapter.use_dora=True: .*set adapter.use_dora=false"),
    ],
    ids=["no experts", "dropout", "dora"],
)
def test_experts_that_cannot_be_trained_are_refused_in_one_line(architecture: dict, changes: dict, reason: str):
    with pytest.raises(UserError, match=rf"adapter.targets=\[experts\].*{reason}"):
        build(architecture, replace(LORA, targets=["all", "experts"], **changes))


@pytest.mark.parametrize("architecture", [MAMBA, LLAMA4], ids=lambda one: one["model_type"])
def test_layers_that_are_not_just_called_stay_whole_in_a_quantised_base(architecture: dict):
    qlora = replace(LORA, bits=4, name="qlora")
    settings = quantisation(qlora, torch.float32)
    sizes = dict(architecture)
    config = AutoConfig.for_model(sizes.pop("model_type"), **sizes)
    skipped = for_model(settings, config).llm_int8_skip_modules
    whole = {name.rpartition(".")[2] for name in skipped}
    assert whole >= {"lm_head", "router" if architecture is LLAMA4 else "x_proj"}
    model = AutoModelForCausalLM.from_config(config)
    quantise(model, settings)
    made_exact(model)
    assert torch.isfinite(model(input_ids=torch.arange(5)[None]).logits).all()
    assert isinstance(settings, BitsAndBytesConfig)


def quantised(architecture: dict, adapter: AdapterConfig) -> torch.nn.Module:
    """A model as `build` makes it, on a base in 4 or 8 bits."""
    attention.register()
    sizes = dict(architecture)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(sizes.pop("model_type"), **sizes))
    quantise(model, quantisation(adapter, torch.float32))
    made_exact(model)
    model.set_attn_implementation(attention.SEGMENT)
    adapted = add_adapter(model, adapter, seed=0)
    fuse_layers(adapted)
    return adapted.train()


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("architecture", [shipped("tiny_opt"), family("qwen2")], ids=["opt", "qwen2"])
def test_quantised_layers_with_a_bias_are_packed_like_others(architecture: dict, bits: int):
    model = quantised(architecture, replace(LORA, bits=bits, name="qlora"))
    layout, _, reasons = exact_layout(model, some_examples(), Layout(2048, share_prefix=True), FP32)
    assert (layout.in_words, reasons) == ("packed rows with shared prefixes", [])


DEEPSEEK = family(
    "deepseek_v3",
    num_key_value_heads=4,
    q_lora_rank=16,
    kv_lora_rank=16,
    qk_rope_head_dim=8,
    qk_nope_head_dim=8,
    v_head_dim=8,
    n_routed_experts=4,
    num_experts_per_tok=2,
    n_group=1,
    topk_group=1,
    moe_intermediate_size=16,
    first_k_dense_replace=1,
)


@pytest.mark.parametrize(
    ("architecture", "targets"),
    [(MIXTRAL, ["all", "experts"]), (DEEPSEEK, [])],
    ids=["experts asked for", "experts that PEFT takes for its names"],
)
def test_updates_of_experts_are_merged(architecture: dict, targets: list[str]):
    model = build(architecture, replace(LORA, targets=targets), implementation="sdpa").eval()
    assert any("experts" in name and "lora_B" in name for name, _ in model.named_parameters())
    ids = torch.arange(3, 40)[None]
    with torch.no_grad(), unfused(model):
        expected = model(input_ids=ids).logits
        whole = merge(model, torch.float32)
        assert not [name for name, _ in whole.named_parameters() if "lora" in name or "base_layer" in name]
        assert torch.allclose(whole(input_ids=ids).logits, expected, atol=1e-4)


GPT1 = {"model_type": "openai-gpt", "n_embd": 32, "n_layer": 2, "n_head": 4, "vocab_size": 512, "n_positions": 256}


@pytest.mark.parametrize(
    "architecture", [FAMILIES["minimax"], FAMILIES["recurrent_gemma"], MAMBA, GPT1], ids=lambda one: one["model_type"]
)
def test_models_with_a_cache_of_their_own_or_none_answer_each_row_as_if_it_were_alone(architecture: dict):
    model = build(architecture, implementation="eager")
    model.load_state_dict({name: weight * 3 for name, weight in model.state_dict().items()})  # not one token for all
    tokenizer = load_tokenizer(ModelConfig(weights="random", architecture=architecture))
    prompts = [np.arange(3, 20), np.arange(40, 47), np.arange(100, 130)]

    def asked(batch_size: int) -> list[str]:
        found = answers(
            model,
            tokenizer,
            prompts,
            Sampling(max_new_tokens=6),
            keys=["a", "b", "c"],
            compute=FP32,
            batch_size=batch_size,
            world=World(),
        )
        return [one.text for one in found]

    assert asked(3) == asked(1)


def test_layers_whose_weight_is_only_sliced_under_a_setting_get_lora_too():
    bloom = {"model_type": "bloom", "hidden_size": 32, "n_layer": 1, "n_head": 4, "vocab_size": 512}
    names = {name.rpartition(".")[2] for name in linear_layers(build(bloom, implementation="eager"))}
    assert names == {"query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"}


def test_a_decoder_that_drops_attention_weights_by_another_name_is_padded():
    bert = build(family("bert", is_decoder=True), implementation="sdpa")
    assert attention.not_packable(bert, 512) == "drops attention weights (attention_probs_dropout_prob=0.1)"
