"""The schema: one dataclass per section of a run's configuration, plain values only.

Every field is made by `setting()`, which carries what the field means, which part of a result it can
change (`affects`) and the values it may take. `alpaca/checks.py` enforces the values,
`alpaca/signature.py` hashes the fields that affect training, `alpaca/cli.py` registers the schema with
Hydra as the first entry of the defaults list, so that an unknown key anywhere is an error.
"""

from copy import copy
from dataclasses import dataclass, field
from typing import Any

TRAINING = "training"  # enters the signature: two runs that differ here are different experiments
EVALUATION = "evaluation"  # changes scores, never weights
GENERATION = "generation"  # changes the instruction data that a generation makes; enters its signature
NOTHING = "nothing"  # changes where, how fast or under which name the same numbers appear


def setting(
    default: Any,
    affects: str,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its documentation and rules; `None` always passes the range rules."""
    metadata = {
        "affects": affects,
        "help": help,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "choices": choices,
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class ModelConfig:
    """The base model: where its weights come from and what shape it has."""

    name: str = setting("", NOTHING, "Name of the YAML; appears in tags and tables.")
    weights: str = setting(
        "",
        TRAINING,
        "Hub id, local folder, `package:MODULE/FILE.gguf` (a GGUF inside an installed package), or `random`.",
    )
    revision: str | None = setting(None, TRAINING, "Hub commit, tag or branch; null takes the newest and records it.")
    architecture: dict[str, Any] = setting(
        {}, TRAINING, "Sizes by the names of the model's transformers config; builds `random` weights."
    )
    dtype: str = setting(
        "auto",
        TRAINING,
        "Storage of frozen weights; auto is the compute precision. Trained weights are always fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    attention: str = setting(
        "auto",
        NOTHING,
        "Kernel for packed rows: segment (matrix products per segment, any device), varlen (GPU); auto chooses.",
        choices=("auto", "segment", "varlen"),
    )
    license: str = setting("", NOTHING, "SPDX-like name of the weights' licence.")
    license_note: str = setting("", NOTHING, "What the licence means for the result, in one sentence.")


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
        "Our field (instruction, input, output, category, messages) to the column that holds it; null leaves it empty.",
    )
    turns: str = setting(
        "single",
        TRAINING,
        "Conversations with several user turns: single refuses them, first takes the first turn and its answer.",
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


@dataclass
class AdapterConfig:
    """Which weights are trained."""

    name: str = setting("", NOTHING, "Name of the YAML; appears in tags and tables.")
    kind: str = setting("full", TRAINING, "full trains every weight, lora low-rank updates.", choices=("full", "lora"))
    rank: int = setting(8, TRAINING, "The LoRA rank", at_least=1)
    alpha: float = setting(16, TRAINING, "LoRA scaling: updates are multiplied by alpha / rank; it", above=0)
    dropout: float = setting(0.0, TRAINING, "Dropout before the LoRA A matrices", at_least=0, at_most=0.95)
    targets: list[str] = setting(
        [],
        TRAINING,
        "Linear layers that get LoRA: roles (all, attention, query_value, mlp) or names; empty means all.",
    )
    default_lr: float = setting(2e-5, TRAINING, "Peak learning rate where optimizer.lr is null", above=0)
    b_lr_ratio: float = setting(
        1.0, TRAINING, "LoRA+: the learning rate of the B matrices is this many times that of A", above=0
    )
    use_dora: bool = setting(False, TRAINING, "DoRA: a trained magnitude for each output beside the low-rank update.")
    use_rslora: bool = setting(False, TRAINING, "rsLoRA: updates are scaled by alpha / sqrt(rank).")
    init: str = setting(
        "default",
        TRAINING,
        "First A and B: default (uniform A, B zero), gaussian (normal A, B zero), pissa (principal singular "
        "vectors, taken out of the base).",
        choices=("default", "gaussian", "pissa"),
    )
    bits: int | None = setting(None, TRAINING, "Frozen linear layers in 4 or 8 bits; null leaves them as they are.")
    quant_type: str = setting("nf4", TRAINING, "Code of 4-bit weights.", choices=("nf4", "fp4"))
    double_quant: bool = setting(True, TRAINING, "Quantise the scales of 4-bit weights too: 0.37 bits a weight less.")


@dataclass
class OptimizerConfig:
    """Update rule, learning rate and schedule."""

    name: str = setting("", NOTHING, "Name of the YAML; appears in tags and tables.")
    kind: str = setting(
        "adamw",
        TRAINING,
        "The update rule.",
        choices=(
            "adamw",
            "adamw_8bit",
            "paged_adamw_8bit",
            "adafactor",
            "lion",
            "muon",
            "schedule_free",
            "sgd",
        ),
    )
    lr: float | None = setting(None, TRAINING, "Peak learning rate; null is adapter.default_lr x lr_factor", above=0)
    lr_factor: float = setting(1.0, TRAINING, "What this update rule multiplies adapter.default_lr by", above=0)
    betas: list[float] = setting([0.9, 0.999], TRAINING, "Decay rates of the two moments; empty for rules without.")
    eps: float | None = setting(1e-8, TRAINING, "Added to the denominator; null for rules without one. It", above=0)
    momentum: float | None = setting(
        None, TRAINING, "Decay rate of the summed gradients of sgd and muon; null elsewhere. It", at_least=0, at_most=1
    )
    weight_decay: float = setting(
        0.0, TRAINING, "Decoupled weight decay (sgd adds it to the gradient); 0 in the recipe", at_least=0
    )
    schedule: str = setting(
        "cosine", TRAINING, "Learning rate after warm-up.", choices=("cosine", "linear", "constant", "wsd")
    )
    warmup: float = setting(
        0.03, TRAINING, "Warm-up: a share of all steps below 1, a number of steps from 1 on; it", at_least=0
    )
    decay_share: float = setting(
        0.1, TRAINING, "With schedule=wsd the share of all steps over which the rate falls to 0; it", above=0, at_most=1
    )
    state_precision: str = setting(
        "fp32",
        TRAINING,
        "Storage of adamw's two moments; bf16 halves the optimizer's memory and rounds them by chance.",
        choices=("fp32", "bf16"),
    )


@dataclass
class ParallelismConfig:
    """How many devices work on one run, and how they share it. Never changes the experiment."""

    name: str = setting("", NOTHING, "Name of the YAML; appears in tags and tables.")
    sharding: str = setting(
        "none",
        NOTHING,
        "none: one device; replicate: a full copy on each (DDP); full: weights, gradients and optimizer state split "
        "(FSDP2); grad_op: whole weights stay from forward to backward; hybrid: split in a node, copied across nodes.",
        choices=("none", "replicate", "full", "grad_op", "hybrid"),
    )
    offload: bool = setting(False, NOTHING, "Keep split weights and optimizer state in the host's memory.")
    devices: int | None = setting(
        None, NOTHING, "Devices on each node; null is 1 on CPU and all accelerators otherwise", at_least=1
    )
    nodes: int = setting(1, NOTHING, "Machines that take part; the same command is run on each", at_least=1)
    rendezvous: str | None = setting(
        None, NOTHING, "HOST:PORT where several machines meet: the name of one of them and a free port."
    )
    timeout_s: float = setting(
        600, NOTHING, "A rank that does not move for so long is named and the run ends; it", above=0
    )


@dataclass
class TrainConfig:
    """The loop: what makes a step, how long it goes on, what is computed in which precision."""

    seed: int = setting(
        0, TRAINING, "Order of the examples, initial adapter weights and dropout", at_least=0, at_most=2**32 - 1
    )
    epochs: float = setting(3.0, TRAINING, "Passes over the training rows", above=0)
    max_steps: int | None = setting(None, TRAINING, "Stop after this many optimizer steps", at_least=1)
    global_batch_size: int = setting(128, TRAINING, "Examples per optimizer step over all ranks", at_least=1)
    micro_batch_tokens: int | None = setting(
        None, NOTHING, "Tokens one rank pushes through the model at once; null chooses by rule", at_least=16
    )
    max_length: int = setting(512, TRAINING, "Longest example in tokens, prompt and response", at_least=8)
    over_length: str = setting(
        "truncate",
        TRAINING,
        "A longer row: truncate cuts the end of its response, drop leaves it out, error stops.",
        choices=("truncate", "drop", "error"),
    )
    train_on_prompt: bool = setting(
        False, TRAINING, "Labels on the prompt's tokens too; held-out rows are scored on responses all the same."
    )
    train_on_eos: bool = setting(
        True, TRAINING, "Label on the EOS that ends a response; without it nothing learns to stop."
    )
    cache: bool = setting(True, NOTHING, "Keep tokenised rows in the cache folder and take them from there.")
    precision: str = setting(
        "auto",
        TRAINING,
        "Compute precision; auto is bf16 where the device does it well, else fp32.",
        choices=("auto", "bf16", "fp16", "fp32"),
    )
    packing: str = setting(
        "on",
        NOTHING,
        "on: a micro-batch is one flat sequence without padding; off: padded rows, for models that need it.",
        choices=("on", "off"),
    )
    share_prefix: str = setting(
        "auto",
        NOTHING,
        "Compute token prefixes that prompts have in common once; auto is on wherever it is exact.",
        choices=("auto", "on", "off"),
    )
    activation_checkpointing: str = setting(
        "off",
        NOTHING,
        "Make activations again in the backward pass instead of keeping them: on every layer, or every second one.",
        choices=("off", "on", "selective"),
    )
    compile: bool = setting(False, NOTHING, "Compile each layer with torch.compile; the first steps take minutes.")
    self_check: bool = setting(
        True,
        NOTHING,
        "Before training, compare the micro-batch with its examples one at a time; refuse if they differ.",
    )
    max_grad_norm: float | None = setting(
        1.0, TRAINING, "Clip the gradient to this norm; null does not clip. It", above=0
    )
    save_every_steps: int | None = setting(None, NOTHING, "Optimizer steps between two checkpoints", at_least=1)
    save_every_epoch: bool = setting(
        True, NOTHING, "A checkpoint after every epoch, the last one for scoring and saving to fall back on."
    )
    keep_checkpoints: int = setting(
        0, NOTHING, "Newest checkpoints left when the run is finished; while it runs at least one is kept", at_least=0
    )
    rehearse_save: bool = setting(
        True, NOTHING, "After the first step save everything once and discard it, so that trouble shows at once."
    )
    resume: str = setting(
        "auto",
        NOTHING,
        "auto: go on with the newest unfinished run of the same signature; never: begin a new one; or a run directory.",
    )
    on_oom: str = setting(
        "stop",
        NOTHING,
        "Out of memory: stop with advice, or halve_micro_batch and repeat the step (one device).",
        choices=("stop", "halve_micro_batch"),
    )
    eval_every_steps: int | None = setting(
        None, NOTHING, "Steps between two measurements of the held-out loss while training", at_least=1
    )
    eval_rows: int = setting(128, TRAINING, "Rows held out, chosen by a hash of their text", at_least=0)
    log_every_steps: int = setting(1, NOTHING, "Steps between two lines of metrics.jsonl", at_least=1)


@dataclass
class QuickConfig:
    """Evaluation `quick`: losses on the held-out rows before and after, and greedy answers scored by ROUGE-L."""

    generate_rows: int = setting(32, EVALUATION, "Held-out rows that are answered and scored", at_least=0)
    max_new_tokens: int = setting(128, EVALUATION, "Longest answer in tokens", at_least=1)
    batch_size: int = setting(16, NOTHING, "Answers decoded at once", at_least=1)


@dataclass
class EvaluationConfig:
    """The chosen evaluations; one that is not chosen is null."""

    quick: QuickConfig | None = setting(None, EVALUATION, "Held-out losses and short greedy answers.")


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
class GenerationConfig:
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
    base_url: str | None = setting(None, GENERATION, "Any OpenAI-compatible server; null is OpenAI's own.")
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
    seed: int = setting(0, GENERATION, "Choice of the examples, and sampling where the engine takes a seed", at_least=0)
    filters: TaskFilterConfig = field(default_factory=TaskFilterConfig)
    budget_usd: float | None = setting(None, NOTHING, "Dollars never to be exceeded; null is no limit", above=0)
    budget_tokens: int | None = setting(None, NOTHING, "Tokens never to be exceeded; null is no limit", at_least=1)
    price_prompt: float | None = setting(
        None, NOTHING, "Dollars for a million prompt tokens; null is the shipped price list", at_least=0
    )
    price_completion: float | None = setting(
        None, NOTHING, "Dollars for a million completion tokens; null is the shipped price list", at_least=0
    )
    concurrency: int | None = setting(
        None, NOTHING, "Requests under way at once; null is 8, for local 32, vllm 256, openai_batch 1,000", at_least=1
    )
    lag: int = setting(
        64,
        GENERATION,
        "Request k shows tasks kept from requests up to k - lag only, so that concurrency changes nothing; it",
        at_least=1,
    )
    timeout_s: float = setting(120.0, NOTHING, "Seconds one attempt may take", above=0)
    retries: int = setting(6, NOTHING, "Attempts after the first", at_least=0)
    poll_s: float = setting(30.0, NOTHING, "Seconds between two looks at a batch, for openai_batch", above=0)
    give_up_after: int = setting(
        50, NOTHING, "Stop after this many requests in a row from which nothing was kept", at_least=1
    )


@dataclass
class TrackerConfig:
    """Weights & Biases. The run directory is always written, whatever is chosen here."""

    name: str = setting("", NOTHING, "Name of the YAML.")
    mode: str = setting(
        "auto",
        NOTHING,
        "auto is online when a key is configured, else offline.",
        choices=("auto", "online", "offline", "disabled"),
    )
    project: str = setting("alpaca", NOTHING, "W&B project.")
    entity: str | None = setting(None, NOTHING, "W&B user or team; null is the key's default.")
    group: str | None = setting(None, NOTHING, "W&B group; null is the run's name.")


@dataclass
class SweepConfig:
    """How the runs of a multirun are worked off."""

    parallel_jobs: int = setting(
        1, NOTHING, "Runs of a multirun at once on this machine, each with accelerators of its own", at_least=1
    )


@dataclass
class Config:
    """A run: `python -m alpaca.run` composes one of these from `conf/` and the command line."""

    name: str = setting("run", NOTHING, "Folder under outputs/ and W&B group of runs that belong together.")
    output_dir: str | None = setting(None, NOTHING, "Folder of this run; null is outputs/<name>/<time>-<signature>.")
    notes: str = setting("", NOTHING, "Free text, logged with the run.")
    extra_tags: list[str] = setting([], NOTHING, "W&B tags beside the computed ones.")
    model: ModelConfig = field(default_factory=ModelConfig)
    data_source: DataSourceConfig = field(default_factory=DataSourceConfig)
    template: TemplateConfig = field(default_factory=TemplateConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    parallelism: ParallelismConfig = field(default_factory=ParallelismConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    sweep: SweepConfig = field(default_factory=SweepConfig)
