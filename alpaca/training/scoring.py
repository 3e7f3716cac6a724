"""Scores of a run before and after training, and the predictions that show the difference."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import transformers
from rich.markup import escape
from torch import nn
from transformers import PreTrainedTokenizerBase

from alpaca.config import QuickConfig
from alpaca.data.rows import example_id
from alpaca.data.templates import Template
from alpaca.evaluation.answering import ModelAnswerer, OnDone
from alpaca.evaluation.further import Subject, Voice, further_scores
from alpaca.evaluation.held_out import HeldOut
from alpaca.evaluation.quick import QuickScores, cached, held_out_answers, quick_scores
from alpaca.evaluation.rouge import mean_rouge_l, rouge_l
from alpaca.evaluation.scores import DIRECTIONS, HIGHER, Scores
from alpaca.signature import RANDOM, training_settings
from alpaca.tracking.wandb_run import log_answers
from alpaca.training.batches import Layout
from alpaca.training.loop import Session

WATCHED = {"eval/watch_rougeL": HIGHER, "eval/watch_stop_rate": HIGHER}
COLUMNS = ["id", "prompt", "reference", "output_before", "output", "rougeL_before", "rougeL", "loss_before", "loss"]


def score_before(
    session: Session, quick: QuickConfig, held_out: HeldOut, model: nn.Module, layout: Layout
) -> QuickScores:
    """Scores of the untrained model, from the cache where an earlier run started from the same point."""
    settings = training_settings(session.config)
    is_random, adapter = session.config.model.weights == RANDOM, session.config.adapter
    key = {
        "weights": settings["model.weights"],
        "architecture": settings["model.architecture"] if is_random else None,
        "seed": session.config.train.seed if is_random else None,
        "stored": str(next(model.parameters()).dtype),
        "bits": [adapter.bits, adapter.quant_type, adapter.double_quant] if adapter.bits else None,
        "precision": session.compute.precision,
        "device": session.compute.device.type,
        "data": held_out.content(),
        "generate": [quick.generate_rows, quick.max_new_tokens],
        "versions": [torch.__version__, transformers.__version__],
    }
    scores, known = cached(key, lambda: score(session, quick, held_out, model, layout, "scoring before"), session.world)
    session.terminal.print(
        f"[bold]before[/] loss {scores.metrics['eval/loss']:.4f} on {len(held_out.examples)} held-out rows"
        + (" (kept from an earlier run)" if known else "")
    )
    return scores


def score(
    session: Session, quick: QuickConfig, held_out: HeldOut, model: nn.Module, layout: Layout, what: str
) -> QuickScores:
    """Scores of the model as it is, with a progress bar over the answers."""
    with session.terminal.progress(what, min(quick.generate_rows, len(held_out.examples))) as bar:

        def on_answers(count: int) -> None:
            session.beats.beat(what)
            bar.advance(count)

        return quick_scores(
            model, held_out, quick, compute=session.compute, layout=layout, world=session.world, on_answers=on_answers
        )


def watch(
    session: Session, quick: QuickConfig, held_out: HeldOut, model: nn.Module, step: int, epoch: float
) -> dict[str, float]:
    """Answers to the same few held-out rows as training goes on: `samples.jsonl`, a W&B table, and two metrics."""
    count = min(quick.watch_rows, len(held_out.examples))
    made = held_out_answers(
        model,
        held_out,
        count,
        quick,
        compute=session.compute,
        world=session.world,
        on_answers=lambda done: session.beats.beat("answering watched rows"),
    )
    rows = [held_out.rows[row] for row in held_out.examples.rows[:count]]
    scores = [rouge_l(row.output, one.text) for row, one in zip(rows, made, strict=True)]
    records = [
        {
            "step": step,
            "epoch": round(epoch, 6),
            "id": example_id(row),
            "prompt": held_out.template.prompt(row),
            "reference": row.output,
            "output": one.text,
            "scores": {"rougeL": score, "stopped": float(one.finish_reason == "stop")},
        }
        for row, one, score in zip(rows, made, scores, strict=True)
    ]
    session.directory.log_samples(records)
    table = [[step, each["id"], each["prompt"], each["reference"], each["output"]] for each in records]
    session.tracker.log_table("samples", ["step", "id", "prompt", "reference", "output"], table)
    mean = mean_rouge_l(scores)
    return {
        **({} if mean is None else {"eval/watch_rougeL": mean}),
        "eval/watch_stop_rate": sum(one.finish_reason == "stop" for one in made) / count,
    }


def log_scores(session: Session, step: int, epoch: float, scores: QuickScores) -> None:
    """One line of metrics, in the run directory and in W&B."""
    session.directory.log_metrics(step, epoch, scores.metrics)
    session.tracker.log(step, scores.metrics)


def save_predictions(session: Session, held_out: HeldOut, before: QuickScores, after: QuickScores) -> None:
    """`predictions.jsonl`, and the same as a W&B table, whose rows of several runs W&B joins by their id."""
    records = predictions(held_out, before, after)
    session.directory.write_jsonl("predictions.jsonl", records)
    flat = [{**record, **record["scores"]} for record in records]
    session.tracker.log_table("predictions", COLUMNS, [[record.get(name) for name in COLUMNS] for record in flat])


def predictions(held_out: HeldOut, before: QuickScores, after: QuickScores) -> list[dict[str, Any]]:
    """One record for each held-out example: id, task, prompt, reference, outputs and scores before and after."""
    pairs = zip(before.examples, after.examples, strict=True)
    return [prediction(held_out, index, old, new) for index, (old, new) in enumerate(pairs)]


def prediction(held_out: HeldOut, index: int, old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """The record of one held-out example; `old` may be empty."""
    row = held_out.rows[held_out.examples.rows[index]]
    return {
        "id": new["id"],
        "instruction": row.instruction,
        "input": row.input,
        "category": row.category,
        "prompt": held_out.template.prompt(row),
        "reference": row.output,
        "output_before": old.get("output"),
        "output": new.get("output"),
        "scores": {
            "loss_before": old.get("loss"),
            "loss": new["loss"],
            "tokens": new["tokens"],
            "bytes": new["bytes"],
            "rougeL_before": old.get("rougeL"),
            "rougeL": new.get("rougeL"),
        },
    }


def score_further(
    session: Session,
    held_out: HeldOut | None,
    template: Template,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    layout: Layout,
    quick: QuickScores | None,
    step: int,
) -> dict[str, Any]:
    """The other chosen evaluations, at the end of a run whose model is saved: their metrics for the summary.

    One that fails is a warning: the training is worth keeping, and `alpaca.evaluate` makes it later.
    """
    config, directory, world = session.config, session.directory, session.world
    answered = []
    if quick is not None and held_out is not None:
        records = [prediction(held_out, index, {}, new) for index, new in enumerate(quick.examples)]
        answered = [record for record in records if record["output"] is not None]
    subject = Subject(
        name=directory.path.name,
        place=directory.path,
        template=template,
        answerer=ModelAnswerer(model, tokenizer, template, config.evaluation.decode, session.compute, world),
        model=model,
        tokenizer=tokenizer,
        held_out=held_out,
        held_out_rows=held_out.rows if held_out is not None else [],
        compute=session.compute,
        layout=layout,
        world=world,
        answered=answered,
    )

    @contextlib.contextmanager
    def progress(what: str, total: int) -> Iterator[OnDone]:
        with session.terminal.progress(what, total) as bar:

            def on_done(count: int) -> None:
                session.beats.beat(what)
                bar.advance(count)

            yield on_done

    voice = Voice(lambda text: session.terminal.print(escape(text)), session.terminal.warn, progress)
    found: dict[str, Any] = {}
    directions: dict[str, str] = {}
    failed: list[str] = []
    with session.beats.while_working("further evaluations"):
        for name, scores in further_scores(config.evaluation, subject, voice):
            if isinstance(scores, Scores):
                found |= scores.metrics
                directions |= scores.directions
                if scores.examples:
                    directory.write_jsonl(f"predictions-{name}.jsonl", scores.examples)
                session.tracker.log(step, scores.metrics)
                log_answers(session.tracker, name, scores.examples)
                continue
            failed.append(name)
            session.terminal.warn(
                f"evaluation={name} was not made: {scores}. The model is saved; make it with "
                f"python -m alpaca.evaluate {directory.path} evaluation={name}"
            )
    return {**found, DIRECTIONS: directions, **({"evaluations_failed": failed} if failed else {})}
