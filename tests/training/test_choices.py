"""What a run chooses by itself: sharing where it is exact, packing where the attention allows it, with the reason."""

import json

import pytest
import torch
from commands import CHECKOUT, SMALL, Outcome, alpaca_run
from tiny_models import FULL, LORA, alone, build, difference, family, of_step, shipped, some_examples

from alpaca.config import AdapterConfig, TrainConfig
from alpaca.data.steps import StepPlan
from alpaca.devices import multiplies_bf16
from alpaca.errors import UserError
from alpaca.planning.devices import processor_has_bf16
from alpaca.planning.micro_batch import largest_that_fits
from alpaca.training import precision
from alpaca.training.batches import Layout, Steps
from alpaca.training.choices import choose_layout, not_packable

DROPOUT = AdapterConfig(name="lora", kind="lora", rank=4, dropout=0.05)


def shared(adapter: AdapterConfig = FULL, architecture: str = "tiny", **train: object) -> tuple[bool, str]:
    """Whether prefixes are shared, and the reason."""
    choices = choose_layout(TrainConfig(**train), adapter, build(shipped(architecture), adapter), max_length=512)
    return choices.layout.share_prefix, choices.reasons["share_prefix"]


def test_prefixes_are_shared_wherever_it_is_exact():
    assert shared() == (True, "exact here")
    assert shared(LORA) == (True, "exact here")
    assert shared(architecture="tiny_opt") == (True, "exact here")
    assert shared(share_prefix="on") == (True, "as set")
    assert shared(share_prefix="off") == (False, "as set")


@pytest.mark.parametrize(
    ("adapter", "train", "reason"),
    [
        (DROPOUT, {}, "adapter.dropout=0.05 draws anew for each token"),
        (FULL, {"train_on_prompt": True}, "prompts carry labels (train.train_on_prompt)"),
        (FULL, {"packing": "off"}, "rows are padded"),
    ],
    ids=["dropout", "prompts trained", "padded"],
)
def test_prefixes_are_not_shared_where_it_is_inexact_and_forcing_it_is_refused(
    adapter: AdapterConfig, train: dict, reason: str
):
    assert shared(adapter, **train) == (False, reason)
    with pytest.raises(UserError, match=r"train.share_prefix=on: .* would not be exact; set train.share_prefix=auto"):
        shared(adapter, share_prefix="on", **train)


def test_dropout_that_is_no_module_counts_too():
    model = build({**shipped("tiny_opt"), "dropout": 0.1})
    assert not any(isinstance(module, torch.nn.Dropout) for module in model.modules())
    choices = choose_layout(TrainConfig(), FULL, model, max_length=512)
    assert (choices.layout.share_prefix, choices.reasons["share_prefix"]) == (False, "the model has dropout")


def test_micro_batches_hold_4096_tokens_or_the_longest_example_unless_set():
    def tokens(max_length: int, **train: object) -> int:
        model = build(shipped("tiny"))
        return choose_layout(TrainConfig(**train), FULL, model, max_length=max_length).layout.micro_batch_tokens

    assert (tokens(512), tokens(8192), tokens(512, micro_batch_tokens=700)) == (4096, 8192, 700)


REFUSED = {
    "has a sliding window of 64 tokens, shorter than train.max_length=512": family("mistral", sliding_window=64),
    "has a sliding window of 128 tokens": family("gemma3_text", sliding_window=128),
    "caps attention scores": family("gemma2", attn_logit_softcapping=50.0, sliding_window=1024),
    "drops attention weights": family("llama", attention_dropout=0.1),
    "uses attention sinks": family("gpt_oss", num_local_experts=2, num_experts_per_tok=1, sliding_window=1024),
    "attends in chunks of 64 tokens": family(
        "llama4_text", attention_chunk_size=64, num_local_experts=2, intermediate_size_mlp=48
    ),
    "does not use transformers' attention interface": family("bloom", n_head=4, n_layer=2),
}


@pytest.mark.parametrize("reason", REFUSED)
def test_a_model_whose_attention_is_not_plain_gets_padded_rows_and_the_reason(reason: str):
    choices = choose_layout(TrainConfig(), FULL, build(REFUSED[reason], implementation="eager"), max_length=512)
    assert (choices.layout.packed, choices.layout.share_prefix) == (False, False)
    assert choices.recorded()["reasons"]["packed"].startswith(reason)


@pytest.mark.parametrize("reason", [one for one in REFUSED if "drops" not in one])
def test_what_is_refused_packed_is_exact_padded(reason: str):
    model, examples = build(REFUSED[reason], implementation="eager"), some_examples()
    step = Steps(examples, StepPlan(len(examples), 0, 1, len(examples)), Layout(1024, packed=False))[0]
    assert difference(of_step(model, [step]), alone(model, examples)) < 1e-5


def test_what_no_rule_foresaw_is_refused_at_the_first_micro_batch():
    model, examples = build(family("nemotron")), some_examples()  # its layers do not hand keywords on
    step = Steps(examples, StepPlan(len(examples), 0, 1, len(examples)), Layout(2048))[0]
    with pytest.raises(UserError, match=r"does not hand keywords on to its attention; set train.packing=off"):
        of_step(model, [step])


def test_windows_as_long_as_the_longest_example_are_packed():
    model = build(family("mistral", sliding_window=512))
    assert not_packable(model, 512) is None
    assert not_packable(model, 513) is not None
    assert not_packable(build(family("qwen2", sliding_window=64, use_sliding_window=False)), 512) is None


@pytest.mark.parametrize(
    ("limit", "expected"), [(10**9, 65536), (20_000, 16384), (4096, 4096), (2500, 2048), (10, 600)]
)
def test_the_largest_micro_batch_that_fits_is_found_by_doubling_and_halving(limit: int, expected: int):
    tried: list[int] = []

    def fits(tokens: int) -> bool:
        tried.append(tokens)
        return tokens <= limit

    assert largest_that_fits(fits, 4096, 600) == expected
    assert len(tried) == len(set(tried))
    assert max(tried) <= 65536


@pytest.mark.skipif(torch.cuda.is_available(), reason="on a GPU fp16 is allowed")
def test_fp16_on_a_cpu_is_refused_and_automatic_precision_never_chooses_it():
    with pytest.raises(UserError, match=r"train.precision=fp16: needs a GPU .*; set train.precision=bf16 or fp32"):
        precision.choose("fp16")
    assert precision.choose("auto").precision in ("bf16", "fp32")
    assert precision.choose("bf16").frozen_dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("flags", "limit", "native"),
    [
        ({"avx2", "fma3"}, "", False),  # an ordinary laptop
        ({"avx2", "avx512_f", "avx512_vnni"}, "", False),  # Ice Lake
        ({"avx512_f", "avx512_bf16"}, "", True),  # Zen 4
        ({"avx512_f", "avx512_bf16", "amx_bf16"}, "DEFAULT", True),  # Sapphire Rapids
        ({"avx512_f", "avx512_bf16", "amx_bf16"}, "AVX512_CORE_BF16", True),
        ({"avx512_f", "avx512_bf16", "amx_bf16"}, "AVX512_CORE", False),
        ({"avx512_f", "avx512_bf16", "amx_bf16"}, "avx2", False),
    ],
)
def test_automatic_precision_is_bf16_only_where_the_processor_multiplies_in_it(flags: set, limit: str, native: bool):
    assert multiplies_bf16(flags, limit) is native


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU decides by itself")
def test_automatic_precision_follows_the_flags_of_this_processor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    flags = torch.cpu.get_capabilities()
    expected = "bf16" if flags.get("avx512_bf16") or flags.get("amx_bf16") else "fp32"
    assert precision.choose("auto").precision == expected
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    assert precision.choose("auto").precision == "fp32"
    assert not processor_has_bf16()


def test_env_json_records_what_was_chosen_and_why(finished: Outcome):
    automatic = json.loads((finished.directory / "env.json").read_text())["automatic"]
    assert automatic == {
        "micro_batch_tokens": 4096,
        "packed": True,
        "share_prefix": True,
        "one_by_one": False,
        "reasons": {"share_prefix": "exact here"},
    }


QUICK = (*SMALL, "evaluation=none", "train.eval_rows=0", "train.max_steps=2")
QUICK = tuple(one for one in QUICK if not one.startswith("evaluation.quick"))


def test_a_run_says_why_it_shares_no_prefixes(workplace):
    outcome = alpaca_run(workplace, *QUICK, "adapter=lora", "adapter.dropout=0.1", "output_dir=a")
    assert outcome.status == 0, outcome.err
    assert "no shared prefixes: adapter.dropout=0.1 draws anew for each token" in " ".join(outcome.out.split())


def test_a_run_whose_model_cannot_be_packed_pads_its_rows_and_says_so(workplace):
    settings = ("model.architecture.model_type=mistral", "+model.architecture.sliding_window=64")
    found = alpaca_run(workplace, *QUICK, *settings, "output_dir=a")
    assert found.status == 0, found.err
    text = " ".join(found.out.split())
    assert "rows are padded, which is slower than packing: the model has a sliding window of 64 tokens" in text
    automatic = json.loads((found.directory / "env.json").read_text())["automatic"]
    assert automatic["packed"] is False
    assert automatic["reasons"]["packed"].startswith("has a sliding window of 64 tokens")


def test_a_kernel_that_the_device_has_not_is_refused(workplace):
    if torch.cuda.is_available():
        pytest.skip("the GPU has the kernel")
    outcome = alpaca_run(workplace, *QUICK, "model.attention=varlen")
    assert outcome.status == 2
    assert "model.attention=varlen: its kernel needs a GPU and bf16 or fp16" in outcome.err


def test_the_recipe_of_every_shipped_model_is_packed():
    for file in sorted((CHECKOUT / "conf/model").glob("*.yaml")):
        architecture = shipped(file.stem)
        if not architecture:
            continue
        known = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
        small = {**architecture, **known, "vocab_size": 64, "head_dim": 8, "pad_token_id": 0}
        small |= {"num_key_value_heads": 2} if "num_key_value_heads" in architecture else {}
        small |= {"word_embed_proj_dim": 32, "ffn_dim": 48} if architecture["model_type"] == "opt" else {}
        assert not_packable(build({**small, "bos_token_id": 1, "eos_token_id": 2}), 512) is None, file.stem
