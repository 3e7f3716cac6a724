"""The model card: what the model was made from, how, under which licences, and what it scored."""

import json
from typing import Any

import torch
import yaml

from alpaca import __version__
from alpaca.data.templates import Template
from alpaca.licences import Licensed, warning
from alpaca.modeling.finished import Record

SCORES = ("eval/loss", "eval/perplexity", "eval/bits_per_byte", "eval/token_accuracy", "eval/rougeL")


def model_card(record: Record, template: Template, dtype: torch.dtype) -> str:
    """`README.md` of an exported model, in Markdown with the hub's YAML header."""
    config, lineage = record.config, record.data.get("lineage", {})
    base, parts = lineage.get("model", {}), lineage.get("data", [])
    licensed = [Licensed(f"model {base.get('name')}", base.get("license", ""))]
    licensed += [Licensed(f"data_source {part['name']}", part["license"]) for part in parts]
    rows = record.data.get("rows_trained", 0)
    title = f"{config.model.name}, {config.adapter.name}, {config.data_source.name}"
    sections = [
        f"---\n{yaml.safe_dump(_header(config.model.weights, licensed), sort_keys=False)}---",
        f"# {title}",
        f"{config.model.name} ({config.model.weights}), tuned on {rows:,} rows of "
        f"{config.data_source.name} with adapter `{config.adapter.name}` and template `{template.name}`. Merged, "
        f"stored as {str(dtype).removeprefix('torch.')}. Trained and exported with alpaca {__version__}; signature "
        f"`{record.summary.get('signature')}`.",
        "## Use\n\n" + _usage(template),
        "## Licences\n\n" + _licences(base, parts, licensed),
        "## Scores\n\n" + _scores(record.summary),
        "## Data\n\n" + _data(record.data, parts),
        "## Settings\n\n```yaml\n" + (record.directory / "config.yaml").read_text(encoding="utf-8") + "```",
    ]
    return "\n\n".join(sections) + "\n"


def _header(weights: str, licensed: list[Licensed]) -> dict[str, Any]:
    names = list(dict.fromkeys(one.license or "unknown" for one in licensed))
    header: dict[str, Any] = {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "license": "other",
        "license_name": " and ".join(names),
        "tags": ["alpaca", "instruction-tuning"],
    }
    is_hub_id = weights.count("/") == 1 and not weights.startswith((".", "/", "~", "package:"))
    return header | ({"base_model": weights} if is_hub_id else {})


def _usage(template: Template) -> str:
    stop = f", stop_strings={json.dumps(list(template.stop))}, tokenizer=tokenizer" if template.stop else ""
    return (
        "```python\n"
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained(".")\n'
        'model = AutoModelForCausalLM.from_pretrained(".")\n'
        'messages = [{"role": "user", "content": "Name three primary colours."}]\n'
        'inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", '
        "return_dict=True)\n"
        f"answer = model.generate(**inputs, max_new_tokens=256{stop})\n"
        'print(tokenizer.decode(answer[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))\n'
        "```\n\n"
        "The chat template is the prompt the model was trained with. With an input beside the instruction it is:\n\n"
        f"```\n{template.prompt_with_input}\n```"
    )


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
