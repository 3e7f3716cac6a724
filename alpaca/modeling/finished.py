"""A finished run directory as a model that answers: weights as they were trained, tokenizer, template, settings.

What chat, evaluation and export start from. An adapter is put on its base again, quantised where the run
had it quantised; a random base lies in `model/base/`, any other is found as the run found it.
"""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from alpaca.config import Config
from alpaca.data.templates import Template
from alpaca.errors import UserError
from alpaca.modeling.adapters import FULL
from alpaca.modeling.base import load_model
from alpaca.modeling.identity import moved, the_same
from alpaca.modeling.quantised import quantisation, quiet_import
from alpaca.tracking.run_directory import newest_finished

MODEL, BASE, PROBE = "model", "base", "probe.safetensors"


@dataclass(frozen=True)
class Record:
    """What a finished run wrote about itself.

    Attributes:
        directory: the run directory.
        config: its settings, as they were resolved.
        summary, data, environment: `summary.json`, `data.json` and `env.json`.
        stored: dtype of the weights that were not trained, and of the probe.
    """

    directory: Path
    config: Config
    summary: dict[str, Any]
    data: dict[str, Any]
    environment: dict[str, Any]
    stored: torch.dtype


@dataclass(frozen=True)
class Finished:
    """A finished run, loaded; `model` is in evaluation mode with ordinary attention."""

    record: Record
    model: Any
    tokenizer: PreTrainedTokenizerBase
    template: Template


def read_record(directory: Path) -> Record:
    """What is known of a run without loading its model.

    Raises:
        UserError: no run directory, or a run that is not finished.
    """
    if not (directory / "config.yaml").is_file():
        what = newest_finished(directory) or "; give a folder that a run wrote"
        raise UserError(f"{directory}: no run directory (it has no config.yaml){what}")
    summary = _json(directory / "summary.json")
    if summary.get("status") != "finished" or not (directory / MODEL).is_dir():
        found = summary.get("status", "killed, or still running")
        raise UserError(
            f"{directory}: the run is not finished (status {found}), so it has no result; "
            "the same command goes on with it"
        )
    try:
        loaded = OmegaConf.load(directory / "config.yaml")
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), loaded))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(
            f"{directory / 'config.yaml'}: {reason}; it is damaged, or was written by another version"
        ) from None
    data, environment = _json(directory / "data.json"), _json(directory / "env.json")
    return Record(directory, config, summary, data, environment, stored_dtype(directory / PROBE))


@contextlib.contextmanager
def readable_model(place: Path) -> Iterator[None]:
    """What the libraries raise while a model in `place` loads, as one line; running out of memory passes.

    Raises:
        UserError: files that are missing or damaged.
    """
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{place}: no loadable model ({reason}); safetensors and a tokenizer are needed") from None


def load_finished(directory: Path, *, device: torch.device, dtype: torch.dtype | None = None) -> Finished:
    """The run in `directory`, ready to answer.

    Args:
        dtype: storage of the weights; None as in the run (what was trained is kept in fp32 all the same, an
            adapter's matrices always).

    Raises:
        UserError: no finished run, a damaged model, or its base is not there any more.
    """
    return load_result(read_record(directory), device=device, dtype=dtype)


def load_result(record: Record, *, device: torch.device, dtype: torch.dtype | None = None) -> Finished:
    """The same for a run whose record is known."""
    folder, stored = record.directory / MODEL, dtype or record.stored
    with readable_model(folder):
        tokenizer = AutoTokenizer.from_pretrained(folder)
        if record.config.adapter.kind == FULL:
            model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=stored, use_safetensors=True).to(device)
        else:
            with quiet_import():
                from peft import PeftModel
            base = load_base(record, tokenizer, device=device, dtype=stored)
            model = PeftModel.from_pretrained(base, folder)
    return Finished(record, model.eval(), tokenizer, read_template(folder))


def load_base(record: Record, tokenizer: PreTrainedTokenizerBase, *, device: torch.device, dtype: torch.dtype) -> Any:
    """The base of an adapter as its run had it, quantised or not, its other weights in `dtype`.

    Raises:
        UserError: it cannot be loaded, or it is not what the run was trained on.
    """
    known = record.config.model
    beside = record.directory / MODEL / BASE
    if beside.is_dir():
        settings = replace(known, weights=str(beside), revision=None)
    else:
        lineage, identity = record.data.get("lineage", {}), record.environment.get("settings", {})
        settings = the_same(known, lineage.get("model", {}), identity, record.directory)
    quantised = quantisation(record.config.adapter, dtype)
    try:
        return load_model(
            settings, tokenizer, seed=record.config.train.seed, dtype=dtype, device=device, quantisation=quantised
        )
    except UserError:
        if reason := moved(known, settings, record.directory):
            raise UserError(reason) from None
        raise


def read_template(folder: Path) -> Template:
    """The template that lies beside the weights in `folder`."""
    settings = _json(folder / "template.json")
    if not settings:
        raise UserError(f"{folder}: it has no template.json; give a run directory that this version wrote")
    return Template(
        settings["name"], settings["prompt_with_input"], settings["prompt_without_input"], tuple(settings["stop"])
    )


def stored_dtype(probe: Path) -> torch.dtype:
    """The dtype that the metadata of `probe.safetensors` names."""
    try:
        with safe_open(str(probe), framework="pt") as tensors:
            name = (tensors.metadata() or {}).get("dtype", "float32")
    except Exception as error:
        raise UserError(f"{probe}: cannot be read ({error}); the run directory is damaged") from None
    found: torch.dtype = getattr(torch, name)
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
