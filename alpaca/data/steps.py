"""The step plan: which examples form which micro-batch on which rank, for one optimizer step.

The examples of a step depend on seed, number of examples and global batch only: the epochs are strung
together, step k takes examples kB to (k+1)B of the shuffled epochs, and the last step may be smaller.
How they are divided over ranks and micro-batches depends on hardware and changes no number (§8.2 of
the design): the loss of a step is a sum over its examples divided by the step's supervised tokens.
"""

import heapq
from dataclasses import dataclass
from functools import lru_cache

import numpy as np


@dataclass(frozen=True)
class StepPlan:
    """The examples of every optimizer step.

    Attributes:
        examples: number of training examples.
        seed: `train.seed`; with the epoch it decides the order.
        epochs: passes over the examples; 1.5 stops in the middle of the second.
        global_batch_size: examples of one step over all ranks.
        max_steps: stop after so many steps, or None.
    """

    examples: int
    seed: int
    epochs: float
    global_batch_size: int
    max_steps: int | None = None

    @property
    def total(self) -> int:
        """Examples seen in all, before `max_steps`."""
        return max(1, round(self.epochs * self.examples))

    @property
    def steps(self) -> int:
        """Optimizer steps: ceil(total / global batch), at most `max_steps`."""
        planned = -(-self.total // self.global_batch_size)
        return planned if self.max_steps is None else min(planned, self.max_steps)

    def epoch_after(self, step: int) -> float:
        """Passes over the examples when `step` steps are done."""
        return min(step * self.global_batch_size, self.total) / self.examples

    def step_examples(self, step: int) -> np.ndarray:
        """(at most global_batch_size,) int64, indices of the examples of step `step`, from 0.

        A step across the end of an epoch may hold one example twice.
        """
        first = step * self.global_batch_size
        last = min(first + self.global_batch_size, self.total)
        parts = []
        while first < last:
            epoch, inside = divmod(first, self.examples)
            taken = min(last - first, self.examples - inside)
            parts.append(_epoch_order(self.examples, self.seed, epoch)[inside : inside + taken])
            first += taken
        return np.concatenate(parts)


@lru_cache(maxsize=4)
def _epoch_order(examples: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(examples)


def token_budget(micro_batch_tokens: int | None, max_length: int) -> int:
    """Most tokens of one micro-batch: as set, else 4,096, else what the longest example needs."""
    return micro_batch_tokens or max(4096, max_length)


def divide(lengths: np.ndarray, ranks: int, token_budget: int) -> list[list[np.ndarray]]:
    """Divide one step's examples over ranks and micro-batches, loads as even as longest-first gives.

    Args:
        lengths: (n,) tokens of each example of the step; none above `token_budget`.
        ranks: world size.
        token_budget: most tokens in one micro-batch.

    Returns:
        For each rank a list of micro-batches, each an ascending array of positions in `lengths`. All
        ranks have the same number; a rank without an example has empty arrays.
    """
    if len(lengths) and int(lengths.max()) > token_budget:
        raise ValueError(f"an example of {int(lengths.max())} tokens does not fit a budget of {token_budget}")
    longest_first = np.argsort(-lengths, kind="stable").tolist()
    sizes = lengths.tolist()
    each = max(1, -(-int(lengths.sum()) // (token_budget * ranks)))
    while (bins := _longest_first(longest_first, sizes, each * ranks, token_budget)) is None:
        each += 1
    bins.sort(key=lambda members: -sum(sizes[member] for member in members))
    return [
        [np.array(sorted(bins[batch * ranks + rank]), dtype=np.int64) for batch in range(each)] for rank in range(ranks)
    ]


def divide_padded(
    lengths: np.ndarray, ranks: int, token_budget: int, *, most: int | None = None
) -> list[list[np.ndarray]]:
    """`divide` for padded rows: examples of like length together, rows x longest at most `token_budget`.

    `most` bounds the examples of one micro-batch.
    """
    batches: list[list[int]] = []
    for example in np.argsort(-lengths, kind="stable").tolist():
        full = not batches or len(batches[-1]) == most
        if full or (len(batches[-1]) + 1) * int(lengths[batches[-1][0]]) > token_budget:
            batches.append([])
        batches[-1].append(example)
    each = max(1, -(-len(batches) // ranks))
    batches += [[] for _ in range(each * ranks - len(batches))]
    return [
        [np.array(sorted(batches[batch * ranks + rank]), dtype=np.int64) for batch in range(each)]
        for rank in range(ranks)
    ]


def _longest_first(order: list[int], sizes: list[int], bins: int, budget: int) -> list[list[int]] | None:
    """Each example into the emptiest bin, longest first; None when one bin goes over the budget."""
    members: list[list[int]] = [[] for _ in range(bins)]
    loads = [(0, index) for index in range(bins)]
    for example in order:
        load, index = loads[0]
        if load + sizes[example] > budget:
            return None
        heapq.heapreplace(loads, (load + sizes[example], index))
        members[index].append(example)
    return members
