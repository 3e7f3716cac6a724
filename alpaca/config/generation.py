"""The section about making instruction data with a model."""

from dataclasses import dataclass, field
from typing import Any

from alpaca.config.engine import EngineConfig
from alpaca.config.fields import GENERATION, NOTHING, setting


@dataclass
class TaskFilterConfig:
    """Which filters a generated task must pass, each by name, and their numbers. Seeds are never filtered."""

    length: bool = setting(True, GENERATION, "Drop instructions with too few or too many words.")
    min_words: int = setting(4, GENERATION, "Shortest instruction in words; 4 in the recipe", at_least=1)
    max_words: int = setting(150, GENERATION, "Longest instruction in words; 150 in the recipe", at_least=1)
    unsuitable_words: bool = setting(
        True, GENERATION, "Drop instructions that name what a text model cannot see or do: image, file, video ..."
    )
    write_a_program: bool = setting(True, GENERATION, "Drop instructions that open with `Write a program`.")
    punctuation_start: bool = setting(True, GENERATION, "Drop instructions that open with punctuation.")
    non_ascii_start: bool = setting(True, GENERATION, "Drop instructions that open with a non-ASCII character.")
    empty_output: bool = setting(True, GENERATION, "Drop tasks without an output.")
    language: bool = setting(True, GENERATION, "Drop instructions that are not in Latin script.")
    min_latin_letters: float = setting(
        0.8, GENERATION, "Share of an instruction's letters that must be Latin", at_least=0, at_most=1
    )
    too_long: bool = setting(True, GENERATION, "Drop tasks with too many words in all.")
    max_task_words: int = setting(1000, GENERATION, "Most words of instruction, input and output together", at_least=1)
    leaked_numbering: bool = setting(True, GENERATION, "Drop tasks that carry on the list inside a field.")
    merged_tasks: bool = setting(True, GENERATION, "Drop tasks with the label of another field inside a field.")
    prompt_leak: bool = setting(True, GENERATION, "Drop instructions that speak of the request that made them.")
    echo: bool = setting(True, GENERATION, "Drop tasks whose output repeats the instruction or the input.")
    repetition: bool = setting(True, GENERATION, "Drop outputs that go round in circles.")
    max_repetition: float = setting(
        0.5, GENERATION, "Largest share of an output's word triples that occurred before", at_least=0, at_most=1
    )
    refusal: bool = setting(True, GENERATION, "Drop outputs in which the model declines or speaks of itself.")
    hollow_output: bool = setting(False, GENERATION, "Drop outputs of stop words and punctuation only.")
    unsafe: bool = setting(True, GENERATION, "Drop tasks that ask for help with serious harm, by key words.")
    licence_text: bool = setting(False, GENERATION, "Drop tasks with copyright or licence notices.")
    personal_data: bool = setting(False, GENERATION, "Drop tasks with e-mail addresses, phone or card numbers.")


@dataclass
class GenerationConfig(EngineConfig):
    """Making instruction data with a model: which one, asked how, filtered how, for how much."""

    name: str = setting("", NOTHING, "Name of the YAML; appears in tags and tables.")
    mode: str = setting(
        "self_instruct",
        GENERATION,
        "self_instruct: new tasks from examples; reanswer: new outputs for `path`; evolve: harder variants of `path`.",
        choices=("self_instruct", "reanswer", "evolve"),
    )
    target: int | None = setting(
        None, GENERATION, "Tasks to keep, seeds not counted; null is every row, for mode=reanswer", at_least=1
    )
    engine: str = setting(
        "openai", GENERATION, "Where text comes from.", choices=("openai", "openai_batch", "local", "vllm")
    )
    model: str | None = setting(
        None, GENERATION, "The engine's name of the model; null is gpt-4.1-mini, for local the embedded model."
    )
    base_url: str | None = setting(
        None, GENERATION, "Any OpenAI-compatible server; null is OPENAI_BASE_URL of the environment, else OpenAI's own."
    )
    api: str | None = setting(
        None,
        GENERATION,
        "chat or completions; null is what the prompt needs. The vllm and local engines take both.",
        choices=("chat", "completions"),
    )
    prompt: str | None = setting(
        None,
        GENERATION,
        "alpaca: a list to continue; alpaca_chat: the same for chat models; json: structured output; "
        "compact: a list without requirements, for small models. Null is alpaca_chat, for local compact.",
        choices=("alpaca", "alpaca_chat", "json", "compact"),
    )
    seeds: str = setting(
        "package:alpaca.data/seed_tasks.jsonl", GENERATION, "Seed tasks: JSONL with instruction, input, output."
    )
    path: Any = setting(None, GENERATION, "Rows that reanswer and evolve work on; written as data_source.path.")
    columns: dict[str, Any] = setting({}, GENERATION, "Our field to the column of `path`, as data_source.columns.")
    seed_examples: int | None = setting(
        None, GENERATION, "Seeds shown in each request; null is 3, as in the recipe", at_least=0
    )
    machine_examples: int = setting(
        0, GENERATION, "Kept tasks shown in each request beside the seeds; Self-Instruct shows 6 and 2", at_least=0
    )
    max_example_words: int | None = setting(
        None, GENERATION, "Longest task shown as an example, in words; null is any, for local 40", at_least=10
    )
    tasks_per_request: int | None = setting(
        None,
        GENERATION,
        "Length of the list in a request, shown examples included; null is 20 as in the recipe, for local one new task",
        at_least=1,
    )
    temperature: float | None = setting(None, GENERATION, "Sampling; null is 1, for local 0.6", at_least=0, at_most=2)
    top_p: float | None = setting(None, GENERATION, "Nucleus sampling; null is 1", above=0, at_most=1)
    max_tokens: int | None = setting(
        None, GENERATION, "Longest answer in tokens; null is 3,072 as in the recipe, for local 96", at_least=1
    )
    responses_per_instruction: int = setting(
        1, GENERATION, "Outputs for each instruction, a row for each", at_least=1, at_most=100
    )
    rouge_threshold: float = setting(
        0.7,
        GENERATION,
        "An instruction with a ROUGE-L F1 above this to a seed or a kept one goes; it",
        above=0,
        at_most=1,
    )
    similar: bool = setting(
        False, NOTHING, "Record with each kept task its ten most similar ones and its mean similarity."
    )
    seed: int | None = setting(
        0,
        GENERATION,
        "Choice of the examples, and sampling where the engine takes a seed; null chooses as 0 does and sends none",
        at_least=0,
    )
    filters: TaskFilterConfig = field(default_factory=TaskFilterConfig)
    concurrency: int | None = setting(
        None, NOTHING, "Requests under way at once; null is 8, for local 32, vllm 256, openai_batch 1,000", at_least=1
    )
    lag: int = setting(
        64,
        GENERATION,
        "Request k shows tasks kept from requests up to k - lag only, so that concurrency changes nothing; it",
        at_least=1,
    )
    give_up_after: int = setting(
        50, NOTHING, "Stop after this many requests in a row from which nothing was kept", at_least=1
    )
