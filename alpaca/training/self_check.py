"""Before training: does the run's own micro-batch give the numbers of its examples one at a time?

On a few short rows of the run, in its own precision, dropout off: loss and gradients of the rows laid
out together are compared with those of each row alone, run as anyone else would run the model: ordinary
attention, logits of every position, nothing of ours in between. And other tokens in one row must leave
the losses of the others as they are. A run that fails this does not train.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from alpaca.data.encoding import Examples
from alpaca.data.microbatch import MicroBatch
from alpaca.errors import RunFailed
from alpaca.modeling.attention import plain_attention
from alpaca.modeling.layers import without_dropout
from alpaca.training.batches import Layout, label_tensors, model_inputs
from alpaca.training.loss import supervised_loss, token_losses
from alpaca.training.precision import Compute

ROWS = 3
COMPARED_WEIGHTS = 1 << 26  # gradients of at most so many weights are held twice: 512 MiB

# Largest relative difference of loss and of gradient: rounding of sums taken in another order. In bf16 a
# number carries 8 bits: on SmolLM2-135M the gradients of either way lie 3 % (full) to 5 % (LoRA) from those of
# fp32, ours no farther than the model's own, and 3 to 6 % from each other; a leak is seen bit for bit besides.
# A base in 4 or 8 bits is the same base in both ways, so nothing is added for it: NF4 in bf16 differs by 0.8 % in
# loss and 5 % in gradient on SmolLM2-135M, in fp32 by 1e-7 and 5e-7 on the tiny model.
BOUNDS = {"fp32": (1e-5, 1e-5), "bf16": (2e-2, 1.5e-1), "fp16": (3e-3, 2e-2)}


@dataclass(frozen=True)
class SelfCheck:
    """What was compared: relative differences, and the largest change of a loss that should not change."""

    rows: int
    loss: float
    gradient: float
    leak: float


def self_check(model: nn.Module, examples: Examples, layout: Layout, compute: Compute) -> SelfCheck:
    """Compare; raises `RunFailed` with the largest difference when a bound does not hold."""
    chosen = np.argsort(examples.lengths, kind="stable")[:ROWS]
    together = layout.lay_out(examples, chosen)
    parameters = _compared(model)
    expected, expected_gradient = _summed(_one_at_a_time(model, examples, chosen, compute), parameters)
    with without_dropout(model):
        loss, gradient = _summed(_together(model, together, compute), parameters)
        leak = _leak(model, examples, chosen, layout, compute)
    difference = sum(float((ours - theirs).square().sum()) for ours, theirs in zip(gradient, expected_gradient))
    norm = sum(float(theirs.square().sum()) for theirs in expected_gradient)
    result = SelfCheck(
        rows=len(chosen),
        loss=abs(loss - expected) / max(abs(expected), 1e-12),
        gradient=(difference / max(norm, 1e-30)) ** 0.5,
        leak=leak,
    )
    loss_bound, gradient_bound = BOUNDS[compute.precision]
    if not (result.loss <= loss_bound and result.gradient <= gradient_bound and leak == 0.0):
        raise RunFailed(
            f"self-check: {result.rows} rows together differ from the same rows one at a time by {result.loss:.1e} in "
            f"loss (allowed {loss_bound:g}), {result.gradient:.1e} in gradient (allowed {gradient_bound:g}), and one "
            f"row changed another's loss by {leak:.1e} (allowed 0); this model cannot be trained packed as it is: set "
            "train.packing=off, or train.precision=fp32"
        )
    return result


def _compared(model: nn.Module, at_most: int = COMPARED_WEIGHTS) -> list[nn.Parameter]:
    """Trained parameters from the first to the last layer, evenly thinned out to a bounded number of weights."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = sum(parameter.numel() for parameter in trained)
    every = max(1, -(-total // at_most)) | 1  # odd: of a LoRA's A and B in turn, both are met
    return trained[::every]


def _summed(losses: Iterator[torch.Tensor], parameters: list[nn.Parameter]) -> tuple[float, list[torch.Tensor]]:
    """Sum of the losses and of their gradients, in fp32."""
    total, gradients = 0.0, [torch.zeros_like(parameter, dtype=torch.float32) for parameter in parameters]
    for loss in losses:
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        total += float(loss.detach())
        for sum_so_far, part in zip(gradients, found, strict=True):
            if part is not None:
                sum_so_far += part
    return total, gradients


def _together(model: nn.Module, batch: MicroBatch, compute: Compute) -> Iterator[torch.Tensor]:
    with compute.autocast():
        summed = supervised_loss(model, model_inputs(batch, compute.device), *label_tensors(batch, compute.device))
    yield summed / len(batch.labels)


def _one_at_a_time(
    model: nn.Module, examples: Examples, chosen: Sequence[int] | np.ndarray, compute: Compute
) -> Iterator[torch.Tensor]:
    """Each row's part of the mean loss, by the model's own forward; compiled layers run uncompiled."""
    labels = int(examples.supervised[chosen].sum())
    with plain_attention(model) as plain, torch.compiler.set_stance("force_eager"):
        for index in chosen:
            ids = torch.from_numpy(examples.ids(index).astype(np.int64)).to(compute.device)
            first = int(examples.first_labels[index])
            with compute.autocast():
                logits = plain(input_ids=ids[None], use_cache=False).logits[0, first - 1 : -1]
            yield F.cross_entropy(logits.float(), ids[first:], reduction="sum") / labels


def _leak(model: nn.Module, examples: Examples, chosen: np.ndarray, layout: Layout, compute: Compute) -> float:
    """Largest change of the other rows' token losses when one row's response gets other tokens."""
    if len(chosen) < 2:
        return 0.0
    changed = examples.tokens.copy()
    victim = chosen[0]
    start = examples.offsets[victim] + examples.prompt_lengths[victim]
    end = examples.offsets[victim + 1]
    changed[start:end] = (changed[start:end] + 1) % (int(changed.max()) + 1)  # another token that the rows have
    other = Examples(**{**vars(examples), "tokens": changed})
    losses = []
    for source in (examples, other):
        batch = layout.lay_out(source, chosen)
        with compute.autocast():
            found, _ = token_losses(model, model_inputs(batch, compute.device), *label_tensors(batch, compute.device))
        losses.append(found[torch.from_numpy(batch.owners != 0).to(found.device)])
    return float((losses[0] - losses[1]).abs().max())
