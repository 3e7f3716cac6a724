"""The result of a run: `model/`, loadable with plain transformers or peft, there as a whole or not at all.

An adapter's base is named in its `adapter_config.json`: a hub id and its commit, or a folder. Random weights exist
nowhere else, so they are written when they are drawn and lie in `model/base/`; the adapter names that
folder by its absolute path, for plain peft, and `modeling/finished.py` finds it after a move too.
"""

import contextlib
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
from alpaca.modeling.pissa import rewrite_as_lora
from alpaca.modeling.tokenizer import generation_settings
from alpaca.paths import give_usual_mode

TEMPLATE = "template.json"
CARD = "README.md"
UNFINISHED = ".model-unfinished"
DRAWN_BASE = ".base"  # random base weights of an adapter, in the run directory until the result is written
BASE = "base"  # and in the result


def save_model(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    folder: Path,
    template: dict[str, Any],
    write_json: Any,
    weights: dict[str, torch.Tensor] | None = None,
    base: tuple[str, str | None] | None = None,
) -> None:
    """Write weights (adapter or full, safetensors), tokenizer and template beside `folder`, then rename.

    `weights` is the whole state dict where the model itself holds only a part of it; `base` is the name and commit
    by which an adapter's configuration says what it belongs on.

    Raises:
        RunFailed: the disk is full or the folder cannot be written; nothing is left under `folder`.
    """
    beside = folder.with_name(UNFINISHED)
    shutil.rmtree(beside, ignore_errors=True)
    try:
        given = {} if weights is None else {"state_dict": weights}
        generation = generation_settings(tokenizer)
        if _is_adapter(model):
            _save_adapter(model, beside, folder, given, base)
            generation.save_pretrained(beside)  # for readers: plain peft takes that of the base
        else:
            model.generation_config = generation
            model.save_pretrained(beside, **given)
        tokenizer.save_pretrained(beside)
        write_json(beside / TEMPLATE, template)
        give_usual_mode(beside)
        _flush(beside)
        _clear(folder, beside)
        os.replace(beside, folder)
        shutil.rmtree(folder.with_name(DRAWN_BASE), ignore_errors=True)
    except RunFailed:
        raise
    except Exception as error:
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise RunFailed(
            f"{folder}: the model could not be saved ({reason}); free space or choose output_dir=DIR on another disk"
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _clear(folder: Path, new: Path) -> None:
    """Make room for the result `new`: remove that of a process that died before its summary.

    What the new one does not replace may be the user's, and is moved aside.
    """
    if (folder / TEMPLATE).is_file():
        (folder / CARD).unlink(missing_ok=True)
        for file in [each for each in new.rglob("*") if not each.is_dir()]:
            (folder / file.relative_to(new)).unlink(missing_ok=True)
        for inside in sorted((each for each in folder.rglob("*") if each.is_dir()), reverse=True):
            with contextlib.suppress(OSError):  # something is left in it
                inside.rmdir()
        with contextlib.suppress(OSError):
            folder.rmdir()
    if folder.exists():
        number = 1
        while (aside := folder.with_name(f"{folder.name}-not-of-this-run-{number}")).exists():
            number += 1
        os.replace(folder, aside)


def _save_adapter(
    model: Any, beside: Path, folder: Path, given: dict[str, Any], base: tuple[str, str | None] | None
) -> None:
    """Adapter, by its `state_dict` where it is given, and a base that is nowhere else; `beside` will be `folder`."""
    initial = getattr(model, "initial_adapter", None)
    drawn = folder.with_name(DRAWN_BASE)
    if drawn.is_dir():
        base = str(folder.absolute() / BASE), None
    if base is not None:
        settings = model.peft_config["default"]
        settings.base_model_name_or_path, settings.revision = base
    model.save_pretrained(beside, **given)
    (beside / CARD).unlink(missing_ok=True)  # peft's empty card; the run's own comes when its scores are known
    _check_adapter(beside / "adapter_model.safetensors", initial)
    if initial is not None:
        rewrite_as_lora(beside, initial)
    if drawn.is_dir():
        shutil.copytree(drawn, beside / BASE, copy_function=_linked)


def _linked(source: str, target: str) -> str:
    """The same file under another name, or a copy where the disk has no hard links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def keep_drawn_base(model: Any, tokenizer: PreTrainedTokenizerBase, run: Path) -> None:
    """Write random base weights into the run directory `run` before anything changes them.

    Raises:
        RunFailed: the disk is full or the folder cannot be written.
    """
    folder = run / DRAWN_BASE
    try:
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        give_usual_mode(folder)
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise RunFailed(
            f"{folder}: the random base could not be saved ({reason}); free space or set output_dir=DIR"
        ) from error


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
        give_usual_mode(file)
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


def _check_adapter(file: Path, initial: dict[str, torch.Tensor] | None) -> None:
    """A saved adapter holds LoRA tensors, and its B matrices have moved from where they started: zero, or `initial`."""
    with safe_open(str(file), framework="pt") as tensors:
        updates = [name for name in tensors.keys() if "lora_B" in name]  # noqa: SIM118 - not a mapping
        moved = any(
            bool(tensors.get_tensor(name).any())
            if initial is None
            else not torch.equal(tensors.get_tensor(name), initial[name])
            for name in updates
        )
    if not updates or not moved:
        what = "holds no LoRA tensors" if not updates else "did not learn: every B matrix is still where it started"
        raise RunFailed(f"the saved adapter {what}; raise optimizer.lr or train.epochs")


def _flush(folder: Path) -> None:
    for file in folder.rglob("*"):
        if file.is_file():
            with file.open("rb") as stream:
                os.fsync(stream.fileno())
