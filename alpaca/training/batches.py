"""Optimizer steps as tensors: one rank's micro-batches of each step, laid out for the model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from alpaca.data.encoding import Examples
from alpaca.data.microbatch import MicroBatch, pack, pad
from alpaca.data.steps import StepPlan, divide, divide_padded


@dataclass(frozen=True)
class Layout:
    """How examples become micro-batches; changes speed and memory, never a number.

    Attributes:
        micro_batch_tokens: most tokens of one micro-batch.
        packed: one flat sequence; False pads rows to one length.
        share_prefix: common prompt prefixes are computed once (packed only).
        one_by_one: each example is a micro-batch of its own (not packed), for models that padding disturbs.
    """

    micro_batch_tokens: int
    packed: bool = True
    share_prefix: bool = False
    one_by_one: bool = False

    @property
    def in_words(self) -> str:
        """What it does with rows."""
        if self.one_by_one:
            return "one row at a time"
        if not self.packed:
            return "padded rows"
        return "packed rows with shared prefixes" if self.share_prefix else "packed rows"

    def divide(self, lengths: np.ndarray, ranks: int = 1) -> list[list[np.ndarray]]:
        """For each rank its micro-batches, as positions in `lengths`."""
        if self.packed:
            return divide(lengths, ranks, self.micro_batch_tokens)
        return divide_padded(lengths, ranks, self.micro_batch_tokens, most=1 if self.one_by_one else None)

    def lay_out(self, examples: Examples, indices: Sequence[int] | np.ndarray) -> MicroBatch:
        """One micro-batch of the examples at `indices`."""
        ids = [examples.ids(index) for index in indices]
        prompts = [int(examples.prompt_lengths[index]) for index in indices]
        first = [int(place) for place in examples.first_labels[indices]]
        if self.packed:
            return pack(ids, prompts, share_prefix=self.share_prefix, first_labels=first)
        padded = pad(ids, prompts, first_labels=first)
        return replace(padded, mask=None) if self.one_by_one else padded


@dataclass(frozen=True)
class Step:
    """One optimizer step as one rank sees it.

    Attributes:
        micro_batches: what this rank pushes through the model, one after another.
        examples, logical, supervised: examples and tokens of the step over all ranks.
    """

    micro_batches: list[MicroBatch]
    examples: int
    logical: int
    supervised: int


class Steps(Dataset[Step]):
    """Item k is optimizer step k of the plan, as `rank` of `ranks` sees it."""

    def __init__(self, examples: Examples, plan: StepPlan, layout: Layout, *, rank: int = 0, ranks: int = 1):
        self.examples, self.plan, self.layout = examples, plan, layout
        self.rank, self.ranks = rank, ranks

    def __len__(self) -> int:
        return self.plan.steps

    def __getitem__(self, step: int) -> Step:
        chosen = self.plan.step_examples(step)
        lengths = self.examples.lengths[chosen]
        mine = self.layout.divide(lengths, self.ranks)[self.rank]
        return Step(
            [self.layout.lay_out(self.examples, chosen[members]) for members in mine],
            examples=len(chosen),
            logical=int(lengths.sum()),
            supervised=int(self.examples.supervised[chosen].sum()),
        )


def model_inputs(batch: MicroBatch, device: torch.device) -> dict[str, Any]:
    """Keywords of the model's forward: ids and positions (rows, length), and who sees whom."""

    def rows(content: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(content).view(batch.rows, -1).to(device, non_blocking=True)

    inputs: dict[str, Any] = {"input_ids": rows(batch.input_ids)}
    if batch.segments is not None:
        inputs |= {"position_ids": rows(batch.position_ids), "segments": batch.segments}
    elif batch.mask is not None:
        inputs |= {"attention_mask": rows(batch.mask).long()}
    return inputs


def label_tensors(batch: MicroBatch, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Flat positions that predict a label, and the labels: both (supervised,) int64."""
    return (
        torch.from_numpy(batch.label_positions).to(device, non_blocking=True),
        torch.from_numpy(batch.labels).to(device, non_blocking=True),
    )
