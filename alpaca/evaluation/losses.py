"""Losses on held-out examples: packed like training, without gradients."""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from alpaca.data.encoding import Examples
from alpaca.evaluation.scores import HIGHER, LOWER
from alpaca.training.batches import Layout, label_tensors, model_inputs
from alpaca.training.loss import token_losses
from alpaca.training.precision import Compute
from alpaca.training.world import World

DIRECTIONS = {
    "eval/loss": LOWER,
    "eval/perplexity": LOWER,
    "eval/bits_per_byte": LOWER,
    "eval/token_accuracy": HIGHER,
}


@dataclass(frozen=True)
class HeldOutLosses:
    """Sums for each held-out example.

    Attributes:
        nats: (n,) summed cross-entropy of its supervised tokens, EOS included.
        tokens: (n,) supervised tokens.
        hits: (n,) of them predicted right by the likeliest token.
        response_bytes: (n,) UTF-8 bytes of the supervised text.
    """

    nats: np.ndarray
    tokens: np.ndarray
    hits: np.ndarray
    response_bytes: np.ndarray

    def metrics(self) -> dict[str, float]:
        """Means over supervised tokens; bits per byte compares models whose tokenizers differ."""
        loss = float(self.nats.sum() / self.tokens.sum())
        return {
            "eval/loss": loss,
            "eval/perplexity": math.exp(min(loss, 80.0)),
            "eval/bits_per_byte": float(self.nats.sum() / math.log(2) / max(1, self.response_bytes.sum())),
            "eval/token_accuracy": float(self.hits.sum() / self.tokens.sum()),
        }


def held_out_losses(
    model: nn.Module,
    examples: Examples,
    response_bytes: np.ndarray,
    *,
    compute: Compute,
    layout: Layout,
    world: World,
) -> HeldOutLosses:
    """Loss of every example, computed by all ranks together; the model is left in the mode it was in."""
    nats, hits = np.zeros(len(examples)), np.zeros(len(examples), dtype=np.int64)
    training = model.training
    model.eval()
    try:
        for members in layout.divide(examples.lengths, world.size)[world.rank]:
            batch = layout.lay_out(examples, members)
            with compute.autocast():
                losses, correct = token_losses(
                    model, model_inputs(batch, compute.device), *label_tensors(batch, compute.device)
                )
            owners = members[batch.owners]
            np.add.at(nats, owners, losses.double().cpu().numpy())
            np.add.at(hits, owners, correct.long().cpu().numpy())
    finally:
        model.train(training)
    together = world.sum(torch.from_numpy(np.stack([nats, hits.astype(np.float64)]))).numpy()
    return HeldOutLosses(together[0], examples.supervised, together[1].astype(np.int64), response_bytes)
