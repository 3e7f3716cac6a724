"""What a generation's settings mean: values left null filled by rule, and the checks before anything is opened.

An API model gets the recipe's numbers. A model that runs here is small and slow, so it gets short
requests: a few examples, one task, sampling that keeps it on its rails. Nothing heavy is imported.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

from alpaca import paths
from alpaca.config import GenerationConfig
from alpaca.engines.section import address, check_engine
from alpaca.errors import UserError

SECTION = "generation"
SELF_INSTRUCT, REANSWER, EVOLVE = "self_instruct", "reanswer", "evolve"
COMPLETION_PROMPTS = ("alpaca", "compact")
EMBEDDED_MODEL = "smollm2_135m"  # a name in conf/model
API_MODEL = "gpt-4.1-mini"

_API_VALUES = {"prompt": "alpaca_chat", "temperature": 1.0, "top_p": 1.0, "max_tokens": 3072}
_LOCAL_VALUES = {"prompt": "compact", "temperature": 0.6, "top_p": 1.0, "max_tokens": 96, "max_example_words": 40}


def resolved(generation: GenerationConfig) -> GenerationConfig:
    """The section with every null that a rule can fill filled in; what the signature hashes and the run records."""
    here = generation.engine == "local"
    rule: dict[str, Any] = dict(_LOCAL_VALUES if here else _API_VALUES)
    rule["seed_examples"] = 3
    rule["base_url"] = address(generation)
    rule["model"] = EMBEDDED_MODEL if here else API_MODEL
    rule["concurrency"] = {"openai_batch": 1000, "vllm": 256, "local": 32}.get(generation.engine, 8)
    if generation.api == "completions" and generation.prompt is None:
        rule["prompt"] = "alpaca"
    filled = replace(generation, **{key: value for key, value in rule.items() if getattr(generation, key) is None})
    if filled.api is None:
        completes = filled.mode == SELF_INSTRUCT and filled.prompt in COMPLETION_PROMPTS
        filled.api = "completions" if completes else "chat"
    if filled.tasks_per_request is None:
        shown = (filled.seed_examples or 0) + filled.machine_examples
        filled.tasks_per_request = shown + 1 if here else max(20, shown + 1)
    return filled


def check_generation(generation: GenerationConfig) -> None:
    """Raise `UserError` for the first setting that cannot work; ranges were checked with all other sections.

    Reads the seeds, so that a malformed line is found before a request is paid for.
    """
    filled = resolved(generation)
    _check_limits(filled)
    check_engine(filled, SECTION)
    _check_prompt(filled)
    _check_filters(filled)
    if filled.mode == SELF_INSTRUCT:
        from alpaca.selfinstruct.seeds import load_seeds, short_enough

        _check_seeds(filled, len(short_enough(load_seeds(filled.seeds), filled.max_example_words)))
    elif not filled.path:
        raise UserError(
            f"generation.path is missing: generation.mode={filled.mode} works on existing rows; "
            "give generation.path=FILE, or package:alpaca.data/seed_tasks.jsonl"
        )
    else:
        input_files(filled)


def _check_seeds(filled: GenerationConfig, seeds: int) -> None:
    shown = (filled.seed_examples or 0) + filled.machine_examples  # seeds stand in for own tasks at first
    if shown > seeds:
        short = f" of at most {filled.max_example_words} words" if filled.max_example_words else ""
        raise UserError(
            f"generation.seed_examples={filled.seed_examples} and machine_examples={filled.machine_examples}: "
            f"{filled.seeds} has {seeds} seeds{short}, fewer than a request shows; add seeds or show fewer"
        )


def input_files(filled: GenerationConfig) -> list[str]:
    """The files of `generation.path`, found now rather than after a model was loaded."""
    from alpaca.data import files
    from alpaca.signature import HUB_PREFIX

    path = filled.path
    if isinstance(path, str) and path.startswith(HUB_PREFIX):
        return [path]
    if isinstance(path, str) and path.startswith(paths.PACKAGE_PREFIX):
        return [str(paths.packaged_file(path, key="generation.path"))]
    try:
        return files.locations(path)
    except UserError as error:
        raise UserError(str(error).replace(files.KEY, "generation.path")) from None


def _check_limits(filled: GenerationConfig) -> None:
    if filled.target is None and filled.mode != REANSWER:
        raise UserError(
            f"generation.target is missing: say how many tasks to keep, generation.target=1000; "
            f"only generation.mode={REANSWER} knows its end by itself"
        )
    samples_own = filled.mode == EVOLVE or filled.machine_examples > 0
    if samples_own and filled.lag < (filled.concurrency or 1):
        raise UserError(
            f"generation.lag={filled.lag}: with generation.concurrency={filled.concurrency} a request would need tasks "
            f"that are not there yet; set generation.lag={filled.concurrency} or more, or lower the concurrency"
        )
    if filled.machine_examples and filled.mode != SELF_INSTRUCT:
        raise UserError(
            f"generation.machine_examples={filled.machine_examples}: generation.mode={filled.mode} shows no examples; "
            "leave it 0"
        )
    if filled.machine_examples and not filled.seed_examples:
        raise UserError(
            "generation.seed_examples=0 with machine_examples above 0: the first requests would show nothing; "
            "set generation.seed_examples=1 or more"
        )


def _check_prompt(filled: GenerationConfig) -> None:
    if filled.mode != SELF_INSTRUCT:
        return
    needed = "completions" if filled.prompt in COMPLETION_PROMPTS else "chat"
    if filled.api != needed:
        other = "alpaca" if filled.api == "completions" else "alpaca_chat"
        raise UserError(
            f"generation.prompt={filled.prompt} with generation.api={filled.api}: this prompt needs api={needed}; "
            f"leave generation.api null, or choose generation.prompt={other}"
        )
    shown = (filled.seed_examples or 0) + filled.machine_examples
    if (filled.tasks_per_request or 0) <= shown:
        raise UserError(
            f"generation.tasks_per_request={filled.tasks_per_request}: {shown} of them are examples, so nothing new is "
            f"asked for; set generation.tasks_per_request={shown + 1} or more"
        )


def _check_filters(filled: GenerationConfig) -> None:
    filters = filled.filters
    if filters.min_words > filters.max_words:
        raise UserError(
            f"generation.filters.min_words={filters.min_words} is above max_words={filters.max_words}: "
            "no instruction could pass; swap them"
        )


def seeds_file(seeds: str) -> Path:
    """Where `generation.seeds` is."""
    if seeds.startswith(paths.PACKAGE_PREFIX):
        return paths.packaged_file(seeds, key="generation.seeds")
    return Path(seeds).expanduser()
