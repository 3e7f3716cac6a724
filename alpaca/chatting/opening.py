"""What can be talked to: a finished run, a folder with a model, or an option of conf/model.

A run is computed in the precision it was trained in, as its evaluation was, where this machine's device
does that well; a model folder as a new run would compute it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from alpaca import paths
from alpaca.config import ModelConfig, TemplateConfig
from alpaca.data.encoding import TextEncoder
from alpaca.data.templates import Template
from alpaca.engines.local import model_of
from alpaca.errors import RunFailed, UserError
from alpaca.modeling.base import load_model, load_tokenizer
from alpaca.modeling.finished import load_finished, read_record, read_template, readable_model
from alpaca.modeling.quiet import quiet_libraries
from alpaca.modeling.tokenizer import template_for, text_encoder
from alpaca.tracking.run_directory import newest_finished
from alpaca.training.precision import Compute, choose

OWN = "tokenizer"  # the option of conf/template that stands for a model's own chat template


@dataclass(frozen=True)
class Prompting:
    """How a model is asked.

    Attributes:
        template: the whole prompt of one question.
        message: for a model with a chat template of its own, the text of one user message in it; else None.
    """

    template: Template
    message: Template | None = None


@dataclass(frozen=True)
class Speaker:
    """A model ready to answer.

    Attributes:
        name: what stands above its answers, and its name as a server's model.
        about: model, adapter, template and precision, for one line.
        ends: ids that end an answer.
    """

    name: str
    about: str
    model: Any
    tokenizer: PreTrainedTokenizerBase
    encoder: TextEncoder
    prompting: Prompting
    ends: frozenset[int]
    compute: Compute

    @property
    def plain(self) -> Any:
        """The model without the adapter around it."""
        return self.model.get_base_model() if hasattr(self.model, "get_base_model") else self.model

    @property
    def positions(self) -> int | None:
        """Tokens of prompt and answer together that the model has positions for, where it says."""
        found = getattr(self.plain.config.get_text_config(), "max_position_embeddings", None)
        return int(found) if found else None


def open_speaker(reference: str, *, template: str | None = None, otherwise: Prompting | None = None) -> Speaker:
    """Load what `reference` names.

    Args:
        template: ask with this option of conf/template instead of the model's own.
        otherwise: how to ask a model that has no template.

    Raises:
        UserError: no such thing, a run that is not finished, a model that cannot be loaded or has no template.
        RunFailed: not enough memory.
    """
    quiet_libraries()
    folder = Path(reference).expanduser()
    try:
        with readable_model(folder):
            if (folder / "config.yaml").is_file():
                return _run(folder, template)
            if (folder / "config.json").is_file():
                return _folder(folder, template, otherwise)
            if folder.is_dir():
                raise UserError(f"{reference}: neither a run directory nor a model folder{_instead(folder)}")
            if reference in _options("model"):
                return _base(reference, template, otherwise)
    except torch.OutOfMemoryError:
        raise RunFailed(f"{reference}: not enough memory on this machine's device to load it") from None
    raise UserError(
        f"{reference}: no such folder; give a run directory (outputs/NAME/...), a folder with a model, or an option "
        "of conf/model such as smollm2_135m"
    )


def _run(folder: Path, template: str | None) -> Speaker:
    record = read_record(folder)
    compute = _compute(str(record.environment.get("precision", "auto")))
    dtype = torch.float32 if compute.precision == "fp32" else None
    finished = load_finished(folder, device=compute.device, dtype=dtype)
    config = record.config
    prompting = _option(finished.tokenizer, template)
    if prompting is None:
        chats = config.template.chat and finished.tokenizer.chat_template
        prompting = Prompting(finished.template, Template.from_config(config.template) if chats else None)
    return _speaker(
        _called(folder),
        f"{config.model.name}, adapter {config.adapter.name}",
        finished.model,
        finished.tokenizer,
        prompting,
        compute,
    )


def _folder(folder: Path, template: str | None, otherwise: Prompting | None) -> Speaker:
    compute = choose("auto")
    dtype = torch.float32 if compute.precision == "fp32" else "auto"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype, use_safetensors=True)
    prompting = _option(tokenizer, template)
    if prompting is None and (folder / "template.json").is_file():
        prompting = Prompting(read_template(folder))
    prompting = prompting or _by_itself(folder, tokenizer, otherwise)
    return _speaker(_called(folder), "a model folder", model.to(compute.device).eval(), tokenizer, prompting, compute)


def _base(name: str, template: str | None, otherwise: Prompting | None) -> Speaker:
    compute = choose("auto")
    settings: ModelConfig = model_of(name)
    tokenizer = load_tokenizer(settings)
    prompting = _option(tokenizer, template) or _by_itself(name, tokenizer, otherwise)
    model = load_model(settings, tokenizer, seed=0, dtype=compute.frozen_dtype, device=compute.device)
    return _speaker(name, "as it comes, not trained here", model.eval(), tokenizer, prompting, compute)


def _speaker(
    name: str,
    about: str,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    prompting: Prompting,
    compute: Compute,
) -> Speaker:
    if tokenizer.eos_token_id is None:
        raise UserError(f"{name}: its tokenizer has no EOS token, so no answer would end")
    ends = {int(tokenizer.eos_token_id)}
    if prompting.message is not None:  # chat models end a turn with a token of its own, listed here
        declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None) or []
        ends |= {int(one) for one in (declared if isinstance(declared, list) else [declared])}
    return Speaker(
        name=name,
        about=f"{about}, template {prompting.template.name}; {compute.precision} on {compute.device.type}",
        model=model,
        tokenizer=tokenizer,
        encoder=text_encoder(tokenizer),
        prompting=prompting,
        ends=frozenset(ends),
        compute=compute,
    )


def _compute(recorded: str) -> Compute:
    """The precision a run was computed in; where this device does not do it well, what a new run would choose."""
    best = choose("auto")
    if recorded == "fp32" or (recorded == "fp16" and best.device.type == "cuda"):
        return choose(recorded)
    return best


def _option(tokenizer: PreTrainedTokenizerBase, name: str | None) -> Prompting | None:
    """What `--template NAME` asks for, None where it was not given."""
    if name is None:
        return None
    if name not in (known := _options("template")):
        raise UserError(f"--template {name}: no such option; known: {', '.join(known)}")
    text = (paths.conf_dir() / "template" / f"{name}.yaml").read_text(encoding="utf-8")
    config = TemplateConfig(**yaml.safe_load(text))
    return Prompting(template_for(tokenizer, config), Template.from_config(config) if config.chat else None)


def _by_itself(reference: object, tokenizer: PreTrainedTokenizerBase, otherwise: Prompting | None) -> Prompting:
    """For a model that no run trained: its chat template, else how the other model is asked."""
    if tokenizer.chat_template:
        return _option(tokenizer, OWN)  # type: ignore[return-value]
    if otherwise is not None:
        return Prompting(otherwise.template)
    raise UserError(
        f"{reference}: it has no prompt template of its own; say how to ask it with --template NAME, such as "
        "--template alpaca"
    )


def _options(group: str) -> list[str]:
    return sorted(file.stem for file in (paths.conf_dir() / group).glob("*.yaml"))


def _called(folder: Path) -> str:
    """The folder's name; with the one around it where many are called the same."""
    whole = folder.resolve()
    return f"{whole.parent.name}/{whole.name}" if whole.name in ("export", "model") else whole.name


def _instead(folder: Path) -> str:
    """The run directory that was probably meant: the one around a result, or the newest finished one inside."""
    around = folder.resolve().parent
    if (around / "config.yaml").is_file():
        return f"; its run directory is {around}"
    return newest_finished(folder) or " (no config.yaml, no config.json)"
