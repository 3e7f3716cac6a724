"""The other side of each pair: outputs of another run, of a file, or those the rows came with.

Tasks are paired by id, and by the text of instruction and input where a file has no ids.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from alpaca.errors import UserError
from alpaca.evaluation.answers import Answer
from alpaca.evaluation.judging.output_files import MODEL_OUTPUTS, Output, read_outputs
from alpaca.evaluation.judging.pairs import Pair, task_key
from alpaca.evaluation.judging.settings import REFERENCES, SECTION
from alpaca.tracking.run_directory import FINISHED, status

KEY = f"{SECTION}.baseline"


@dataclass
class Baseline:
    """Outputs by task, and what to call them."""

    name: str
    source: str
    by_id: dict[str, str] = field(default_factory=dict)
    by_task: dict[str, str] = field(default_factory=dict)
    tasks: int = 0

    def output_for(self, answer: Answer) -> str | None:
        """The baseline's output for the task of `answer`; None where it has none."""
        by_id = self.by_id.get(answer.id)
        return by_id if by_id is not None else self.by_task.get(task_key(answer.instruction, answer.input))

    def covered(self, answers: Iterable[Answer]) -> int:
        """How many of the answers have a counterpart."""
        return sum(self.output_for(answer) is not None for answer in answers)


def load_baseline(reference: str, answers: Sequence[Answer], references: Mapping[str, str] | None) -> Baseline:
    """The baseline that `evaluation.judge.baseline` names.

    Args:
        references: id to the output that the evaluated row came with; None where rows came without.

    Raises:
        UserError: it does not exist or cannot be read, or it answers none of these tasks.
    """
    if reference == REFERENCES:
        found = _of_references(references)
    elif (place := Path(reference).expanduser()).is_dir():
        found = _of_folder(place, answers)
    else:
        found = _of_outputs(read_outputs(reference, KEY), Path(reference).stem, reference)
    if not found.covered(answers):
        raise UserError(
            f"{KEY}={reference}: it answers another instruction set: none of the {len(answers):,} tasks answered here "
            f"is among its {found.tasks:,} ({found.source}); evaluate both on the same set"
        )
    return found


def pairs_with(answers: Sequence[Answer], baseline: Baseline) -> list[Pair]:
    """A pair for each answer that the baseline has a counterpart to, each task once."""
    pairs: dict[str, Pair] = {}
    for answer in answers:
        other = baseline.output_for(answer)
        if other is not None and answer.id not in pairs:
            pairs[answer.id] = Pair(answer.id, answer.instruction, answer.input, answer.output, other, answer.dataset)
    return list(pairs.values())


def _of_references(references: Mapping[str, str] | None) -> Baseline:
    if not references:
        raise UserError(
            f"{KEY}={REFERENCES}: these answers come without references; name what to compare with, {KEY}=OTHER_RUN or "
            f"{KEY}=model_outputs.json"
        )
    return Baseline(REFERENCES, "the rows' own outputs", by_id=dict(references), tasks=len(references))


def _of_folder(folder: Path, answers: Sequence[Answer]) -> Baseline:
    """The file of a run's answers that has the most of these tasks; of equals one that was answered, not judged."""
    predictions = sorted(folder.glob("predictions*.jsonl"), key=lambda file: (file.stem.endswith("-judge"), file.name))
    outputs = [file for place in ("", "*/") for file in sorted(folder.glob(f"{place}{MODEL_OUTPUTS}"))]
    files = [file for file in (*predictions, *outputs) if file.stat().st_size]
    found = [
        _of_outputs(read_outputs(str(file), KEY), folder.resolve().name, str(file.relative_to(folder)))
        for file in files
    ]
    if not any(baseline.tasks for baseline in found):
        if (folder / "config.yaml").is_file() and status(folder) != FINISHED:
            raise UserError(f"{KEY}={folder}: this run is not finished and has no answers yet; finish it first")
        raise UserError(
            f"{KEY}={folder}: no answers in it; evaluate that run first, or name a file of outputs "
            "(instruction and output in each record)"
        )
    return max(found, key=lambda baseline: baseline.covered(answers))


def _of_outputs(outputs: Sequence[Output], name: str, source: str) -> Baseline:
    generators = sorted({output.generator for output in outputs if output.generator})
    if len(generators) > 1:
        raise UserError(
            f"{KEY}={source}: it holds the outputs of {len(generators)} generators ({', '.join(generators[:3])}...); "
            "keep those of one"
        )
    baseline = Baseline(generators[0] if generators else name, source, tasks=len(outputs))
    for output in outputs:
        if output.id:
            baseline.by_id.setdefault(output.id, output.output)
        if output.instruction:
            baseline.by_task.setdefault(task_key(output.instruction, output.input), output.output)
    return baseline
