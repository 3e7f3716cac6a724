"""Frozen base weights in 4 or 8 bits (bitsandbytes), whatever they come from: hub, folder, package or random.

Linear layers are quantised; embeddings, norms and the output projection stay in the run's storage dtype.
What is quantised computes the same for a token whoever stands beside it and whether the model trains or
not, so packing stays exact: two habits of bitsandbytes that break this are turned off in `_made_exact`.
"""

import contextlib
import io
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from alpaca.config import AdapterConfig
from alpaca.devices import require_bitsandbytes
from alpaca.modeling.targets import is_plain

# Storage type of packed 4-bit weights, two codes to a byte: FSDP2 shards what is floating point and leaves bytes whole.
STORAGE = torch.bfloat16


def quantisation(adapter: AdapterConfig, dtype: torch.dtype) -> Any:
    """`BitsAndBytesConfig` of `adapter.bits`, matrix products in `dtype`; None without.

    Raises:
        UserError: bitsandbytes is not installed.
    """
    if adapter.bits is None:
        return None
    require_bitsandbytes(f"adapter.bits={adapter.bits}")
    from transformers import BitsAndBytesConfig

    if adapter.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=adapter.quant_type,
        bnb_4bit_use_double_quant=adapter.double_quant,
        bnb_4bit_compute_dtype=dtype,
        bnb_4bit_quant_storage=STORAGE,
    )


def quantise(model: Any, settings: Any) -> None:
    """Replace the linear layers of a loaded or freshly drawn `model` by quantised ones, one at a time.

    At most one layer exists twice. `from_pretrained` does the same while it reads, without ever holding
    the whole model unquantised; this is for weights that were not read.
    """
    with quiet_import():
        import bitsandbytes as bnb

    head = model.get_output_embeddings()
    modules = dict(model.named_modules())
    for name, module in list(modules.items()):
        if type(module) is not nn.Linear or module is head or not is_plain(modules, name):
            continue
        device = module.weight.device
        sizes = (module.in_features, module.out_features, module.bias is not None)
        with torch.device("meta"):
            if settings.load_in_8bit:
                new: Any = bnb.nn.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=settings.llm_int8_threshold)
            else:
                new = bnb.nn.Linear4bit(
                    *sizes,
                    compute_dtype=settings.bnb_4bit_compute_dtype,
                    compress_statistics=settings.bnb_4bit_use_double_quant,
                    quant_type=settings.bnb_4bit_quant_type,
                    quant_storage=settings.bnb_4bit_quant_storage,
                )
        kept = vars(new.weight)
        if settings.load_in_8bit:
            kept.pop("SCB", None)
            new.weight = type(new.weight)(module.weight.data.cpu(), requires_grad=False, **kept).to(device)
        else:
            new.weight = type(new.weight)(module.weight.data, requires_grad=False, **kept).to(device)
        new.bias = None if module.bias is None else nn.Parameter(module.bias.data, requires_grad=False)
        model.set_submodule(name, new)
        del module
    setattr(model, "is_loaded_in_8bit" if settings.load_in_8bit else "is_loaded_in_4bit", True)
    model.quantization_method = settings.quant_method
    model.config.quantization_config = settings


def for_model(settings: Any, config: Any) -> Any:
    """`settings` for the model of a transformers `config`: linear layers that are not just called stay whole."""
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    head, modules = model.get_output_embeddings(), dict(model.named_modules())
    linear = [name for name, module in modules.items() if isinstance(module, nn.Linear)]
    whole = [name for name in linear if modules[name] is not head and not is_plain(modules, name)]
    if whole:
        heads = [name for name in linear if modules[name] is head]
        settings.llm_int8_skip_modules = whole + heads  # bitsandbytes' name for both kinds
    return settings


def made_exact(model: Any) -> None:
    """Make the quantised layers compute the same in training, scoring and generation, token by token.

    * On CPUs with bf16 instructions bitsandbytes packs 4-bit weights anew at the first forward outside of
      training, for good: scales become bf16, and the packed form has no backward. That is turned off.
    * 8-bit layers multiply quantised activations on a GPU and whole ones on a CPU in training. Ours
      multiply whole activations everywhere.
    """
    with quiet_import():
        import bitsandbytes as bnb

        from alpaca.modeling.int8 import WholeActivations

    for name, module in list(model.named_modules()):
        if isinstance(module, bnb.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
        elif isinstance(module, bnb.nn.Linear8bitLt):
            model.set_submodule(name, WholeActivations.of(module))


def logical_size(parameter: torch.Tensor) -> int:
    """Weights that a parameter holds; a 4-bit one stores several in each of its elements."""
    if type(parameter).__name__ == "Params4bit":
        return parameter.numel() * parameter.element_size() * 2
    return parameter.numel()


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """bitsandbytes, which peft imports too, prints about 4-bit CPU kernels it does not have; hide that line."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
