"""Before training: does the run's own micro-batch give the numbers of its examples one at a time?

On a few short rows of the run, in its own precision, dropout off: loss and gradients of the rows laid
out together are compared with those of each row alone, run as anyone else would run the model: ordinary
attention, logits of every position, nothing of ours in between. And other tokens in one row must leave
the losses of the others as they are. Where this fails the next slower layout is tried: no shared prefixes,
padded rows, one row at a time, and both without fused layers. A run for which none is exact does not train.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from alpaca.data.encoding import Examples
from alpaca.data.microbatch import MicroBatch
from alpaca.errors import RunFailed, UserError
from alpaca.modeling.attention import plain_attention, use_own_attention
from alpaca.modeling.fused import unfuse
from alpaca.modeling.layers import without_dropout
from alpaca.training.batches import Layout, label_tensors, model_inputs
from alpaca.training.guards import is_out_of_memory
from alpaca.training.loss import supervised_loss, token_losses
from alpaca.training.precision import Compute
from alpaca.training.sharding import local
from alpaca.training.world import World

ROWS = 3
COMPARED_WEIGHTS = 1 << 26  # gradients of at most so many weights are held twice: 512 MiB

# Largest relative difference of loss and of gradient: rounding of sums taken in another order. In bf16 a
# number carries 8 bits: on SmolLM2-135M the gradients of either way lie 3 % (full) to 5 % (LoRA) from those of
# fp32, ours no farther than the model's own, and 3 to 6 % from each other; a leak is seen bit for bit besides.
# A base in 4 or 8 bits is the same base in both ways, so nothing is added for it: NF4 in bf16 differs by 0.8 % in
# loss and 5 % in gradient on SmolLM2-135M, in fp32 by 1e-7 and 5e-7 on the tiny model.
BOUNDS = {"fp32": (1e-5, 1e-5), "bf16": (2e-2, 1.5e-1), "fp16": (3e-3, 2e-2)}


# Largest change of earlier logits, relative to the largest of them, by another last token. Causal models of random
# weights give 0 exactly, encoders 4e-4 and more in fp32 (5e-3 in bf16), trained ones far more. Experts may round
# otherwise when other tokens come to them.
AHEAD = {"fp32": 1e-4, "bf16": 2e-3, "fp16": 2e-3}
AHEAD_AT_MOST = 5e-2


@dataclass(frozen=True)
class SelfCheck:
    """What was compared: relative differences, and the largest change of a loss that should not change.

    `error` is set instead where the layout could not be computed at all.
    """

    rows: int
    loss: float
    gradient: float
    leak: float
    error: str = ""

    def holds(self, precision: str) -> bool:
        """Whether nothing differs by more than rounding in `precision`."""
        loss, gradient = BOUNDS[precision]
        return not self.error and self.loss <= loss and self.gradient <= gradient and self.leak == 0.0

    def difference(self, precision: str) -> str:
        """What was found and what is allowed, in words."""
        loss, gradient = BOUNDS[precision]
        return self.error or (
            f"loss off by {self.loss:.1e} (allowed {loss:g}), gradient by {self.gradient:.1e} (allowed {gradient:g}), "
            f"one row changed another's loss by {self.leak:.1e} (allowed 0)"
        )


def self_check(
    model: nn.Module, examples: Examples, layout: Layout, compute: Compute, world: World | None = None
) -> SelfCheck:
    """Compare one layout with the rows one at a time.

    Raises:
        RunFailed: the model cannot be run on one row, or it is not causal.
    """
    chosen = np.argsort(examples.lengths, kind="stable")[:ROWS]
    parameters = _compared(model)
    expected = _reference(model, examples, chosen, compute, parameters)
    return _compare(model, examples, chosen, layout, compute, world or World(), parameters, expected)


def exact_layout(
    model: nn.Module, examples: Examples, layout: Layout, compute: Compute, world: World | None = None
) -> tuple[Layout, SelfCheck, list[str]]:
    """The first of `layout` and those slower than it that is exact, its check, and why each one before is not.

    `model` is left with its own attention where packing is given up. Where weights are split over ranks, all of
    them compute the same and each compares its own slices; every rank comes to the same layout.

    Raises:
        RunFailed: no layout is exact, or the model cannot be run at all.
    """
    world = world or World()
    chosen = np.argsort(examples.lengths, kind="stable")[:ROWS]
    parameters = _compared(model)
    expected = _reference(model, examples, chosen, compute, parameters)
    reasons: list[str] = []
    slower = _slower(layout)
    plainest = [candidate for candidate in slower if not candidate.packed]
    for number, candidate in enumerate(slower + plainest):
        words = candidate.in_words
        if not candidate.packed:
            use_own_attention(model)
        if number >= len(slower):
            unfuse(model)
            words += " through transformers' own layers"
        found = _compare(model, examples, chosen, candidate, compute, world, parameters, expected)
        misses = torch.tensor([float(not found.holds(compute.precision))], dtype=torch.float64)
        if not world.sum(misses).any():
            return candidate, found, reasons
        reasons.append(f"{words}: {found.difference(compute.precision)}")
    lower = "set train.precision=fp32, or " if compute.precision != "fp32" else ""
    raise RunFailed(
        f"self-check: {len(chosen)} rows of this model do not give the numbers of the same rows one at a time, "
        f"{'; '.join(reasons)}; {lower}train.self_check=false trains it with that difference"
    )


def _slower(layout: Layout) -> list[Layout]:
    """`layout` and what may be exact where it is not, the fastest first."""
    candidates = [layout]
    if layout.packed and layout.share_prefix:
        candidates.append(replace(layout, share_prefix=False))
    if layout.packed:
        candidates.append(replace(layout, share_prefix=False, packed=False))
    if not layout.one_by_one:
        candidates.append(replace(layout, share_prefix=False, packed=False, one_by_one=True))
    return candidates


def _reference(
    model: nn.Module, examples: Examples, chosen: np.ndarray, compute: Compute, parameters: list[nn.Parameter]
) -> tuple[float, list[torch.Tensor]]:
    try:
        reads_ahead = _reads_ahead(model, examples, int(chosen[-1]), compute)
        expected = _summed(model, _one_at_a_time(model, examples, chosen, compute), parameters)
    except Exception as error:
        if is_out_of_memory(error):
            raise
        raise RunFailed(
            f"self-check: this model cannot be run on one row by itself ({_reason(error)}); choose another model=, or "
            "other sizes in model.architecture"
        ) from error
    inner: Any = model.get_base_model() if hasattr(model, "get_base_model") else model  # type: ignore[operator]
    encoder = getattr(inner.config, "is_decoder", None) is False  # whose attention is causal only if it says so
    if reads_ahead > (AHEAD[compute.precision] if encoder else AHEAD_AT_MOST):
        raise RunFailed(
            f"self-check: this model reads ahead, another last token changed the logits before it by {reads_ahead:.1e} "
            "of their largest; it would see the answers it is to learn; choose a causal model=, or with an encoder "
            "+model.architecture.is_decoder=true"
        )
    return expected


@torch.no_grad()
def _reads_ahead(model: nn.Module, examples: Examples, index: int, compute: Compute) -> float:
    """Largest change of a row's logits but the last when its last token is another, relative to the largest."""
    ids = torch.from_numpy(examples.ids(index).astype(np.int64)).to(compute.device)[None]
    others = ids[0][ids[0] != ids[0, -1]]
    if not len(others):
        return 0.0
    other = ids.clone()
    other[0, -1] = others[0]
    with plain_attention(model) as plain, torch.compiler.set_stance("force_eager"), compute.autocast():
        first, second = (plain(input_ids=one, use_cache=False).logits[0, :-1].float() for one in (ids, other))
    return float((first - second).abs().max() / first.abs().max().clamp_min(1e-12))


def _compare(
    model: nn.Module,
    examples: Examples,
    chosen: np.ndarray,
    layout: Layout,
    compute: Compute,
    world: World,
    parameters: list[nn.Parameter],
    expected: tuple[float, list[torch.Tensor]],
) -> SelfCheck:
    error, loss, leak = "", 0.0, 0.0
    squares = [0.0, 0.0, 0.0]
    try:
        with without_dropout(model):
            loss, gradient = _summed(model, _together(model, examples, chosen, layout, compute), parameters)
            leak = _leak(model, examples, chosen, layout, compute)
        squares[0] = sum(float((ours - theirs).square().sum()) for ours, theirs in zip(gradient, expected[1]))
        squares[1] = sum(float(theirs.square().sum()) for theirs in expected[1])
    except Exception as raised:
        if is_out_of_memory(raised):
            raise
        model.zero_grad(set_to_none=True)
        error, squares[2] = f"it fails ({_reason(raised)})", 1.0
    difference, norm, failed = world.sum(torch.tensor(squares, dtype=torch.float64)).tolist()
    return SelfCheck(
        rows=len(chosen),
        loss=abs(loss - expected[0]) / max(abs(expected[0]), 1e-12),
        gradient=(difference / max(norm, 1e-30)) ** 0.5,
        leak=leak,
        error=error or ("it fails on another rank" if failed else ""),
    )


def _reason(error: BaseException) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, UserError):
        return text.partition(";")[0]  # the way out that follows is what is being tried
    return f"{type(error).__name__}: {text[:160]}" if text else type(error).__name__


def _compared(model: nn.Module, at_most: int = COMPARED_WEIGHTS) -> list[nn.Parameter]:
    """Trained parameters from the first to the last layer, evenly thinned out to a bounded number of weights."""
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    total = sum(parameter.numel() for parameter in trained)
    every = max(1, -(-total // at_most)) | 1  # odd: of a LoRA's A and B in turn, both are met
    return trained[::every]


def _summed(
    model: nn.Module, losses: Iterator[torch.Tensor], parameters: list[nn.Parameter]
) -> tuple[float, list[torch.Tensor]]:
    """Sum of the losses and of their gradients, in fp32: of split weights this rank's slices."""
    total = 0.0
    for loss in losses:
        loss.backward()
        total += float(loss.detach())
    gradients = [
        torch.zeros((), device=parameter.device) if parameter.grad is None else local(parameter.grad).float().clone()
        for parameter in parameters
    ]
    model.zero_grad(set_to_none=True)
    return total, gradients


def _laid_out(examples: Examples, chosen: np.ndarray, layout: Layout) -> list[MicroBatch]:
    """The rows as one micro-batch, or as many as rows where the layout takes them one by one."""
    if layout.one_by_one:
        return [layout.lay_out(examples, chosen[index : index + 1]) for index in range(len(chosen))]
    return [layout.lay_out(examples, chosen)]


def _together(
    model: nn.Module, examples: Examples, chosen: np.ndarray, layout: Layout, compute: Compute
) -> Iterator[torch.Tensor]:
    labels = int(examples.supervised[chosen].sum())
    for batch in _laid_out(examples, chosen, layout):
        with compute.autocast():
            summed = supervised_loss(model, model_inputs(batch, compute.device), *label_tensors(batch, compute.device))
        yield summed / labels


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
            # fp32 would lose more in the sum over a large vocabulary than is allowed (see `loss.py`).
            yield F.cross_entropy(logits.double(), ids[first:], reduction="sum") / labels


def _leak(model: nn.Module, examples: Examples, chosen: np.ndarray, layout: Layout, compute: Compute) -> float:
    """Largest change of the other rows' token losses when one row's response gets other tokens."""
    if len(chosen) < 2 or layout.one_by_one:
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
