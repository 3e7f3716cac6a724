"""Fused norms and gated MLPs: the numbers and gradients of transformers' own, found by what modules compute."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tiny_models import FULL, LORA, build, family, shipped
from torch import nn
from transformers.models.gemma.modeling_gemma import GemmaRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from alpaca.config import AdapterConfig
from alpaca.modeling.attention import plain_attention
from alpaca.modeling.fused import _ACTIVATIONS, Activation, GatedUnit, LowRankUpdate, RmsNorm, fuse_layers, unfused

ADAPTERS = {"full": FULL, "lora": LORA}
VARIANTS = {
    "lora": LORA,
    "rslora": replace(LORA, use_rslora=True),
    "dropout": replace(LORA, dropout=0.5),
    "two layers": replace(LORA, targets=["q_proj", "down_proj"]),
}


@pytest.mark.parametrize("frozen", [False, True])
@pytest.mark.parametrize("kind", [LlamaRMSNorm, GemmaRMSNorm])
def test_a_norm_is_the_models_own_forward_and_backward(kind: type[nn.Module], frozen: bool):
    torch.manual_seed(0)
    own: Any = kind(48, 1e-5).requires_grad_(not frozen)
    own.weight.data.uniform_(0.5, 2)
    own.dtype = torch.float32
    first, slope = torch.randn(2, 7, 48, requires_grad=True), torch.randn(2, 7, 48)
    second = first.detach().clone().requires_grad_()
    expected = own(first)
    expected.backward(slope)
    weight, own.weight.grad = own.weight.grad, None
    fused = Whole(own)
    assert fuse_layers(fused) == 1
    found = fused.part(second)
    assert type(found.grad_fn).__name__ == "RmsNormBackward"
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    found.backward(slope)
    torch.testing.assert_close(second.grad, first.grad, rtol=1e-5, atol=1e-6)
    if frozen:
        assert own.weight.grad is None
    else:
        torch.testing.assert_close(own.weight.grad, weight, rtol=1e-5, atol=1e-5)


def test_the_formulas_of_the_norm_hold_in_fp64():
    values = torch.randn(3, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, w: RmsNorm.apply(x, w, 1e-5, torch.float64), (values, weight))


@pytest.mark.parametrize("activation", _ACTIVATIONS)
def test_the_formulas_of_the_gated_unit_hold_in_fp64(activation: Any):
    gate, up = (torch.randn(3, 5, dtype=torch.float64, requires_grad=True) for _ in range(2))
    assert torch.autograd.gradcheck(lambda g, u: GatedUnit.apply(g, u, activation), (gate, up))


def test_the_formulas_of_the_low_rank_update_hold_in_fp64():
    shapes = ((2, 3, 5), (2, 3, 4), (2, 4), (5, 2))
    result, x, down, up = (torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes)
    found = LowRankUpdate.apply(result * 1, x, down, up, 1.5)
    torch.testing.assert_close(found, result + 1.5 * (x @ down.T @ up.T))
    assert torch.autograd.gradcheck(lambda y, *rest: LowRankUpdate.apply(y * 1, *rest, 1.5), (result, x, down, up))


@pytest.mark.parametrize("adapter", VARIANTS)
def test_low_rank_updates_have_the_loss_and_gradient_of_peft(adapter: str):
    model = build(shipped("tiny"), VARIANTS[adapter], implementation="sdpa")
    fused = [module for module in model.modules() if type(module.__dict__.get("forward")).__name__ == "_FusedLora"]
    assert len(fused) == (2 * 2 if adapter == "two layers" else 2 * 7)
    ids = torch.randint(3, 500, (2, 90), generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    found = gradient(model, ids, torch.float32)
    torch.manual_seed(1)
    with unfused(model):
        expected = gradient(model, ids, torch.float32)
    assert float((found - expected).norm()) <= 1e-5 * float(expected.norm()) > 0


def test_what_peft_does_beside_a_plain_update_is_left_to_it():
    dora = build(shipped("tiny"), replace(LORA, use_dora=True))
    assert "_FusedLora" not in {type(module.__dict__.get("forward")).__name__ for module in dora.modules()}
    model = build(shipped("tiny"), LORA, implementation="sdpa").eval()
    ids = torch.arange(3, 40)[None]
    adapted = model(input_ids=ids).logits
    with model.disable_adapter():
        plain = model(input_ids=ids).logits
    assert not torch.allclose(adapted, plain)
    model.merge_adapter()
    torch.testing.assert_close(model(input_ids=ids).logits, adapted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adapter", ADAPTERS)
@pytest.mark.parametrize(("checkpointing", "products"), [("off", 3), ("on", 3)])
def test_the_product_of_gate_and_up_is_made_again_unless_the_whole_layer_is(
    adapter: str, checkpointing: str, products: int
):
    """Activations: in the forward pass, again for the weights' gradient or with the layer, and for the gate's."""
    model = build(shipped("tiny"), ADAPTERS[adapter], checkpointing=checkpointing, implementation="sdpa")
    (first, *_) = [forward for module in model.modules() if hasattr(forward := module.__dict__.get("forward"), "layer")]
    counted = []

    def function(gate: torch.Tensor) -> torch.Tensor:
        counted.append(gate.shape)
        return nn.functional.silu(gate)

    first.module.forward = replace(first, activation=Activation(function, first.activation.gradient))
    gradient(model, torch.arange(3, 40)[None], torch.bfloat16)
    assert len(counted) == products


@pytest.mark.parametrize(
    ("architecture", "norms", "mlps"),
    [
        (shipped("tiny"), 5, 2),
        (shipped("tiny_qwen3"), 9, 2),  # norms of queries and keys too
        (shipped("tiny_opt"), 0, 0),
        (family("gemma"), 5, 2),
        (family("phi3"), 5, 0),  # gate and up are one projection
    ],
    ids=["llama", "qwen3", "opt", "gemma", "phi3"],
)
def test_what_computes_the_same_is_fused_and_the_rest_left_alone(architecture: dict, norms: int, mlps: int):
    model = build(architecture)
    names = [type(module.__dict__.get("forward")).__name__ for module in model.modules()]
    assert (names.count("_FusedNorm"), names.count("_FusedMlp")) == (norms, mlps)
    with unfused(model):
        assert not [module for module in model.modules() if "forward" in module.__dict__]
    assert [type(module.__dict__.get("forward")).__name__ for module in model.modules()] == names


class Whole(nn.Module):
    """A model of one part."""

    dtype, _no_split_modules = torch.float32, ()

    def __init__(self, part: nn.Module):
        super().__init__()
        self.part: Any = part


class ScaledNorm(LlamaRMSNorm):
    """An RMSNorm to the eye that computes something else."""

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        return super().forward(hidden_states) * 1.01


class ClampedNorm(LlamaRMSNorm):
    def forward(self, hidden_states: torch.Tensor, gate: torch.Tensor | None = None) -> torch.Tensor:
        return super().forward(hidden_states) if gate is None else super().forward(hidden_states * gate)


class Mlp(nn.Module):
    def __init__(self, factor: float = 1.0):
        super().__init__()
        self.gate_proj, self.up_proj, self.down_proj = nn.Linear(8, 6), nn.Linear(8, 6), nn.Linear(6, 8)
        self.act_fn, self.factor = nn.SiLU(), factor

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x) * self.factor)


@pytest.mark.parametrize("part", [ScaledNorm(8), ClampedNorm(8), nn.LayerNorm(8, bias=False), Mlp(1.01)], ids=str)
def test_a_part_that_computes_something_else_keeps_its_own_forward(part: nn.Module):
    assert fuse_layers(Whole(part)) == 0
    assert fuse_layers(Whole(Mlp())) == 1


@pytest.mark.parametrize("name", ["tiny", "tiny_qwen3"])
@pytest.mark.parametrize("adapter", ADAPTERS)
def test_in_bf16_the_gradient_is_as_near_to_fp32_as_the_models_own(name: str, adapter: str):
    model = build(shipped(name), ADAPTERS[adapter], implementation="sdpa")
    ids = torch.randint(3, 500, (2, 90), generator=torch.Generator().manual_seed(0))
    with unfused(model):
        exact = gradient(model, ids, torch.float32)
        theirs = gradient(model, ids, torch.bfloat16)
    ours = gradient(model, ids, torch.bfloat16)
    apart = [float((one - exact).norm() / exact.norm()) for one in (ours, theirs)]
    assert 0 < apart[0] < 1.3 * apart[1], apart


def gradient(model: nn.Module, ids: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """All of the gradient of the loss on `ids`, flat, the forward in `dtype`."""
    model.zero_grad()
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
    return torch.cat([one.grad.flatten() for one in model.parameters() if one.grad is not None])


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_query_key_and_value_read_one_normalised_input_in_the_compute_dtype(adapter: str):
    model: Any = build(shipped("tiny"), ADAPTERS[adapter], implementation="sdpa")
    seen: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if name.endswith("norm"):
            module.register_forward_hook(lambda _, __, output, name=name: seen.update({name: output}))
    with torch.autocast("cpu", torch.bfloat16):
        model(input_ids=torch.arange(3, 40)[None], use_cache=False)
    kinds = {name.rsplit(".", 1)[-1]: output.dtype for name, output in seen.items()}
    assert kinds.pop("norm") == torch.float32
    assert set(kinds.values()) == {torch.bfloat16}
    assert len(kinds) == 2


@pytest.mark.parametrize("adapter", ADAPTERS)
def test_less_is_kept_for_the_backward_pass(adapter: str):
    model = build(shipped("tiny"), ADAPTERS[adapter], implementation="sdpa")
    ours = kept_bytes(model)
    with unfused(model):
        theirs = kept_bytes(model)
    assert ours < 0.8 * theirs


def kept_bytes(model: nn.Module) -> int:
    """Bytes of all tensors that a bf16 forward keeps, weights aside."""
    own = {parameter.untyped_storage().data_ptr() for parameter in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), torch.autocast("cpu", torch.bfloat16):
        loss = model.get_decoder()(input_ids=torch.arange(3, 400)[None], use_cache=False)
    assert loss is not None
    return sum(storage.nbytes() for storage in kept.values())


def test_the_model_as_others_see_it_runs_none_of_this():
    model = build(shipped("tiny"))
    with plain_attention(model):
        assert not [module for module in model.modules() if "forward" in module.__dict__]
    assert [module for module in model.modules() if "forward" in module.__dict__]


def test_adapters_on_the_projections_take_part():
    config = AdapterConfig(name="lora", kind="lora", rank=4, alpha=8, targets=["gate_proj", "down_proj"])
    model = build(shipped("tiny"), config, implementation="sdpa")
    ids = torch.arange(3, 60)[None]
    ours = gradient(model, ids, torch.float32)
    with unfused(model):
        theirs = gradient(model, ids, torch.float32)
    assert float((ours - theirs).norm()) < 1e-5 * float(theirs.norm())
    assert float(theirs.norm()) > 0
