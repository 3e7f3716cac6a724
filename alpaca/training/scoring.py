"""Scores of a run before and after training, and the predictions that show the difference."""

from typing import Any

import torch
import transformers
from torch import nn

from alpaca.config import QuickConfig
from alpaca.evaluation.quick import HeldOut, QuickScores, cached, quick_scores
from alpaca.signature import RANDOM, training_settings
from alpaca.training.batches import Layout
from alpaca.training.loop import Session

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
    """One record for each held-out example: id, prompt, reference, outputs and scores before and after."""
    records = []
    for index, (old, new) in enumerate(zip(before.examples, after.examples, strict=True)):
        row = held_out.rows[held_out.examples.rows[index]]
        records.append(
            {
                "id": new["id"],
                "prompt": held_out.template.prompt(row),
                "reference": row.output,
                "output_before": old.get("output"),
                "output": new.get("output"),
                "scores": {
                    "loss_before": old["loss"],
                    "loss": new["loss"],
                    "tokens": new["tokens"],
                    "rougeL_before": old.get("rougeL"),
                    "rougeL": new.get("rougeL"),
                },
            }
        )
    return records
