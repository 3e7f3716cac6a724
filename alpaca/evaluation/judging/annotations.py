"""AlpacaEval's annotations: read and matched to answers, so that stored judgements count again; and ours written.

A record is one judgement: `instruction`, `output_1` (the baseline's, by convention), `output_2` (the
model's), `generator_1`, `generator_2` and `preference` (see `win_rate`). It judges an answer when the task is the same
and one of the outputs is that answer; where the answer is `output_1`, the preference is turned round.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from alpaca.data.files import Record
from alpaca.errors import UserError
from alpaca.evaluation.answers import Answer
from alpaca.evaluation.judging.output_files import records_of, text_field
from alpaca.evaluation.judging.pairs import Judged, Judgement, Pair, full_instruction, task_key
from alpaca.evaluation.judging.settings import SECTION
from alpaca.evaluation.judging.win_rate import NoPreference, points_of

KEY = f"{SECTION}.annotations"


@dataclass(frozen=True)
class Annotation:
    """A record with what it says; an output is None where the record has none."""

    task: str
    output_1: str | None
    output_2: str | None
    generator_1: str
    generator_2: str
    points: float | None

    def points_for(self, answer: Answer) -> tuple[float | None, str | None] | None:
        """(points, the other side's output) where this judges `answer`; None where it judges other outputs."""
        mine = answer.output.strip()
        if self.output_2 is None or self.output_2.strip() == mine:
            return self.points, self.output_1
        if self.output_1 is not None and self.output_1.strip() == mine:
            return None if self.points is None else 1 - self.points, self.output_2
        return None


@dataclass(frozen=True)
class Replay:
    """Stored judgements of the answers.

    Attributes:
        judged: one for each annotation that counts, in the order of the answers; null ones have no points.
        null: annotations without a preference.
        unmatched: annotations of other tasks or other outputs.
        unjudged: answers without an annotation.
        baseline, model: names of the two sides, "" where the file does not say.
    """

    judged: list[Judged]
    null: int
    unmatched: int
    unjudged: int
    baseline: str
    model: str


def read_annotations(path: str) -> list[Annotation]:
    """All records of a file.

    Raises:
        UserError: the file cannot be read, or a record is no annotation; names the row.
    """
    return [_annotation(record) for record in records_of(path, KEY)]


def replay(annotations: Sequence[Annotation], answers: Sequence[Answer], source: str) -> Replay:
    """Match annotations to answers; several annotations of one answer count each, as in AlpacaEval.

    Raises:
        UserError: none matches; says how many tasks overlap.
    """
    by_task: dict[str, list[Annotation]] = defaultdict(list)
    for annotation in _of_one_model(annotations, answers, source):
        by_task[annotation.task].append(annotation)
    judged: list[Judged] = []
    others: set[str] = set()
    models: set[str] = set()
    overlap = null = matched = unjudged = 0
    for answer in _once(answers):
        here = by_task.get(task_key(answer.instruction, answer.input), [])
        overlap += bool(here)
        before = matched
        for annotation in here:
            if (found := annotation.points_for(answer)) is None:
                continue
            matched += 1
            points, other = found
            null += points is None
            pair = Pair(answer.id, answer.instruction, answer.input, answer.output, other, answer.dataset)
            judged.append(Judged(pair, (Judgement(points),)))
            others.add(annotation.generator_1)
            models.add(annotation.generator_2)
        unjudged += matched == before
    if not matched:
        raise UserError(_nothing_matched(source, len(annotations), len(answers), overlap))
    return Replay(
        judged=judged,
        null=null,
        unmatched=len(annotations) - matched,
        unjudged=unjudged,
        baseline=others.pop() if len(others) == 1 else "",
        model=models.pop() if len(models) == 1 else "",
    )


def annotations_of(judged: Iterable[Judged], *, model: str, baseline: str, judge: str) -> list[dict[str, Any]]:
    """Records in AlpacaEval's form: both orders averaged into one preference, null where there is no verdict."""
    return [
        {
            "instruction": full_instruction(one.pair.instruction, one.pair.input),
            "output_1": one.pair.baseline,
            "generator_1": baseline,
            "dataset": one.pair.dataset,
            "output_2": one.pair.model,
            "generator_2": model,
            "annotator": judge,
            "preference": None if one.points is None else 1 + one.points,
        }
        for one in judged
    ]


def _annotation(record: Record) -> Annotation:
    values = record.values
    if "preference" not in values:
        raise UserError(
            f"{KEY}: {record.where}: no field 'preference'; AlpacaEval's annotations have instruction, output_1, "
            f"output_2 and preference, this record has {', '.join(map(str, values)) or 'nothing'}"
        )
    try:
        points = points_of(values["preference"])
    except NoPreference as error:
        raise UserError(
            f"{KEY}: {record.where}: {error}; write 1 (output_1 is better) to 2 (output_2 is better), 1.5 or 0 for a "
            "draw, null for none"
        ) from None
    instruction = text_field(record, "instruction", KEY)
    outputs = [values.get(name) for name in ("output_1", "output_2")]
    for name, value in zip(("output_1", "output_2"), outputs, strict=True):
        if value is not None and not isinstance(value, str):
            raise UserError(f"{KEY}: {record.where}: {name} is no text")
    return Annotation(
        task=task_key(instruction, text_field(record, "input", KEY, default="")),
        output_1=outputs[0],
        output_2=outputs[1],
        generator_1=text_field(record, "generator_1", KEY, default=""),
        generator_2=text_field(record, "generator_2", KEY, default=""),
        points=points,
    )


def _of_one_model(annotations: Sequence[Annotation], answers: Sequence[Answer], source: str) -> Sequence[Annotation]:
    """The annotations of the answers' own generator where several are in the file and it is one of them."""
    generators = {annotation.generator_2 for annotation in annotations}
    if len(generators) <= 1:
        return annotations
    mine = {answer.generator for answer in answers if answer.generator}
    if len(mine) == 1 and mine <= generators:
        return [annotation for annotation in annotations if annotation.generator_2 in mine]
    if any(annotation.output_2 is None for annotation in annotations):
        raise UserError(
            f"{KEY}={source}: it judges {len(generators)} generators and does not say which output it judged; "
            "keep the records of one"
        )
    return annotations


def _once(answers: Sequence[Answer]) -> list[Answer]:
    return list({answer.id: answer for answer in reversed(answers)}.values())[::-1]


def _nothing_matched(source: str, annotations: int, answers: int, overlap: int) -> str:
    what = (
        f"{overlap:,} of {answers:,} instructions overlap, but with other outputs; give those of these outputs"
        if overlap
        else f"0 of {answers:,} instructions overlap; give those of the same instruction set"
    )
    return f"{KEY}={source}: none of its {annotations:,} annotations judges one of these answers: {what}"
