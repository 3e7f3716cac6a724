"""A base in 4 or 8 bits: the same whatever it came from, the same in training and scoring, trainable through LoRA."""

import sys
from pathlib import Path

import pytest
import torch

from alpaca.config import AdapterConfig, ModelConfig
from alpaca.errors import UserError
from alpaca.modeling.adapters import add_adapter, trained_parameters
from alpaca.modeling.base import load_model, load_tokenizer
from alpaca.modeling.quantised import STORAGE, quantisation

CPU = torch.device("cpu")
IDS = torch.arange(3, 43)[None]
SIZES = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}
MODEL = ModelConfig(name="tiny", weights="random", architecture=SIZES)
QUANTISED = {
    "nf4": AdapterConfig(kind="lora", rank=4, bits=4),
    "fp4, scales whole": AdapterConfig(kind="lora", rank=4, bits=4, quant_type="fp4", double_quant=False),
    "int8": AdapterConfig(kind="lora", rank=4, bits=8),
}
adapters = pytest.mark.parametrize("adapter", QUANTISED.values(), ids=QUANTISED)


def load(config: ModelConfig = MODEL, adapter: AdapterConfig | None = None, dtype: torch.dtype = torch.float32):
    settings = quantisation(adapter, dtype) if adapter else None
    return load_model(config, load_tokenizer(MODEL), seed=0, dtype=dtype, device=CPU, quantisation=settings)


@torch.no_grad()
def logits(model: torch.nn.Module, *, training: bool = False) -> torch.Tensor:
    return model.train(training)(input_ids=IDS).logits


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model, saved as anyone would save it."""
    place = tmp_path_factory.mktemp("base")
    load().save_pretrained(place)
    load_tokenizer(MODEL).save_pretrained(place)
    return place


@adapters
def test_random_weights_are_quantised_as_the_same_weights_from_a_folder_are(adapter: AdapterConfig, folder: Path):
    drawn, read = load(adapter=adapter), load(ModelConfig(name="saved", weights=str(folder)), adapter)
    assert torch.equal(logits(drawn), logits(read))
    assert 0 < float((logits(drawn) - logits(load())).norm() / logits(load()).norm()) < 0.2


@adapters
def test_scoring_before_training_changes_no_number_and_training_goes_on(adapter: AdapterConfig):
    untouched, scored = load(adapter=adapter, dtype=torch.bfloat16), load(adapter=adapter, dtype=torch.bfloat16)
    before = logits(scored)
    assert torch.equal(logits(scored, training=True), before)
    assert torch.equal(logits(untouched, training=True), before)
    model = add_adapter(scored, adapter, seed=0).train()
    model(input_ids=IDS, labels=IDS).loss.backward()
    moved = [one.grad for name, one in model.named_parameters() if "lora_B" in name]
    assert len(moved) == 14
    assert all(bool(gradient.any()) for gradient in moved)


@adapters
def test_a_token_does_not_see_who_else_is_in_the_batch(adapter: AdapterConfig):
    layer = load(adapter=adapter).model.layers[0].mlp.gate_proj
    draw = torch.Generator().manual_seed(0)
    rows = torch.randn(6, 64, generator=draw)
    others = rows.clone()
    others[3:] = 50 * torch.randn(3, 64, generator=draw)  # outliers, which LLM.int8() would take apart for all rows
    assert torch.equal(layer(rows)[:3], layer(others)[:3])


def test_8_bit_layers_have_the_gradient_of_the_weights_they_stand_for():
    layer = load(adapter=QUANTISED["int8"]).model.layers[0].mlp.gate_proj
    weights = layer.weight.data.float() * layer.weight.SCB.float()[:, None] / 127
    rows = torch.randn(5, 64, generator=torch.Generator().manual_seed(0)).requires_grad_()
    expected = torch.nn.functional.linear(rows, weights)
    (slope,) = torch.autograd.grad(expected.square().sum(), rows)
    found = layer(rows)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found.square().sum(), rows)[0], slope)


def test_8_bit_products_do_not_overflow_in_fp16():
    layer = load(adapter=QUANTISED["int8"]).model.layers[0].mlp.gate_proj
    rows = torch.full((2, 64), 40.0)
    codes = layer.weight.data.float().abs().sum(1).max() * 40
    assert float(codes) > 65504, "the sum of the codes alone would not fit"
    signs = torch.sign(layer.weight.data[0].float())[None] * rows
    torch.testing.assert_close(layer(signs.half()).float(), layer(signs), atol=1e-2, rtol=1e-2)


def test_linear_layers_alone_are_quantised_and_4_bit_ones_are_stored_so_that_they_can_be_sharded():
    model = load(adapter=QUANTISED["nf4"], dtype=torch.bfloat16)
    kinds = {type(parameter).__name__: set() for parameter in model.parameters()}
    for name, parameter in model.named_parameters():
        kinds[type(parameter).__name__].add(name.split(".")[-2])
        assert parameter.dtype == (STORAGE if type(parameter).__name__ == "Params4bit" else torch.bfloat16)
    projections = {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")}
    assert kinds["Params4bit"] == projections
    assert kinds["Parameter"] == {"embed_tokens", "lm_head", "input_layernorm", "post_attention_layernorm", "norm"}


def test_the_trained_share_counts_weights_not_bytes():
    plain, quantised = load(), load(adapter=QUANTISED["nf4"])
    assert trained_parameters(quantised)[1] == trained_parameters(plain)[1]


def test_without_bitsandbytes_one_line_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what Python itself puts for a module that is not there
    with pytest.raises(UserError, match=r"adapter.bits=4: needs bitsandbytes.*pip install bitsandbytes"):
        quantisation(QUANTISED["nf4"], torch.float32)
