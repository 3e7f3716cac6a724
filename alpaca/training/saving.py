"""The result of a run: `model/`, loadable with plain transformers or peft, there as a whole or not at all."""

import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from alpaca.errors import RunFailed
from alpaca.modeling.attention import plain_attention

UNFINISHED = ".model-unfinished"


def save_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    template: dict[str, Any],
    write_json: Any,
    weights: dict[str, torch.Tensor] | None = None,
) -> None:
    """Write weights (adapter or full, safetensors), tokenizer and template beside `folder`, then rename.

    `weights` is the whole state dict where the model itself holds only a part of it.

    Raises:
        RunFailed: the disk is full or the folder cannot be written; nothing is left under `folder`.
    """
    beside = folder.with_name(UNFINISHED)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        given = {} if weights is None else {"state_dict": weights}
        model.save_pretrained(beside, **given)
        tokenizer.save_pretrained(beside)
        write_json(beside / "template.json", template)
        if _is_adapter(model):
            _check_adapter(beside / "adapter_model.safetensors")
        _flush(beside)
        os.replace(beside, folder)
    except RunFailed:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise RunFailed(
            f"{folder}: the model could not be saved ({reason}); free space or choose output_dir=DIR on another disk"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


@torch.no_grad()
def save_probe(model: nn.Module, prompt: np.ndarray, file: Path, *, keep: bool = True) -> None:
    """`probe.safetensors`: token ids of one prompt and the model's fp32 logits after it.

    Every rank that holds a part of the model computes, one keeps. A model reloaded in the dtype that the
    file's metadata names (the base's storage) must give these logits again; `input_ids` (1, n), `logits` (vocabulary,).
    """
    stored = str(next(model.parameters()).dtype).removeprefix("torch.")
    found = probe(model, prompt)
    if not keep:
        return
    try:
        save_file(found, str(file), metadata={"dtype": stored})
    except Exception as error:
        file.unlink(missing_ok=True)
        raise RunFailed(f"{file}: could not be saved ({error}); free space or choose output_dir=DIR") from error


@torch.no_grad()
def probe(model: nn.Module, prompt: np.ndarray) -> dict[str, torch.Tensor]:
    """Token ids (1, n) and logits (vocabulary,) of the position after `prompt`, computed without autocast."""
    device = next(model.parameters()).device
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    with plain_attention(model) as plain:
        logits = plain(input_ids=ids.to(device), use_cache=False).logits[0, -1]
    return {"input_ids": ids, "logits": logits.float().cpu().contiguous()}


def _is_adapter(model: Any) -> bool:
    return hasattr(model, "peft_config")


def _check_adapter(file: Path) -> None:
    """A saved adapter holds LoRA tensors, and its B matrices have moved from zero."""
    with safe_open(str(file), framework="pt") as tensors:
        updates = [name for name in tensors.keys() if "lora_B" in name]  # noqa: SIM118 - not a mapping
        moved = any(bool(tensors.get_tensor(name).any()) for name in updates)
    if not updates or not moved:
        what = "holds no LoRA tensors" if not updates else "did not learn: every B matrix is still zero"
        raise RunFailed(f"the saved adapter {what}; raise optimizer.lr or train.epochs")


def _flush(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
