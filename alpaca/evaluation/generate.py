"""Evaluation `generate`: answers to an instruction set, and what can be counted about them."""

from collections.abc import Sequence

from alpaca.data.rows import Row, example_id
from alpaca.data.templates import Template
from alpaca.evaluation.answering import Answerer, Made, OnDone
from alpaca.evaluation.scores import Scores, declared
from alpaca.evaluation.text_metrics import DIRECTIONS as OF_TEXTS
from alpaca.evaluation.text_metrics import Text, set_metrics, text_scores

PREFIX = "eval/generate/"
DIRECTIONS = {f"{PREFIX}{name}": direction for name, direction in OF_TEXTS.items()}


def generate(rows: Sequence[Row], template: Template, answerer: Answerer, on_done: OnDone) -> Scores:
    """Answer `rows` and score the answers; metrics are `eval/generate/*`."""
    return scored(rows, answerer(rows, on_done), template)


def scored(rows: Sequence[Row], made: Sequence[Made], template: Template | None = None) -> Scores:
    """Scores of answers that are there; without a template the records have no prompt."""
    texts = [Text(one.text, row.output or None, one.tokens, one.stopped) for row, one in zip(rows, made, strict=True)]
    each = [text_scores(text) for text in texts]
    records = [
        {
            "id": example_id(row),
            "instruction": row.instruction,
            "input": row.input,
            "category": row.category,
            "prompt": template.prompt(row) if template is not None else None,
            "reference": row.output or None,
            "output": one.text,
            "scores": numbers,
        }
        for row, one, numbers in zip(rows, made, each, strict=True)
    ]
    metrics = {f"{PREFIX}{name}": value for name, value in set_metrics(texts, each).items()}
    return Scores(metrics, records, declared(metrics, DIRECTIONS))
