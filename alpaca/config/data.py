"""The sections about the data: where rows come from, and the prompt around them."""

from dataclasses import dataclass, field
from typing import Any

from alpaca.config.fields import EVALUATION, NOTHING, TRAINING, setting


@dataclass
class FilterConfig:
    """Length bounds of a row's texts, both ends included; null is no bound. Held-out rows are not filtered."""

    unit: str = setting("words", TRAINING, "What is counted.", choices=("words", "characters"))
    min_instruction: int | None = setting(None, TRAINING, "Shortest instruction", at_least=0)
    max_instruction: int | None = setting(None, TRAINING, "Longest instruction", at_least=0)
    min_input: int | None = setting(None, TRAINING, "Shortest input; a row without input has length 0. It", at_least=0)
    max_input: int | None = setting(None, TRAINING, "Longest input", at_least=0)
    min_output: int | None = setting(None, TRAINING, "Shortest output", at_least=0)
    max_output: int | None = setting(None, TRAINING, "Longest output", at_least=0)


@dataclass
class DataSourceConfig:
    """Where rows come from and which of them are used. Every knob acts on training rows, after rows are held out."""

    name: str = setting("", NOTHING, "Name of the YAML; appears in tags and tables.")
    path: Any = setting(
        None,
        TRAINING,
        "`hub:OWNER/NAME`, `package:MODULE/FILE`, or files: a path, glob or fsspec URL, or a list of these. "
        "JSON, JSONL, CSV and Parquet, plain, .gz or .zst.",
    )
    revision: str | None = setting(None, TRAINING, "Hub commit, tag or branch; null takes the newest and records it.")
    subset: str | None = setting(None, TRAINING, "Configuration of a hub data set that has several.")
    split: str = setting("train", TRAINING, "Split of a hub data set.")
    columns: dict[str, Any] = setting(
        {},
        TRAINING,
        "Our field (instruction, input, output, category, messages, system, weight) to the column that holds it; null "
        "leaves it empty. system goes before the instruction; rows of weight 0 or false are left out.",
    )
    turns: str = setting(
        "single",
        TRAINING,
        "Conversations with messages after the first answer: single refuses them, first leaves those messages out.",
        choices=("single", "first"),
    )
    mix: dict[str, float] = setting(
        {}, TRAINING, "Other sources by name to their share of the training rows; shares are relative."
    )
    sources: dict[str, Any] = setting(
        {}, NOTHING, "Settings of each source in `mix`; filled from conf/data_source/NAME.yaml, given keys win."
    )
    with_input: str = setting(
        "any", TRAINING, "Rows with an input, without one, or any.", choices=("any", "only", "without")
    )
    clean: bool = setting(False, TRAINING, "Drop rows with a defect named in alpaca/data/defects.py.")
    filter: FilterConfig = field(default_factory=FilterConfig)
    deduplicate: str = setting(
        "none",
        TRAINING,
        "exact drops rows equal to an earlier one in normalised text, rouge also near-duplicate prompts.",
        choices=("none", "exact", "rouge"),
    )
    rouge_threshold: float = setting(
        0.7,
        TRAINING,
        "With deduplicate=rouge, a prompt with a ROUGE-L F1 above this is a duplicate; it",
        above=0,
        at_most=1,
    )
    fraction: float | None = setting(
        None, TRAINING, "Share of the training rows to use; a smaller share is part of a larger one", above=0, at_most=1
    )
    limit: int | None = setting(
        None, TRAINING, "Use at most this many training rows (after held-out rows).", at_least=1
    )
    shuffle_seed: int = setting(
        0, TRAINING, "Order in which `mix`, `fraction` and `limit` pick rows; apart from train.seed", at_least=0
    )
    license: str = setting("", NOTHING, "Licence of the rows.")
    license_note: str = setting("", NOTHING, "What the licence means for the result, in one sentence.")


@dataclass
class TemplateConfig:
    """The prompt around a row; `{instruction}` and `{input}` are replaced once, everything else is literal."""

    name: str = setting("", NOTHING, "Name of the YAML; appears in tags and tables.")
    prompt_with_input: str = setting("", TRAINING, "Prompt of a row that has an input.")
    prompt_without_input: str = setting("", TRAINING, "Prompt of a row whose input is empty after stripping.")
    stop: list[str] = setting([], EVALUATION, "Strings that end a generated answer, besides EOS.")
    chat: bool = setting(
        False, TRAINING, "Put the prompt as the user's message into the chat template of the model's tokenizer."
    )
