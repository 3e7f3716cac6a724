"""The chosen evaluations beside `quick`, one after another: at the end of a run and in `alpaca.evaluate` alike.

Comes in: the section and a `Subject`, which is a model, an engine that has it, or answers that are there already.
Goes out: a name and `Scores` for each evaluation as soon as it is made, so that what is done is kept.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerBase

from alpaca.config import EvaluationConfig, GenerateConfig
from alpaca.data.rows import Row
from alpaca.data.templates import Template
from alpaca.errors import RunFailed, UserError
from alpaca.evaluation import generate as generating
from alpaca.evaluation import instruction_sets
from alpaca.evaluation.answering import Answerer, OnDone
from alpaca.evaluation.answers import Answer
from alpaca.evaluation.held_out import HeldOut
from alpaca.evaluation.scores import Scores
from alpaca.evaluation.text_metrics import never_stops
from alpaca.training.batches import Layout
from alpaca.training.precision import Compute
from alpaca.training.world import World

FURTHER = ("loss", "generate", "safety", "judge", "lm_eval")
NEEDS_MODEL = ("quick", "loss", "safety", "lm_eval")
Progress = Callable[[str, int], AbstractContextManager[OnDone]]


@dataclass(frozen=True)
class Subject:
    """What is evaluated.

    Attributes:
        name: of the model or run, as judges and leaderboards call it.
        place: folder for what an evaluation keeps beside its scores.
        answerer: who answers; None for a file of outputs.
        model, tokenizer: None where no model is in this process.
        held_out, held_out_rows: the run's own held-out rows, tokenised and as they are.
        layout: how losses are computed.
        answered: records of answers that are there already, as `generate` writes them.
    """

    name: str
    place: Path
    template: Template | None
    answerer: Answerer | None
    model: Any
    tokenizer: PreTrainedTokenizerBase | None
    held_out: HeldOut | None
    held_out_rows: list[Row]
    compute: Compute
    layout: Layout
    world: World
    answered: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class Voice:
    """How evaluations speak: lines, warnings, and a progress bar over so many units."""

    say: Callable[[str], None]
    warn: Callable[[str], None]
    progress: Progress


def chosen(settings: EvaluationConfig) -> list[str]:
    """Names of the chosen evaluations, in the order they are made."""
    return [name for name in ("quick", *FURTHER) if getattr(settings, name) is not None]


def check_ready(settings: EvaluationConfig) -> None:
    """Look for what the chosen evaluations need, before a training that is to end with them.

    Raises:
        UserError: no harness, no judge's key, an instruction set that cannot be had.
    """
    if settings.lm_eval is not None:
        from alpaca.evaluation.harness import check_harness

        check_harness(settings.lm_eval)
    if settings.judge is not None:
        from alpaca.evaluation.judging.settings import check_ready as check_judge

        check_judge(settings.judge)
    if settings.generate is not None and settings.generate.instructions != instruction_sets.HELD_OUT:
        instruction_sets.load(settings.generate, None)


def further_scores(
    settings: EvaluationConfig, subject: Subject, voice: Voice
) -> Iterator[tuple[str, Scores | Exception]]:
    """Every chosen evaluation but `quick`; one that fails gives its error, and the next ones are made all the same."""
    makers: dict[str, Callable[[], Scores]] = {
        "loss": lambda: _loss(settings, subject),
        "generate": lambda: _generate(settings, subject, voice),
        "safety": lambda: _safety(settings, subject, voice),
        "judge": lambda: _judge(settings, subject, voice),
        "lm_eval": lambda: _lm_eval(settings, subject),
    }
    for name in FURTHER:
        if getattr(settings, name) is None:
            continue
        try:
            scores = makers[name]()
        except (UserError, RunFailed) as error:
            yield name, error
            continue
        if name == "generate":
            subject = replace(subject, answered=scores.examples)
        yield name, scores


def _loss(settings: EvaluationConfig, subject: Subject) -> Scores:
    from alpaca.evaluation.losses_apart import losses_apart

    assert settings.loss is not None
    if subject.held_out is None:
        raise UserError("evaluation=loss: there are no held-out rows; a run with train.eval_rows=1 or more has them")
    return losses_apart(
        subject.model,
        subject.held_out,
        settings.loss,
        compute=subject.compute,
        layout=subject.layout,
        world=subject.world,
    )


def _generate(settings: EvaluationConfig, subject: Subject, voice: Voice) -> Scores:
    assert settings.generate is not None
    return _answers(settings.generate, settings, subject, voice)


def _answers(wanted: GenerateConfig, settings: EvaluationConfig, subject: Subject, voice: Voice) -> Scores:
    """Answers to an instruction set, or the scores of those of a file."""
    if subject.answerer is None or subject.template is None:
        rows, made = _of_records(subject.answered)
        scores = generating.scored(rows, made)
        return Scores(
            scores.metrics,
            [{**new, "id": old["id"]} for new, old in zip(scores.examples, subject.answered, strict=True)],
        )
    found = instruction_sets.load(wanted, subject.held_out_rows)
    for warning in found.warnings:
        voice.warn(warning)
    with voice.progress(f"answering {found.name}", len(found.rows)) as on_done:
        scores = generating.generate(found.rows, subject.template, subject.answerer, on_done)
    rate = scores.metrics.get(f"{generating.PREFIX}stop_rate")
    if sentence := never_stops(len(found.rows), rate, settings.decode.max_new_tokens):
        voice.warn(sentence)
    return scores


def _safety(settings: EvaluationConfig, subject: Subject, voice: Voice) -> Scores:
    from alpaca.evaluation import safety

    assert settings.safety is not None
    assert subject.answerer is not None
    assert subject.template is not None
    rows = safety.requests(settings.safety)
    with voice.progress("answering safety requests", len(rows)) as on_done:
        return safety.safety(rows, subject.template, subject.answerer, on_done)


def _judge(settings: EvaluationConfig, subject: Subject, voice: Voice) -> Scores:
    """Judge the answers of `generate`, else those of `quick`, else new ones to the held-out rows or the seed tasks."""
    from alpaca.evaluation.judging.command import judge

    assert settings.judge is not None
    answered = subject.answered
    if not answered:
        own = instruction_sets.HELD_OUT if subject.held_out_rows else instruction_sets.SEED_HOLDOUT
        answered = _answers(GenerateConfig(instructions=own), settings, subject, voice).examples
    if not subject.world.is_main:
        return Scores({}, [])
    answers = [
        Answer(
            id=record["id"],
            instruction=record["instruction"],
            input=record["input"],
            output=record["output"],
            dataset=record.get("category", ""),
            generator=subject.name,
        )
        for record in answered
    ]
    references = {record["id"]: record["reference"] for record in answered if record.get("reference")}
    with contextlib.ExitStack() as stack:
        on_done: OnDone | None = None
        told = asked = 0

        def on_judged(done: int, total: int) -> None:
            """The first call says how many there are; it comes again where they are asked for in another form."""
            nonlocal on_done, told, asked
            if on_done is None or total != asked or done < told:
                stack.close()
                on_done, told, asked = stack.enter_context(voice.progress("judging", total)), 0, total
            on_done(done - told)
            told = done

        return judge(
            answers, settings.judge, subject.place / "judge", say=voice.say, references=references, on_judged=on_judged
        )


def _lm_eval(settings: EvaluationConfig, subject: Subject) -> Scores:
    from alpaca.evaluation.harness import lm_eval
    from alpaca.training.sharding import without_wrapper

    assert settings.lm_eval is not None
    assert subject.tokenizer is not None
    if not subject.world.is_main:
        return Scores({}, [])
    return lm_eval(without_wrapper(subject.model), subject.tokenizer, settings.lm_eval, subject.compute)


def _of_records(records: Sequence[dict[str, Any]]) -> tuple[list[Row], list[Any]]:
    rows = [
        Row(each["instruction"], each["input"], each["reference"] or "", 0, each.get("category", ""))
        for each in records
    ]
    return rows, [each["made"] for each in records]
