"""A file of outputs as rows and their answers: scored without any model.

AlpacaEval's `model_outputs.json` has instruction and output; a run's `predictions*.jsonl` also the reference.
"""

from dataclasses import dataclass
from pathlib import Path

from alpaca.data.rows import Row, example_id
from alpaca.errors import UserError
from alpaca.evaluation.answering import Made
from alpaca.evaluation.judging.output_files import records_of, text_field

KEY = "RUN"


@dataclass(frozen=True)
class OutputSet:
    """Tasks with their answers, by id; a row's output is its reference or ""; `generator` is who answered."""

    rows: list[Row]
    made: list[Made]
    ids: list[str]
    generator: str


def read_output_set(path: Path) -> OutputSet:
    """The outputs of a file; records whose output is null, and those that come twice, are left out.

    Where a task has several answers, the second one's id is the task's with `-2` behind it, and so on.

    Raises:
        UserError: it cannot be read, has no outputs, or outputs without their instruction.
    """
    rows: dict[str, Row] = {}
    made: dict[str, Made] = {}
    answers: dict[str, list[str]] = {}
    generators: set[str] = set()
    for record in records_of(str(path), KEY):
        values = record.values
        if "output" not in values:
            has = ", ".join(str(key) for key in list(values)[:12]) or "nothing"
            raise UserError(f"{record.where}: no output in it (it has {has}); give a file of answers with `output`")
        if values["output"] is None:
            continue
        instruction = text_field(record, "instruction", KEY, default="") or text_field(
            record, "prompt", KEY, default=""
        )
        if not instruction:
            raise UserError(f"{record.where}: an output without its instruction; add a field `instruction`")
        reference = values.get("reference")
        row = Row(
            instruction,
            text_field(record, "input", KEY, default=""),
            reference if isinstance(reference, str) else "",
            record.line,
            text_field(record, "category", KEY, default="") or text_field(record, "dataset", KEY, default=""),
        )
        given = values.get("id")
        task = given if isinstance(given, str) and given else example_id(row)
        answer = _made(text_field(record, "output", KEY), values.get("scores"))
        same = answers.setdefault(task, [])
        if answer.text not in same:
            same.append(answer.text)
            key = task if len(same) == 1 else f"{task}-{len(same)}"
            rows[key], made[key] = row, answer
        generators.add(text_field(record, "generator", KEY, default=""))
    if not rows:
        raise UserError(f"{path}: no outputs in it; give a file of answers with instruction and output")
    generators -= {""}
    if len(generators) > 1:
        raise UserError(
            f"{path}: it holds the outputs of {len(generators)} generators ({', '.join(sorted(generators)[:3])}); "
            "keep those of one"
        )
    name = next(iter(generators), path.name.partition(".")[0])
    return OutputSet(list(rows.values()), list(made.values()), list(rows), name)


def _made(output: str, scores: object) -> Made:
    """The answer, with what an earlier scoring knew of its tokens and end."""
    known = scores if isinstance(scores, dict) else {}
    tokens, stopped = known.get("tokens"), known.get("stopped")
    if isinstance(tokens, (int, float)) and isinstance(stopped, (int, float)):
        return Made(output, int(tokens), bool(stopped))
    return Made(output, None, None)
