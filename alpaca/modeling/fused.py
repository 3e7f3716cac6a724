"""Element-wise work of a layer with fewer passes over memory and fewer tensors kept for the backward pass.

Matrix products take most of a step's arithmetic, but RMSNorm and the gated MLP as transformers writes them
keep half of its activations: fp32 copies between two operations, the same normalised input in the compute
dtype once for each of query, key and value; and PEFT adds a low-rank update in three passes over the result.
Here each is one autograd function that keeps what it was given and computes the rest again. `fuse_layers`
sets them on the modules that it finds to compute just that, by trying; module names, parameters and their
wrappers (PEFT, FSDP) stay as they are.
"""

import contextlib
import copy
import inspect
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from alpaca.modeling.layers import repeated_layers


class RmsNorm(torch.autograd.Function):
    """y = w * x * r with r = (mean(x^2) + eps)^(-1/2), over the last dimension.

    With g = dy * w: dx = r * (g - x * r^2 * mean(g * x)), and dw = sum over tokens of dy * x * r.
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, eps: float, dtype: torch.dtype) -> torch.Tensor:
        """hidden (..., size), weight (size,); statistics in fp32 (fp64 for fp64); returns hidden's shape in `dtype`."""
        wide = hidden if hidden.dtype == torch.float64 else hidden.float()
        scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(hidden, weight, scale)
        return (wide * scale).mul_(weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        hidden, weight, scale = ctx.saved_tensors
        slope = grad_output.to(scale.dtype)
        normal = hidden.to(scale.dtype) * scale
        grad_hidden = grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (slope * normal).flatten(0, -2).sum(0).to(weight.dtype)
        if ctx.needs_input_grad[0]:
            slope = slope * weight
            share = (slope * normal).mean(-1, keepdim=True)
            grad_hidden = slope.sub_(normal.mul_(share)).mul_(scale).to(hidden.dtype)
        return grad_hidden, grad_weight, None, None


@dataclass(frozen=True)
class Activation:
    """A function of one tensor, and its gradient from that of its output and its input."""

    function: Callable[[torch.Tensor], torch.Tensor]
    gradient: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


_ACTIVATIONS = (
    Activation(F.silu, torch.ops.aten.silu_backward),
    Activation(F.gelu, torch.ops.aten.gelu_backward),
    Activation(
        lambda x: F.gelu(x, approximate="tanh"),
        lambda slope, x: torch.ops.aten.gelu_backward(slope, x, approximate="tanh"),
    ),
)


class GatedUnit(torch.autograd.Function):
    """y = act(gate) * up; keeps gate and up, not act(gate). d up = dy * act(gate), d gate = dy * up * act'(gate)."""

    @staticmethod
    def forward(ctx: Any, gate: torch.Tensor, up: torch.Tensor, activation: Activation) -> torch.Tensor:
        """gate and up of one shape and dtype, which the result has too."""
        ctx.save_for_backward(gate, up)
        ctx.activation = activation
        return activation.function(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        gate, up = ctx.saved_tensors
        grad_up = ctx.activation.function(gate).mul_(grad_output)
        return ctx.activation.gradient(grad_output * up, gate), grad_up, None


class LowRankUpdate(torch.autograd.Function):
    """y + s (x A^T) B^T, added into y where it lies.

    With dy the gradient of the result, h = x A^T and dh = s dy B: d y = dy, dx = dh A, dA = dh^T x, dB = s dy^T h.
    """

    @staticmethod
    def forward(
        ctx: Any, result: torch.Tensor, x: torch.Tensor, down: torch.Tensor, up: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """result (..., out), which is changed; x (..., in), down (rank, in), up (out, rank); all in result's dtype."""
        dtype = result.dtype
        with torch.autocast(x.device.type, enabled=False):
            inner = (down.to(dtype) @ x.flatten(0, -2).to(dtype).T).T  # in this order the short side is no obstacle
            result.view(-1, result.shape[-1]).addmm_(inner, up.to(dtype).T, alpha=scale)
        ctx.save_for_backward(x, inner, down, up)
        ctx.scale = scale
        ctx.mark_dirty(result)
        return result

    @staticmethod
    def backward(ctx: Any, grad_output: torch.Tensor) -> tuple[torch.Tensor | None, ...]:  # type: ignore[override]
        x, inner, down, up = ctx.saved_tensors
        dtype, scale = inner.dtype, ctx.scale
        grad_x = grad_down = grad_up = None
        with torch.autocast(x.device.type, enabled=False):
            slope = grad_output.flatten(0, -2).to(dtype)
            grad_inner = (slope @ up.to(dtype)).mul_(scale)
            if ctx.needs_input_grad[1]:
                grad_x = (grad_inner @ down.to(dtype)).view(x.shape).to(x.dtype)
            if ctx.needs_input_grad[2]:
                grad_down = (grad_inner.T @ x.flatten(0, -2).to(dtype)).to(down.dtype)
            if ctx.needs_input_grad[3]:
                grad_up = (inner.T @ slope).T.to(up.dtype, copy=True).mul_(scale)
        return grad_output, grad_x, grad_down, grad_up, None


@dataclass(frozen=True, eq=False)
class _FusedNorm:
    """The forward of one RMSNorm module.

    Attributes:
        offset: added to the weight (1 in Gemma, whose weights are kept as distances from 1).
        promotes: the result has the wider dtype of input and weight, not the input's.
        narrow: only linear layers read the result, so under autocast it is made in their dtype, once for all.
    """

    module: Any
    eps: float
    offset: float
    promotes: bool
    narrow: bool

    def __call__(self, hidden_states: torch.Tensor) -> torch.Tensor:
        weight, device = self.module.weight, hidden_states.device.type
        dtype = torch.promote_types(hidden_states.dtype, weight.dtype) if self.promotes else hidden_states.dtype
        if self.narrow and torch.is_autocast_enabled(device):
            dtype = torch.get_autocast_dtype(device)
        if self.offset:
            weight = weight.float() + self.offset
        result: torch.Tensor = RmsNorm.apply(hidden_states, weight, self.eps, dtype)
        return result


@dataclass(frozen=True, eq=False)
class _FusedMlp:
    """The forward of one gated MLP; its linear layers are called as modules, so adapters on them take part.

    Attributes:
        layer: the decoder layer it belongs to, which may checkpoint its activations; None outside of one.
    """

    module: Any
    activation: Activation
    layer: Any = None

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        gate, up = self.module.gate_proj(x), self.module.up_proj(x)
        unit = GatedUnit.apply(gate, up, self.activation)
        checkpointed = getattr(self.layer, "gradient_checkpointing", False) and self.layer.training
        again: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
        if not checkpointed and not torch.compiler.is_compiling():  # hooks inside of theirs would keep what they drop
            again = _made_again(unit, gate.detach(), up.detach(), self.activation)
        with again:
            result: torch.Tensor = self.module.down_proj(unit)
        return result


def _made_again(
    unit: torch.Tensor, gate: torch.Tensor, up: torch.Tensor, activation: Activation
) -> contextlib.AbstractContextManager[Any]:
    """Meanwhile `unit`, where it is saved for the backward pass, is not kept but computed from gate and up again."""
    place, size = unit.data_ptr(), unit.numel()

    def pack(tensor: torch.Tensor) -> torch.Tensor | torch.Size:
        same = tensor.data_ptr() == place and tensor.numel() == size and tensor.is_contiguous()
        return tensor.shape if same and tensor.dtype == gate.dtype else tensor

    def unpack(kept: torch.Tensor | torch.Size) -> torch.Tensor:
        return kept if isinstance(kept, torch.Tensor) else activation.function(gate).mul_(up).view(kept)

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


@dataclass(frozen=True, eq=False)
class _FusedLora:
    """The forward of one linear layer with a plain low-rank update; whatever else it is asked for, PEFT does."""

    module: Any

    def __call__(self, x: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        module = self.module
        active = [name for name in module.active_adapters if name in module.lora_A]
        if arguments or keywords or module.disable_adapters or module.merged or len(active) != 1:
            return self._by_peft(x, *arguments, **keywords)
        down, up, dropout = (part[active[0]] for part in (module.lora_A, module.lora_B, module.lora_dropout))
        narrow = torch.is_autocast_enabled(x.device.type) or down.weight.dtype == x.dtype
        if not narrow or up.bias is not None:
            return self._by_peft(x)
        result = module.base_layer(x)
        if type(module.base_layer) is not nn.Linear and module.base_layer.bias is not None:
            result = result.clone()  # bitsandbytes returns a view here, which autograd does not let others change
        found: torch.Tensor = LowRankUpdate.apply(result, dropout(x), down.weight, up.weight, module.scaling[active[0]])
        return found

    def _by_peft(self, x: torch.Tensor, *arguments: Any, **keywords: Any) -> torch.Tensor:
        result: torch.Tensor = type(self.module).forward(self.module, x, *arguments, **keywords)
        return result


def fuse_layers(model: Any) -> int:
    """Set the fused forward on every RMSNorm, gated MLP and LoRA layer of `model`; returns on how many.

    Call it when the adapter is on and before the model is spread over ranks. A module whose own forward gives
    other numbers on a few random inputs is left as it is, and so is a LoRA layer with a variant (DoRA).
    """
    narrow = _read_by_linear_layers(model)
    dtype = (model.get_base_model() if hasattr(model, "get_base_model") else model).dtype
    layer_of = {part: layer for layer in repeated_layers(model) for part in layer.modules()}
    fused = 0
    for module in list(model.modules()):
        forward: Any = _lora_of(module)
        try:
            forward = forward or _norm_of(module, narrow=module in narrow) or _mlp_of(module, dtype)
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            if isinstance(error, torch.OutOfMemoryError):
                raise
            continue  # it takes something else than (tokens, size): not one of ours
        if isinstance(forward, _FusedMlp):
            forward = replace(forward, layer=layer_of.get(module))
        if forward is not None:
            module.forward = forward
            fused += 1
    return fused


def unfuse(model: nn.Module) -> None:
    """Every module of `model` runs transformers' own code from here on."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), _FusedNorm | _FusedMlp | _FusedLora):
            del module.forward


@contextlib.contextmanager
def unfused(model: nn.Module) -> Iterator[None]:
    """Meanwhile every module of `model` runs transformers' own code."""
    ours = [
        (module, found)
        for module in model.modules()
        if isinstance(found := module.__dict__.get("forward"), _FusedNorm | _FusedMlp | _FusedLora)
    ]
    for module, _ in ours:
        del module.forward
    try:
        yield
    finally:
        for module, found in ours:
            module.forward = found


def _read_by_linear_layers(model: Any) -> set[nn.Module]:
    """Norms in front of attention and MLP, in layers of the usual shape with two norms and split projections."""
    found: set[nn.Module] = set()
    for layer in repeated_layers(model):
        parts = dict(layer.named_children())
        readers = {
            "input_layernorm": ("self_attn", ("q_proj", "k_proj", "v_proj")),
            "post_attention_layernorm": ("mlp", ("gate_proj", "up_proj", "down_proj")),
        }
        if set(parts) != {*readers, "self_attn", "mlp"}:
            continue
        for norm, (reader, projections) in readers.items():
            if set(projections) <= {name for name, _ in parts[reader].named_children()}:
                found.add(parts[norm])
    return found


def _norm_of(module: nn.Module, *, narrow: bool) -> _FusedNorm | None:
    """The fused forward, if the module is an RMSNorm by structure and by its numbers."""
    eps = getattr(module, "variance_epsilon", getattr(module, "eps", None))
    weight = getattr(module, "weight", None)
    if not isinstance(eps, float) or not isinstance(weight, nn.Parameter) or weight.dim() != 1:
        return None
    if len([*module.parameters(), *module.buffers()]) != 1 or any(module.children()):
        return None
    if len(inspect.signature(module.forward).parameters) != 1:
        return None
    probe: Any = copy.deepcopy(module).to("cpu", torch.float32)
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(3, len(weight), generator=draw)
    with torch.no_grad(), torch.autocast("cpu", enabled=False):
        probe.weight.uniform_(0.5, 2, generator=draw)
        expected = probe(hidden)
        for offset in (0.0, 1.0):
            found = RmsNorm.apply(hidden, probe.weight + offset, eps, torch.float32)
            if torch.allclose(found, expected, rtol=1e-5, atol=1e-6):
                promotes = probe(hidden.bfloat16()).dtype == torch.float32
                return _FusedNorm(module, eps, offset, promotes, narrow)
    return None


def _lora_of(module: nn.Module) -> _FusedLora | None:
    """The fused forward, if the module is a linear layer with low-rank updates and nothing beside them."""
    whole: Any = module
    if not hasattr(module, "lora_A") or not hasattr(module, "base_layer") or getattr(module, "lora_variant", True):
        return None
    parts = [*whole.lora_A.values(), *whole.lora_B.values()]
    return _FusedLora(module) if parts and all(type(part) is nn.Linear for part in parts) else None


def _mlp_of(module: nn.Module, dtype: torch.dtype) -> _FusedMlp | None:
    """The fused forward, if the module is a gated MLP by structure and by its numbers."""
    names = {name for name, _ in module.named_children()}
    if names - {"act_fn"} != {"gate_proj", "up_proj", "down_proj"} or not callable(getattr(module, "act_fn", None)):
        return None
    if len(inspect.signature(module.forward).parameters) != 1:
        return None
    whole: Any = module
    places = torch.linspace(-8, 8, 257)
    draw = torch.Generator().manual_seed(0)
    training = module.training
    hidden = torch.randn(1, 3, whole.gate_proj.in_features, generator=draw)
    hidden = hidden.to(next(module.parameters()).device, dtype)
    bound = 8 * torch.finfo(dtype).eps
    module.eval()  # an adapter's dropout would tell them apart
    try:
        with torch.no_grad():
            for activation in _ACTIVATIONS:
                if torch.allclose(activation.function(places), whole.act_fn(places), rtol=1e-5, atol=1e-6):
                    forward = _FusedMlp(module, activation)
                    expected, found = whole(hidden).double(), forward(hidden).double()
                    return forward if float((found - expected).norm()) <= bound * float(expected.norm()) else None
    finally:
        module.train(training)
    return None
