"""The model card: what the model was made from, how, under which licences, and what it scored."""

import json
import re
from dataclasses import replace
from typing import Any

import yaml
from transformers import PreTrainedTokenizerBase

from alpaca import __version__, paths
from alpaca.data.encoding import encode_prompts
from alpaca.data.rows import Row
from alpaca.data.templates import Template
from alpaca.licences import Licensed, warning
from alpaca.modeling.adapters import FULL
from alpaca.modeling.finished import Record
from alpaca.modeling.identity import public_name
from alpaca.modeling.tokenizer import text_encoder
from alpaca.signature import RANDOM

HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
QUESTION = "Name three primary colours."
SHOW = 'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))\n'
SCORES = ("eval/loss", "eval/perplexity", "eval/bits_per_byte", "eval/token_accuracy", "eval/rougeL")


def model_card(record: Record, template: Template, *, form: str, usage: str, library: str = "transformers") -> str:
    """`README.md` of a saved or exported model, in Markdown with the hub's YAML header.

    Args:
        form: what is stored, in one sentence.
        usage: how to load it, in Markdown.
        library: what loads it.
    """
    config, lineage = record.config, record.data.get("lineage", {})
    base, parts = lineage.get("model", {}), lineage.get("data", [])
    licensed = [Licensed(f"model {base.get('name')}", base.get("license", ""))]
    licensed += [Licensed(f"data_source {part['name']}", part["license"]) for part in parts]
    rows = record.data.get("rows_trained", 0)
    title = f"{config.model.name}, {config.adapter.name}, {config.data_source.name}"
    sections = [
        f"---\n{yaml.safe_dump(_header(record, library, licensed), sort_keys=False)}---",
        f"# {title}",
        f"{config.model.name} ({_base(record)}), tuned on {rows:,} rows of "
        f"{config.data_source.name} with adapter `{config.adapter.name}` and template `{template.name}`. {form} "
        f"Trained with alpaca {__version__}; signature `{record.summary.get('signature')}`.",
        f"## Use\n\n{usage}",
        "## Licences\n\n" + _licences(base, parts, licensed),
        "## Scores\n\n" + _scores(record.summary),
        "## Data\n\n" + _data(record.data, parts),
        "## Settings\n\n```yaml\n" + (record.directory / "config.yaml").read_text(encoding="utf-8") + "```",
    ]
    return "\n\n".join(sections) + "\n"


def saved_card(record: Record, template: Template, tokenizer: PreTrainedTokenizerBase) -> str:
    """The card of a run's own `model/`, whose tokenizer is `tokenizer`."""
    usage = _saved_usage(record, template, tokenizer)
    if record.config.adapter.kind == FULL:
        return model_card(record, template, form="All weights, stored as float32.", usage=usage)
    return model_card(record, template, form="The adapter alone; it needs its base.", usage=usage, library="peft")


def _header(record: Record, library: str, licensed: list[Licensed]) -> dict[str, Any]:
    names = list(dict.fromkeys(one.license or "unknown" for one in licensed))
    header: dict[str, Any] = {
        "library_name": library,
        "pipeline_tag": "text-generation",
        "license": "other",
        "license_name": " and ".join(names),
        "tags": ["alpaca", "instruction-tuning"],
    }
    name, _ = _named(record)
    return header | ({"base_model": name} if HUB_ID.fullmatch(name) else {})


def _named(record: Record) -> tuple[str, str | None]:
    """Name and commit of the base as others can load it; a folder of this machine by its last part."""
    commit = record.data.get("lineage", {}).get("model", {}).get("revision")
    model = replace(record.config.model, revision=commit or record.config.model.revision)
    if model.weights == RANDOM:
        return "random weights", None
    name, commit = (model.weights, None) if _unnamed_package(model.weights, model.hub_id) else public_name(model)
    return (f"the folder {name.rsplit('/', 1)[-1]}" if name.startswith("/") else name), commit


def _unnamed_package(weights: str, hub_id: str) -> bool:
    return weights.startswith(paths.PACKAGE_PREFIX) and not hub_id


def _base(record: Record) -> str:
    name, commit = _named(record)
    weights = record.config.model.weights
    if weights.startswith(paths.PACKAGE_PREFIX) and record.config.model.hub_id:
        return f"{name}, as rounded in the file {weights.removeprefix(paths.PACKAGE_PREFIX)}"
    return f"{name} at commit {commit}" if commit else name


def exported_usage(template: Template) -> str:
    """How to ask an exported model, whose chat template is the run's prompt."""
    return (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained(".")\n'
        'model = AutoModelForCausalLM.from_pretrained(".")\n'
        f'messages = [{{"role": "user", "content": "{QUESTION}"}}]\n'
        'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
        "return_dict=True)\n"
        f"answer = model.generate(**inputs, max_new_tokens=256{_stop(template)})\n"
        f"{SHOW}"
        "```\n\n"
        "The chat template is the prompt the model was trained with. " + _with_input(template)
    )


def _saved_usage(record: Record, template: Template, tokenizer: PreTrainedTokenizerBase) -> str:
    """How to ask the model of a run directory: plain transformers or peft, the prompt written out."""
    prompt = template.prompt(Row(QUESTION, "", ""))
    (ids,) = encode_prompts([Row(QUESTION, "", "")], template, text_encoder(tokenizer))
    bare = "" if tokenizer(prompt)["input_ids"] == list(ids) else ", add_special_tokens=False"
    ends = f"eos_token_id={tokenizer.eos_token_id}, pad_token_id={tokenizer.pad_token_id}"
    adapter, lines = record.config.adapter, ["```python"]
    if adapter.kind == FULL:
        lines += ["from transformers import AutoModelForCausalLM, AutoTokenizer"]
        load = 'AutoModelForCausalLM.from_pretrained(".")'
    else:
        names = "AutoTokenizer" if adapter.bits is None else "AutoTokenizer, BitsAndBytesConfig"
        lines += ["import torch", "from peft import AutoPeftModelForCausalLM", f"from transformers import {names}"]
        load = f'AutoPeftModelForCausalLM.from_pretrained(".", dtype={record.stored}{_quantised(record)})'
    lines += [
        "",
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        f"model = {load}",
        f"prompt = {json.dumps(prompt)}",
        f'inputs = tokenizer(prompt, return_tensors="pt"{bare})',
        f"answer = model.generate(**inputs, max_new_tokens=256, do_sample=False, {ends}{_stop(template)})",
        f"{SHOW}```",
        "",
        _with_input(template),
    ]
    return "\n".join(lines)


def _quantised(record: Record) -> str:
    """The argument that quantises the base as the run had it."""
    adapter, dtype = record.config.adapter, record.stored
    if adapter.bits is None:
        return ""
    if adapter.bits == 8:
        return ", quantization_config=BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)"
    return (
        f', quantization_config=BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="{adapter.quant_type}", '
        f"bnb_4bit_use_double_quant={adapter.double_quant}, bnb_4bit_compute_dtype={dtype})"
    )


def _stop(template: Template) -> str:
    return f", stop_strings={json.dumps(list(template.stop))}, tokenizer=tokenizer" if template.stop else ""


def _with_input(template: Template) -> str:
    return f"With an input beside the instruction the prompt is:\n\n```\n{template.prompt_with_input}\n```"


def _licences(base: dict[str, Any], parts: list[dict[str, Any]], licensed: list[Licensed]) -> str:
    lines = [
        f"* base {base.get('name')}: {base.get('license') or 'unknown'}. {base.get('license_note') or ''}".rstrip()
    ]
    lines += [
        f"* data {part['name']}: {part['license'] or 'unknown'}. {part.get('license_note') or ''}".rstrip()
        for part in parts
    ]
    if found := warning(licensed):
        lines.append(f"\nNote: {found}.")
    return "\n".join(lines)


def _scores(summary: dict[str, Any]) -> str:
    rows = [
        f"| {name} | {_number(summary.get(f'{name}_before'))} | {_number(summary[name])} |"
        for name in SCORES
        if summary.get(name) is not None
    ]
    if not rows:
        return "The run chose no evaluation."
    return "\n".join(
        [
            "On held-out rows, before and after training:",
            "",
            "| metric | before | after |",
            "| --- | --- | --- |",
            *rows,
        ]
    )


def _number(value: Any) -> str:
    return f"{value:.4f}" if isinstance(value, float) else ""


def _data(data: dict[str, Any], parts: list[dict[str, Any]]) -> str:
    counts = (
        f"{data.get('rows_in', 0):,} rows in, {data.get('rows_trained', 0):,} trained, "
        f"{data.get('rows_evaluated', 0):,} held out, {data.get('rows_truncated', 0):,} truncated."
    )
    lines = [f"* {part['name']}: `{part['path']}`, content `{part['content_hash']}`" for part in parts]
    return "\n".join([counts, "", *lines])
