"""What the base's own settings say before its weights load: can they be trained, and how many tokens do they know?"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedTokenizerBase

from alpaca.config import ModelConfig
from alpaca.errors import UserError
from alpaca.modeling.base import weights_location
from alpaca.signature import RANDOM


def base_settings(model: ModelConfig) -> Any:
    """transformers' config of the base; None where it is random or cannot be read, which loading says.

    Raises:
        UserError: a setting has the wrong type.
    """
    location = weights_location(model.weights)
    if location == RANDOM:
        return None
    try:
        return AutoConfig.from_pretrained(location, revision=model.revision)
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"model.weights={model.weights}: its config.json is wrong ({reason}); mend it") from None
    except (OSError, ValueError, KeyError):
        return None


def refuse_quantised(model: ModelConfig, settings: Any) -> None:
    """Weights stored in 4 or 8 bits are no base: they have no gradient, and an adapter learned on them fits no other.

    Raises:
        UserError: the base is one (GPTQ, AWQ, bitsandbytes, fp8, mxfp4, ...).
    """
    if settings is None:
        return
    for part in (settings, settings.get_text_config()):
        found = getattr(part, "quantization_config", None) or getattr(part, "compression_config", None)
        if found:
            known = found if isinstance(found, dict) else found.to_dict()
            bits = {"load_in_4bit": "4 bits", "load_in_8bit": "8 bits"}
            kind = known.get("quant_method") or "unknown method"
            detail = next((words for key, words in bits.items() if known.get(key)), "")
            raise UserError(
                f"model.weights={model.weights}: its weights are already quantised ({kind}{', ' if detail else ''}"
                f"{detail}), which cannot be trained on; give the original weights, with adapter=qlora to hold them in "
                "4 bits"
            )


def refuse_unknown_tokens(
    model: ModelConfig, settings: Any, tokenizer: PreTrainedTokenizerBase, parts: Sequence[np.ndarray]
) -> None:
    """Every token of the rows, and the one that ends a response, has a row in the base's embedding.

    Args:
        parts: token ids of what is trained and held out.

    Raises:
        UserError: one has none.
    """
    known = model.architecture.get("vocab_size") if settings is None else settings.get_text_config().vocab_size
    if not isinstance(known, int):
        return
    highest = max([int(tokens.max()) for tokens in parts if len(tokens)] + [int(tokenizer.eos_token_id or 0)])
    if highest < known:
        return
    beyond = sum(int((tokens >= known).sum()) for tokens in parts)
    token = tokenizer.convert_ids_to_tokens(highest)
    raise UserError(
        f"model.weights={model.weights}: the tokenizer has token {highest} ({token}), but the model's embedding has "
        f"{known} rows; tokens from {known} on stand {beyond:,} times in the rows; give the tokenizer that belongs to "
        "the model, or a template without them, such as template=alpaca"
    )
