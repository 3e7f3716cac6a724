"""The section about scores: one dataclass per evaluation, and how answers are decoded for all of them."""

from dataclasses import dataclass, field

from alpaca.config.fields import EVALUATION, NOTHING, setting
from alpaca.config.judge import JudgeConfig

INSTRUCTION_SETS = ("held_out", "seed_holdout", "user_252", "vicuna_80", "alpaca_eval_805", "file")


@dataclass
class QuickConfig:
    """Evaluation `quick`: losses on the held-out rows before and after, and greedy answers scored by ROUGE-L."""

    generate_rows: int = setting(32, EVALUATION, "Held-out rows that are answered and scored", at_least=0)
    max_new_tokens: int = setting(128, EVALUATION, "Longest answer in tokens", at_least=1)
    batch_size: int = setting(16, NOTHING, "Answers decoded at once", at_least=1)
    watch_rows: int = setting(
        4,
        EVALUATION,
        "Held-out rows answered at every train.eval_every_steps, always the same ones; 0 measures losses only",
        at_least=0,
    )


@dataclass
class LossConfig:
    """Evaluation `loss`: the held-out loss apart for each category and each length of response."""

    lengths: list[int] = setting(
        [16, 64, 256], EVALUATION, "Bounds of the length buckets in response tokens, EOS included, rising."
    )
    by_category: bool = setting(
        True, EVALUATION, "Apart for each category of the rows, or each source of a mix; false: lengths only."
    )


@dataclass
class GenerateConfig:
    """Evaluation `generate`: answers to an instruction set, and what can be counted about them."""

    instructions: str = setting(
        "seed_holdout",
        EVALUATION,
        "held_out: the run's own held-out rows; seed_holdout: 32 shipped seed tasks; user_252, vicuna_80 and "
        "alpaca_eval_805 are fetched; file: the rows of `path`.",
        choices=INSTRUCTION_SETS,
    )
    path: str | None = setting(
        None, EVALUATION, "The file of instructions=file, or a local copy of a set that would be fetched."
    )
    rows: int | None = setting(None, EVALUATION, "Only the first rows of the set; null is all", at_least=1)


@dataclass
class SafetyConfig:
    """Evaluation `safety`: how often harmful and borderline-harmless requests are declined."""

    rows: int | None = setting(None, EVALUATION, "Only the first requests of each kind; null is all", at_least=1)


@dataclass
class LmEvalConfig:
    """Evaluation `lm_eval`: tasks of EleutherAI's harness by name."""

    tasks: list[str] = setting(["arc_easy", "hellaswag"], EVALUATION, "Names of tasks or groups: `lm-eval ls tasks`.")
    num_fewshot: int | None = setting(None, EVALUATION, "Examples in the prompt; null is each task's own", at_least=0)
    limit: int | None = setting(None, EVALUATION, "Only the first documents of each task; null is all", at_least=1)
    batch_size: int = setting(8, NOTHING, "Requests computed at once", at_least=1)
    include_path: str | None = setting(None, EVALUATION, "A folder with task files of your own.")


@dataclass
class DecodeConfig:
    """How answers are decoded for `generate`, `safety` and `judge`."""

    max_new_tokens: int = setting(512, EVALUATION, "Longest answer in tokens, EOS included", at_least=1)
    temperature: float = setting(0.0, EVALUATION, "Sampling; 0 is greedy", at_least=0, at_most=2)
    top_p: float = setting(1.0, EVALUATION, "Nucleus sampling", above=0, at_most=1)
    seed: int = setting(0, EVALUATION, "Seed of sampled answers, each row has its own from it", at_least=0)
    batch_size: int = setting(16, NOTHING, "Answers decoded at once", at_least=1)
    engine: str = setting(
        "local",
        EVALUATION,
        "Who answers. local: the model in this process; vllm: the same model in vLLM; openai: a server that has it.",
        choices=("local", "vllm", "openai"),
    )
    model: str | None = setting(
        None, EVALUATION, "The engine's name of the model; null is the result's folder, for openai it must be given."
    )
    base_url: str | None = setting(None, EVALUATION, "The OpenAI-compatible server that has the model.")
    concurrency: int = setting(64, NOTHING, "Requests under way at once, for vllm and openai", at_least=1)


@dataclass
class EvaluationConfig:
    """The chosen evaluations; one that is not chosen is null."""

    quick: QuickConfig | None = setting(None, EVALUATION, "Held-out losses and short greedy answers.")
    loss: LossConfig | None = setting(None, EVALUATION, "Held-out loss by category and length.")
    generate: GenerateConfig | None = setting(None, EVALUATION, "Answers to an instruction set.")
    safety: SafetyConfig | None = setting(None, EVALUATION, "Refusals of harmful and of harmless requests.")
    judge: JudgeConfig | None = setting(None, EVALUATION, "Pairwise comparison with a baseline by a model.")
    lm_eval: LmEvalConfig | None = setting(None, EVALUATION, "Tasks of EleutherAI's harness.")
    decode: DecodeConfig = field(default_factory=DecodeConfig)
