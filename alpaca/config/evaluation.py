"""The section about scores: one dataclass per evaluation."""

from dataclasses import dataclass

from alpaca.config.fields import EVALUATION, NOTHING, setting
from alpaca.config.judge import JudgeConfig


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
    judge: JudgeConfig | None = setting(None, EVALUATION, "Pairwise comparison with a baseline by a model.")
