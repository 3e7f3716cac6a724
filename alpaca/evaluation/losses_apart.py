"""Evaluation `loss`: the held-out loss apart for each category of rows and each length of response.

One mean hides that a variant gained on long answers and lost on short ones. Every group's loss is the mean over its
supervised tokens, so the groups of one partition, weighted by their tokens, give the whole again.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from alpaca.config import LossConfig
from alpaca.data.rows import example_id
from alpaca.evaluation.held_out import HeldOut
from alpaca.evaluation.losses import HeldOutLosses, held_out_losses
from alpaca.evaluation.scores import LOWER, Scores, declared
from alpaca.training.batches import Layout
from alpaca.training.precision import Compute
from alpaca.training.world import World

PREFIX = "eval/loss/"
DIRECTIONS = {f"{PREFIX}*": LOWER}


def losses_apart(
    model: nn.Module, held_out: HeldOut, settings: LossConfig, *, compute: Compute, layout: Layout, world: World
) -> Scores:
    """Metrics `eval/loss/all`, `eval/loss/category/NAME` and `eval/loss/tokens/FROM-TO`, and a record for each row."""
    losses = held_out_losses(
        model, held_out.examples, held_out.response_bytes(), compute=compute, layout=layout, world=world
    )
    rows = [held_out.rows[index] for index in held_out.examples.rows]
    metrics = {f"{PREFIX}all": _mean(losses, np.arange(len(rows)))}
    if settings.by_category:
        names = [row.category or row.source for row in rows]
        metrics |= {
            f"{PREFIX}category/{name}": _mean(losses, np.flatnonzero([each == name for each in names]))
            for name in sorted(set(names) - {""})
        }
    buckets = [bucket(int(tokens), settings.lengths) for tokens in losses.tokens]
    for name in dict.fromkeys(bucket(length, settings.lengths) for length in [*settings.lengths, 1 << 60]):
        if (members := np.flatnonzero([each == name for each in buckets])).size:
            metrics[f"{PREFIX}tokens/{name}"] = _mean(losses, members)
    examples: list[dict[str, Any]] = [
        {
            "id": example_id(row),
            "instruction": row.instruction,
            "input": row.input,
            "category": row.category or row.source,
            "prompt": held_out.template.prompt(row),
            "reference": row.output,
            "output": None,
            "scores": {
                "loss": float(losses.nats[index] / losses.tokens[index]),
                "tokens": int(losses.tokens[index]),
                "token_accuracy": float(losses.hits[index] / losses.tokens[index]),
            },
        }
        for index, row in enumerate(rows)
    ]
    return Scores(metrics, examples, declared(metrics, DIRECTIONS))


def bucket(tokens: int, bounds: Sequence[int]) -> str:
    """The name of the bucket of a response of so many tokens: `1-16`, `17-64`, ..., `257-`."""
    least = 1
    for bound in bounds:
        if tokens <= bound:
            return f"{least}-{bound}"
        least = bound + 1
    return f"{least}-"


def _mean(losses: HeldOutLosses, members: np.ndarray) -> float:
    return float(losses.nats[members].sum() / losses.tokens[members].sum())
