"""The base model: from the hub, a folder, an embedded GGUF, or random from sizes; linear layers quantised or not."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import find_adapter_config_file

from alpaca import paths
from alpaca.config import ModelConfig
from alpaca.errors import UserError
from alpaca.modeling.embedded import converted_folder
from alpaca.modeling.identity import adapter_refusal, on_hub, pinned, refuse_adapter
from alpaca.modeling.quantised import for_model, made_exact, quantise
from alpaca.modeling.tokenizer import tokenizer_of
from alpaca.signature import RANDOM

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def starting_point(config: ModelConfig) -> ModelConfig:
    """What a run trains on: `config` with the commit that its revision means now.

    Raises:
        UserError: an adapter, local or on the hub.
    """
    refuse_adapter(config)
    base = pinned(config)
    if on_hub(base.weights):
        file = find_adapter_config_file(base.weights, revision=base.revision)
        if file is not None:
            raise UserError(adapter_refusal(base.weights, Path(file)))
    return base


def load_tokenizer(config: ModelConfig) -> PreTrainedTokenizerBase:
    """The model's tokenizer.

    Raises:
        UserError: no network for a hub id, an unknown id, a folder without a tokenizer, no EOS token.
    """
    try:
        return tokenizer_of(config, weights_location(config.weights))
    except (OSError, ValueError, TypeError) as error:
        raise UserError(_not_loaded(config, error)) from None


def load_model(
    config: ModelConfig,
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    dtype: torch.dtype,
    device: torch.device,
    quantisation: Any = None,
    on_drawn: Callable[[PreTrainedModel], None] = lambda model: None,
) -> PreTrainedModel:
    """The model on `device`, its weights stored in `dtype`; `seed` draws random ones.

    `quantisation` is a `BitsAndBytesConfig`: linear layers are stored as it says, the rest in `dtype`.
    `on_drawn` is given random weights as they were drawn, before they are quantised.

    Raises:
        UserError: no network for a hub id, an unknown id, a folder without safetensors.
    """
    weights = weights_location(config.weights)
    try:
        if weights == RANDOM:
            model = random_model(config.architecture, tokenizer, seed=seed, dtype=dtype, device=device)
            on_drawn(model)
            if quantisation is not None:
                quantise(model, quantisation)
        elif quantisation is not None:
            model = AutoModelForCausalLM.from_pretrained(
                weights,
                revision=config.revision,
                dtype=dtype,
                use_safetensors=True,
                quantization_config=for_model(
                    quantisation, AutoConfig.from_pretrained(weights, revision=config.revision)
                ),
                device_map={"": device},
            )
        else:
            model = AutoModelForCausalLM.from_pretrained(
                weights, revision=config.revision, dtype=dtype, use_safetensors=True
            ).to(device)
    except (OSError, ValueError) as error:
        raise UserError(_not_loaded(config, error)) from None
    if quantisation is not None:
        made_exact(model)
    return model


def weights_location(weights: str) -> str:
    """What `from_pretrained` takes for `model.weights`: a folder, a hub id, or `random` unchanged."""
    if weights.startswith(paths.PACKAGE_PREFIX):
        return str(converted_folder(weights))
    folder = Path(weights).expanduser()
    return str(folder) if folder.is_dir() else weights


def random_model(
    architecture: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    *,
    seed: int,
    dtype: torch.dtype,
    device: torch.device,
) -> PreTrainedModel:
    """A model of the given sizes with freshly drawn weights; its special tokens are the tokenizer's."""
    sizes = {key: value for key, value in architecture.items() if key != "model_type"}
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(seed)
    try:
        settings = AutoConfig.for_model(architecture["model_type"], **{**sizes, **special})
        with torch.device(device):
            return AutoModelForCausalLM.from_config(settings, dtype=dtype)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model.architecture: transformers cannot build it ({reason}); mend the sizes") from None


def _not_loaded(config: ModelConfig, error: BaseException) -> str:
    text = " ".join(str(error).split())[:200]
    folder = Path(config.weights).expanduser()
    if (folder / "model").is_dir() and (folder / "summary.json").is_file():
        return (
            f"model.weights={config.weights}: that is a run directory; for its merged weights run "
            f"python -m alpaca.export {config.weights} and set model.weights={folder / 'export'}"
        )
    if folder.is_dir():
        return f"model.weights={config.weights}: no loadable model in that folder ({text}); safetensors are needed"
    return (
        f"model.weights={config.weights}: could not be loaded ({text}); without network give a local folder "
        "(model.weights=DIR), random weights (model.weights=random), or model=smollm2_135m from its package"
    )
