"""From a run directory to an exported folder: what can fail early first, then merge, write, check, rename."""

import os
import shutil
from pathlib import Path
from typing import Any, TextIO

import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from alpaca.errors import RunFailed, UserError
from alpaca.exporting import gguf as converter
from alpaca.exporting import hub
from alpaca.modeling.base import DTYPES
from alpaca.modeling.card import exported_usage, model_card
from alpaca.modeling.chat_template import chat_template, differing_prompt
from alpaca.modeling.finished import MODEL, PROBE, Record, read_record, read_template
from alpaca.modeling.merged import load_merged
from alpaca.modeling.quiet import quiet_libraries
from alpaca.modeling.tokenizer import generation_settings
from alpaca.paths import give_usual_mode
from alpaca.tracking.folders import LOCK
from alpaca.tracking.lock import HeldError, hold

CPU = torch.device("cpu")

# Largest difference of a logit from the run's own, as a share of the run's largest logit, by the coarser of the
# run's storage and the export's. Merging rounds every weight once more: on SmolLM2-135M (30 layers) in bf16 LoRA's
# logits then differ by 1.5 %, QLoRA's by 2 %, PiSSA's, whose base the run had rounded too, by 7.5 %.
BOUNDS = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1.5e-1}


def export(
    run: Path,
    *,
    output: Path | None = None,
    dtype: str | None = None,
    max_shard_size: str = "5GB",
    gguf: bool = False,
    hub_name: str | None = None,
) -> Path:
    """Export `run`; returns the folder, which is there as a whole or not at all.

    Raises:
        UserError: no finished run, a folder that is already there, no converter, no hub token.
        RunFailed: the disk is full, or what was written does not give the run's logits.
    """
    record = read_record(run)
    target = output or run / "export"
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise UserError(f"--output {target}: it is already there; give a new or empty folder")
    script = converter.find() if gguf else None
    if hub_name is not None:
        hub.require_token(hub_name)
    quiet_libraries()
    stored = DTYPES[dtype] if dtype is not None else _precision(record)
    beside = target.with_name(f".{target.name}-unfinished")
    lock = _begun(beside, target)
    try:
        _write(record, beside, stored, max_shard_size)
        _compare(record, beside, stored)
        if script is not None:
            print(f"gguf       {converter.convert(script, beside, target.name, stored).name}")
        (beside / LOCK).unlink()
        os.replace(beside, target)
    except (UserError, RunFailed):
        raise
    except OSError as error:
        raise RunFailed(f"{target}: {error.strerror or error}; free space or give another --output DIR") from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        lock.close()
    print(f"exported   {target} ({_size(target) / 2**20:,.0f} MiB)")
    if hub_name is not None:
        print(f"uploaded   {hub.upload(target, hub_name)}")
    return target


def _begun(beside: Path, target: Path) -> TextIO:
    """Make the folder that will be `target`, empty and held; what a killed export left in it goes.

    Raises:
        UserError: it cannot be written, another export is under way, or no export made it.
    """
    if beside.exists() and any(beside.iterdir()) and not (beside / LOCK).is_file():
        raise UserError(f"{beside}: an export writes here first, but no export made it; move it away")
    try:
        lock = hold(beside / LOCK, "export")
    except HeldError as holder:
        raise UserError(f"--output {target}: another export is writing here ({holder}); wait for it") from None
    except OSError as error:
        raise UserError(f"--output {target}: {error.strerror}; give a folder that can be written") from error
    for each in beside.iterdir():
        if each.is_dir():
            shutil.rmtree(each, ignore_errors=True)
        elif each.name != LOCK:
            each.unlink()
    return lock


def _precision(record: Record) -> torch.dtype:
    """What the run computed in: storage of the base, or for full fine-tuning, whose weights are fp32, the run's own."""
    if record.config.adapter.kind != "full":
        return record.stored
    chosen = record.environment.get("precision", "fp32")
    return DTYPES[chosen]


def _write(record: Record, folder: Path, dtype: torch.dtype, max_shard_size: str) -> None:
    model, tokenizer = load_merged(record, device=CPU, dtype=dtype)
    template = read_template(record.directory / MODEL)
    tokenizer.chat_template = chat_template(template, tokenizer)
    model.generation_config = generation_settings(tokenizer)
    try:
        model.save_pretrained(folder, max_shard_size=max_shard_size)
    except OSError:
        raise
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise RunFailed(f"{folder}: the weights could not be written ({reason})") from error
    tokenizer.save_pretrained(folder)
    shutil.copyfile(record.directory / MODEL / "template.json", folder / "template.json")
    give_usual_mode(folder)
    form = f"Merged, stored as {str(dtype).removeprefix('torch.')}."
    card = model_card(record, template, form=form, usage=exported_usage(template))
    (folder / "README.md").write_text(card, encoding="utf-8")
    if given := differing_prompt(template, tokenizer):
        print(f"warning: this tokenizer cannot be asked as training did by a chat template; it gives {given!r}")


def _compare(record: Record, folder: Path, dtype: torch.dtype) -> None:
    """Load what was written, nothing else, and compare its logits with the run's, computed in the run's precision."""
    known = load_file(record.directory / PROBE)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=record.stored, use_safetensors=True).eval()
    AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        logits = model(input_ids=known["input_ids"], use_cache=False).logits[0, -1].float()
    difference, largest = float((logits - known["logits"]).abs().max()), float(known["logits"].abs().max())
    bound = max(BOUNDS[dtype], BOUNDS[record.stored]) * largest
    whose = "the dequantised base" if record.config.adapter.bits else "the run"
    print(f"logits     differ from those of {whose} by at most {difference:.1e} (allowed {bound:.1e})")
    if not difference <= bound:
        raise RunFailed(
            f"the exported model's logits differ from the run's by {difference:.2e}, more than {bound:.2e}; "
            "try --dtype fp32, and check that the base model is the one the run was trained on"
        )


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
