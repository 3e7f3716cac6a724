"""The section about pairwise judgement: who judges, against what, in which order, for how much."""

from dataclasses import dataclass
from typing import Any

from alpaca.config.engine import EngineConfig
from alpaca.config.fields import EVALUATION, NOTHING, setting


@dataclass
class JudgeConfig(EngineConfig):
    """Evaluation `judge`: a model compares each answer with a baseline's, or stored judgements are replayed."""

    baseline: str = setting(
        "references",
        EVALUATION,
        "What answers are compared with: another run's folder, a file of outputs, or `references`, the outputs that "
        "the evaluated rows came with.",
    )
    annotations: Any = setting(
        None,
        EVALUATION,
        "Stored judgements to replay, no model asked: a file or a list of files in AlpacaEval's form, or of scores "
        "from 1 to 10 in Vicuna's.",
    )
    leaderboard: str | None = setting(
        None, NOTHING, "A leaderboard in AlpacaEval's CSV form, beside which the result is placed."
    )
    engine: str = setting(
        "openai", EVALUATION, "Where the judge is asked.", choices=("openai", "openai_batch", "local", "vllm")
    )
    model: str | None = setting(
        None, EVALUATION, "The engine's name of the judge; null is gpt-4.1-mini, for local the embedded model."
    )
    base_url: str | None = setting(
        None, EVALUATION, "Any OpenAI-compatible server; null is OPENAI_BASE_URL of the environment, else OpenAI's own."
    )
    order: str = setting(
        "both",
        EVALUATION,
        "both: each pair is judged twice, each answer first once; random: once, in an order drawn by `seed`.",
        choices=("both", "random"),
    )
    form: str | None = setting(
        None,
        EVALUATION,
        "json: structured output; line: a last line `Verdict: A`. Null is json where the server takes it.",
        choices=("json", "line"),
    )
    rows: int | None = setting(None, EVALUATION, "Pairs to judge, drawn by `seed`; null is all", at_least=2)
    seed: int = setting(0, EVALUATION, "Random order, choice of `rows`, bootstrap", at_least=0)
    temperature: float = setting(0.0, EVALUATION, "Sampling of the judge; 0 is greedy", at_least=0, at_most=2)
    max_tokens: int = setting(
        512, EVALUATION, "Longest judgement in tokens; models that think first need thousands", at_least=8
    )
    resamples: int = setting(
        10_000, EVALUATION, "Bootstrap samples behind the interval of a ratio of scores from 1 to 10", at_least=1000
    )
    cache: bool = setting(
        True, NOTHING, "Take judgements that earlier runs paid for from the user's cache, and keep new ones there."
    )
    concurrency: int | None = setting(
        None, NOTHING, "Requests under way at once; null is 8, for local 16, vllm 256, openai_batch 1,000", at_least=1
    )
    give_up_after: int = setting(
        20, NOTHING, "Stop after this many judgements in a row that were lost after all retries", at_least=1
    )
