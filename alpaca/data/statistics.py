"""Lengths of examples and how well they pack: numbers in, numbers out.

Everything here works on plain arrays and on `Examples`; nothing is read, printed or drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from alpaca.data.encoding import Examples
from alpaca.data.microbatch import pack
from alpaca.data.steps import StepPlan, divide

MEASURED_STEPS = 64  # packing is measured on so many steps of the first epoch, evenly spaced
PADDED_BATCH = 4  # examples in the padded batch that packing is compared with


@dataclass(frozen=True)
class Spread:
    """A distribution in four numbers, in the unit of what was counted."""

    mean: float
    median: float
    p95: float
    max: int


def spread(values: Sequence[int] | np.ndarray) -> Spread:
    """The spread of `values` (n,); zeros where there are none."""
    counted = np.asarray(values)
    if not len(counted):
        return Spread(0.0, 0.0, 0.0, 0)
    return Spread(
        float(counted.mean()), float(np.median(counted)), float(np.percentile(counted, 95)), int(counted.max())
    )


def words(text: str) -> int:
    """Number of words: runs of characters between white space."""
    return len(text.split())


@dataclass(frozen=True)
class Packing:
    """How full the micro-batches of a run are.

    Attributes:
        steps: optimizer steps measured, of `steps_in_epoch`.
        token_budget: most tokens of a micro-batch.
        ranks: processes each step is divided over.
        micro_batches_per_step: on each rank, mean over the steps.
        density: tokens of the examples / (micro-batches x budget).
        saved_by_sharing: share of the examples' tokens that need not run because prompts share a prefix.
        padding_avoided: share of a padded batch of `PADDED_BATCH` examples in plan order that would be padding.
    """

    steps: int
    steps_in_epoch: int
    token_budget: int
    ranks: int
    micro_batches_per_step: float
    density: float
    saved_by_sharing: float
    padding_avoided: float


def packing(examples: Examples, plan: StepPlan, *, ranks: int, token_budget: int) -> Packing:
    """Divide and pack steps of the first epoch as training would, and measure them."""
    lengths, first_labels = examples.lengths, examples.first_labels
    in_epoch = max(1, min(plan.steps, -(-plan.examples // plan.global_batch_size)))
    measured = np.unique(np.linspace(0, in_epoch - 1, min(MEASURED_STEPS, in_epoch)).astype(int))
    batches = logical = executed = padded = 0
    for step in measured.tolist():
        chosen = plan.step_examples(step)
        for micro_batches in divide(lengths[chosen], ranks, token_budget):
            batches += len(micro_batches)
            for members in micro_batches:
                indices = chosen[members].tolist()
                packed = pack(
                    [examples.ids(index) for index in indices],
                    [int(examples.prompt_lengths[index]) for index in indices],
                    share_prefix=True,
                    first_labels=[int(first_labels[index]) for index in indices],
                )
                executed += packed.executed
        logical += int(lengths[chosen].sum())
        padded += sum(
            int(group.max()) * len(group)
            for group in np.split(lengths[chosen], range(PADDED_BATCH, len(chosen), PADDED_BATCH))
        )
    return Packing(
        steps=len(measured),
        steps_in_epoch=in_epoch,
        token_budget=token_budget,
        ranks=ranks,
        micro_batches_per_step=batches / len(measured) / ranks,
        density=logical / (batches * token_budget),
        saved_by_sharing=1 - executed / logical,
        padding_avoided=1 - logical / padded,
    )
