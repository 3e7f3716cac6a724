"""Evaluation `quick`: losses on the held-out rows and greedy answers scored by ROUGE-L, before and after training.

The scores before training depend on weights, data and template only, so they are kept in the cache
and computed once for all runs that start from the same point.
"""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from alpaca import paths
from alpaca.config import QuickConfig
from alpaca.data.rows import example_id
from alpaca.engines.decoding import Decoded
from alpaca.evaluation.decoding import Sampling, answers
from alpaca.evaluation.held_out import HeldOut
from alpaca.evaluation.losses import DIRECTIONS as LOSSES
from alpaca.evaluation.losses import held_out_losses
from alpaca.evaluation.rouge import mean_rouge_l, rouge_l
from alpaca.evaluation.scores import HIGHER
from alpaca.training.batches import Layout
from alpaca.training.precision import Compute
from alpaca.training.world import World

DIRECTIONS = {**LOSSES, "eval/rougeL": HIGHER, "eval/stop_rate": HIGHER}


@dataclass(frozen=True)
class QuickScores:
    """Metrics, and one record for each held-out example: id, loss, tokens, bytes, output, rougeL."""

    metrics: dict[str, float]
    examples: list[dict[str, Any]]


def quick_scores(
    model: nn.Module,
    held_out: HeldOut,
    config: QuickConfig,
    *,
    compute: Compute,
    layout: Layout,
    world: World,
    on_answers: Callable[[int], None] = lambda count: None,
) -> QuickScores:
    """Score `model` on the held-out rows."""
    losses = held_out_losses(
        model,
        held_out.examples,
        held_out.response_bytes(),
        compute=compute,
        layout=layout,
        world=world,
    )
    answered = min(config.generate_rows, len(held_out.examples))
    made = held_out_answers(model, held_out, answered, config, compute=compute, world=world, on_answers=on_answers)
    records: list[dict[str, Any]] = []
    for index in range(len(held_out.examples)):
        row = held_out.rows[held_out.examples.rows[index]]
        record: dict[str, Any] = {
            "id": example_id(row),
            "loss": float(losses.nats[index] / losses.tokens[index]),
            "tokens": int(losses.tokens[index]),
            "bytes": int(losses.response_bytes[index]),
        }
        if index < answered:
            text = made[index].text
            record |= {"output": text, "rougeL": rouge_l(row.output, text)}
        records.append(record)
    metrics = losses.metrics()
    if answered:
        if (mean := mean_rouge_l([record["rougeL"] for record in records[:answered]])) is not None:
            metrics["eval/rougeL"] = mean
        metrics["eval/stop_rate"] = float(np.mean([one.finish_reason == "stop" for one in made]))
    return QuickScores(metrics, records)


def held_out_answers(
    model: nn.Module,
    held_out: HeldOut,
    rows: int,
    config: QuickConfig,
    *,
    compute: Compute,
    world: World,
    on_answers: Callable[[int], None] = lambda count: None,
) -> list[Decoded]:
    """Greedy answers to the first `rows` held-out examples: the same ones in every run over a source."""
    return answers(
        model,
        held_out.tokenizer,
        [held_out.examples.prompt(index) for index in range(rows)],
        Sampling(config.max_new_tokens),
        keys=[example_id(held_out.rows[row]) for row in held_out.examples.rows[:rows]],
        compute=compute,
        batch_size=config.batch_size,
        stop=held_out.template.stop,
        world=world,
        on_done=on_answers,
    )


def cached(key: dict[str, Any], compute_scores: Callable[[], QuickScores], world: World) -> tuple[QuickScores, bool]:
    """Scores for `key` from the cache, or computed and kept; the flag says whether they were cached.

    `key` names everything the scores depend on. A damaged file counts as absent. Rank 0 looks for all.
    """
    name = hashlib.sha256(json.dumps(key, sort_keys=True, default=str).encode()).hexdigest()
    file = paths.cache_dir() / "scores_before" / f"{name[:32]}.json"
    if (stored := world.tell(_kept(file) if world.is_main else None)) is not None:
        return QuickScores(stored["metrics"], stored["examples"]), True
    scores = compute_scores()
    paths.keep_json(file, {"key": key, "metrics": scores.metrics, "examples": scores.examples})
    return scores, False


def _kept(file: Path) -> dict[str, Any] | None:
    try:
        stored = json.loads(file.read_text(encoding="utf-8"))
        return {"metrics": dict(stored["metrics"]), "examples": list(stored["examples"])}
    except (OSError, ValueError, KeyError, TypeError):
        return None
