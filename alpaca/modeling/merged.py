"""A finished run as one plain model: its adapter merged into the base, in full-precision weights.

Layer by layer in fp32, then stored in the dtype that was asked for. A quantised base is made whole as
the run computed with it, which is not what its original weights were: the update was learned on top of
the quantised ones.
"""

from typing import Any

import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from alpaca.modeling.adapters import FULL
from alpaca.modeling.finished import MODEL, Record, load_base
from alpaca.modeling.quantised import quiet_import


def load_merged(record: Record, *, device: torch.device, dtype: torch.dtype) -> tuple[Any, PreTrainedTokenizerBase]:
    """The run's causal language model without any adapter or quantisation, stored in `dtype`, and its tokenizer."""
    folder = record.directory / MODEL
    tokenizer = AutoTokenizer.from_pretrained(folder)
    if record.config.adapter.kind == FULL:
        model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
        return model.to(device).eval(), tokenizer
    with quiet_import():
        from peft import PeftModel
    base = load_base(record, tokenizer, device=device, dtype=record.stored)
    make_whole(base)
    return merge(PeftModel.from_pretrained(base, folder), dtype).eval(), tokenizer


def merge(adapted: Any, dtype: torch.dtype) -> Any:
    """The model under a PEFT adapter on plain layers, every update merged in; the adapter is used up."""
    from peft.tuners.lora import LoraLayer

    model = adapted.get_base_model()
    layers = {name: layer for name, layer in model.named_modules() if isinstance(layer, LoraLayer)}
    for name, layer in reversed(layers.items()):  # of experts kept as tensors one wraps another: the inner one first
        layer.get_base_layer().float()
        layer.merge(safe_merge=True)  # type: ignore[operator]
        model.set_submodule(name, layer.get_base_layer().to(dtype))
    model._hf_peft_config_loaded = False
    model.config.dtype = dtype
    return model.to(dtype)


def make_whole(model: Any) -> None:
    """Put plain layers in the place of quantised ones; does nothing where there are none."""
    if not (getattr(model, "is_loaded_in_4bit", False) or getattr(model, "is_loaded_in_8bit", False)):
        return
    with quiet_import():
        import bitsandbytes as bnb
    for name, module in list(model.named_modules()):
        if isinstance(module, (bnb.nn.Linear4bit, bnb.nn.Linear8bitLt)):
            model.set_submodule(name, dequantised(module))
    model.is_loaded_in_4bit = model.is_loaded_in_8bit = model.is_quantized = False
    model.hf_quantizer = model.quantization_method = None
    del model.config.quantization_config


def dequantised(module: Any) -> nn.Linear:
    """A quantised layer as a plain one: 4-bit weights in the dtype they are computed in, 8-bit ones in fp32."""
    import bitsandbytes as bnb

    if isinstance(module, bnb.nn.Linear4bit):
        weight = bnb.functional.dequantize_4bit(module.weight.data, module.weight.quant_state)
    else:
        scale = module.weight.SCB if module.weight.SCB is not None else module.state.SCB
        weight = module.weight.data.float() * scale.float()[:, None] / 127
    with torch.device("meta"):
        plain = nn.Linear(module.in_features, module.out_features, module.bias is not None)
    plain.weight = nn.Parameter(weight, requires_grad=False)
    if module.bias is not None:
        plain.bias = nn.Parameter(module.bias.data.to(weight.dtype), requires_grad=False)
    return plain
