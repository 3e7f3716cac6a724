"""The training loop: one optimizer step after another, the same on every rank.

A step is this rank's micro-batches, already laid out. Their summed losses are divided by the supervised
tokens of the whole step over all ranks, which the plan knows beforehand; gradients are summed over ranks
by the wrapper. The loop is torch's own pieces put in order. (It was transformers' Trainer at first: that
cannot start in the middle of the data without files of its own format, repeat a step with smaller
micro-batches, or stop before a non-finite update.)
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from alpaca.config import Config
from alpaca.errors import RunFailed
from alpaca.tracking.run_directory import RunDirectory
from alpaca.tracking.terminal import Terminal
from alpaca.tracking.wandb_run import WandbRun
from alpaca.training import guards
from alpaca.training.batches import Step, Steps, label_tensors, model_inputs
from alpaca.training.loss import supervised_loss
from alpaca.training.metering import Meter
from alpaca.training.optimizers import learning_rate_factor
from alpaca.training.precision import Compute
from alpaca.training.sharding import collect_gradients, gathered, trained
from alpaca.training.stopping import Stopping
from alpaca.training.watchdog import Beats
from alpaca.training.world import World

SMALLEST_SCALE = 2.0**-14  # below this fp16 has lost every gradient that a scale of 1 would keep


@dataclass(frozen=True)
class Session:
    """A run under way as one rank has it: settings, device, other ranks, and where rank 0 writes and shows it."""

    config: Config
    compute: Compute
    directory: RunDirectory
    terminal: Terminal
    tracker: WandbRun
    world: World
    stopping: Stopping
    beats: Beats


@dataclass
class LossScale:
    """fp16 gradients are computed times a factor, halved when they overflow and doubled after 2,000 that did not.

    The same on every rank, since it is decided by the norm of the whole gradient (Micikevicius et al. 2018,
    arXiv:1710.03740). 1 where the precision needs none.
    """

    value: float = 1.0
    good_steps: int = 0
    GROWTH_EVERY = 2000

    @staticmethod
    def of(precision: str) -> "LossScale":
        """The scale to begin with."""
        return LossScale(2.0**16 if precision == "fp16" else 1.0)

    def update(self, finite: bool) -> None:
        """Take note of one step's gradient."""
        if not finite:
            self.value, self.good_steps = self.value / 2, 0
        elif self.good_steps + 1 == self.GROWTH_EVERY:
            self.value, self.good_steps = self.value * 2, 0
        else:
            self.good_steps += 1


@dataclass
class Progress:
    """What changes from step to step, beside weights and optimizer; a checkpoint keeps it.

    Attributes:
        step: optimizer steps done.
        optimizer: its parameter groups hold the peak learning rate under `peak_lr`.
        scale: fp16's loss scale.
        recent: losses of the steps since the last line of metrics.
        best: step and value of the best measurement so far, with train.keep_best.
    """

    step: int
    optimizer: torch.optim.Optimizer
    scale: LossScale
    recent: list[float] = field(default_factory=list)
    best: dict[str, float] | None = None


def train(
    session: Session,
    model: nn.Module,
    steps: Steps,
    progress: Progress,
    meter: Meter,
    after_step: Callable[[int], None] = lambda step: None,
) -> None:
    """Train `model` in place from `progress.step` to the end of the plan.

    Args:
        after_step: called with the number of steps done after each of them; may save, score, or raise.

    Raises:
        RunFailed: loss or gradient are not finite, or memory does not suffice.
        Stopped: a signal asked for the end; the step under way was finished.
    """
    config, plan = session.config, steps.plan
    rule = config.optimizer
    factor = learning_rate_factor(rule.schedule, rule.warmup, plan.steps, rule.decay_share)
    with (
        session.terminal.progress("training", plan.steps) as bar,
        ThreadPoolExecutor(1, thread_name_prefix="batches") as ahead,
    ):
        if progress.step:
            bar.resume_at(progress.step)
        meter.start()
        for number, (step, waited) in _prefetched(steps, progress.step, ahead):
            meter.waited(waited)
            for group in progress.optimizer.param_groups:
                group["lr"] = group["peak_lr"] * factor(number)
            session.beats.beat(f"step {number + 1}")
            loss, norm = _update(session, model, steps, step, number, progress)
            meter.observe(step)
            progress.step = number + 1
            stop = session.stopping.asked
            session.beats.beat()  # this rank has done its part: a stuck one is told from those that wait for it
            if not session.world.alone:
                shared = torch.tensor([loss, float(stop)], dtype=torch.float64)
                loss, stop = session.world.sum(shared).tolist()
            _check_finite(session, steps, number, loss, norm)
            progress.recent.append(loss)
            if progress.step % config.train.log_every_steps == 0 or progress.step == plan.steps:
                mean = math.fsum(progress.recent) / len(progress.recent)
                progress.recent.clear()
                _log(session, progress, mean, norm, meter, plan.epoch_after(progress.step), bar)
            after_step(progress.step)
            if stop and progress.step < plan.steps:
                session.stopping.stop()
    meter.stop()


def _prefetched(steps: Steps, start: int, ahead: ThreadPoolExecutor) -> Iterator[tuple[int, tuple[Step, float]]]:
    """Number and content of each step from `start` on, with the seconds waited; the next one is made meanwhile."""
    layout, coming = steps.layout, ahead.submit(steps.__getitem__, start) if start < len(steps) else None
    for number in range(start, len(steps)):
        assert coming is not None
        before = time.perf_counter()
        step = coming.result()
        if layout is not steps.layout:  # made before memory ran out
            step = steps[number]
        layout = steps.layout
        if number + 1 < len(steps):
            coming = ahead.submit(steps.__getitem__, number + 1)
        yield number, (step, time.perf_counter() - before)


def _update(
    session: Session, model: nn.Module, steps: Steps, step: Step, number: int, progress: Progress
) -> tuple[float, float]:
    """One optimizer step; this rank's part of the loss and the norm of the whole gradient before clipping."""
    train = session.config.train
    parameters = list(trained(model).values())
    while True:
        try:
            loss = _backward(session, model, step, progress.scale.value)
            break
        except (RuntimeError, MemoryError) as error:
            if not guards.is_out_of_memory(error):
                raise
            # Outside of this block the error is gone, and with it the frames that hold the failed pass.
        progress.optimizer.zero_grad(set_to_none=True)
        step = _smaller(session, steps, number)
    if progress.scale.value != 1.0:
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        torch._foreach_mul_(gradients, 1 / progress.scale.value)
    with guards.memory_advice(session.config, steps.layout):
        limit = train.max_grad_norm or math.inf
        norm = float(gathered(torch.nn.utils.clip_grad_norm_(parameters, limit)))
        if math.isfinite(norm):
            progress.optimizer.step()
        progress.optimizer.zero_grad(set_to_none=True)
    if session.compute.precision == "fp16":
        progress.scale.update(math.isfinite(norm))
        if progress.scale.value < SMALLEST_SCALE:
            raise RunFailed(
                f"step {number + 1}: no gradient was finite in fp16 however small the loss was scaled; lower "
                "optimizer.lr or set train.precision=fp32"
            )
    return loss, norm


def _backward(session: Session, model: nn.Module, step: Step, scale: float) -> float:
    """Gradients of all of this rank's micro-batches; returns its part of the step's mean loss.

    Wrappers average gradients over ranks, so each rank's part counts `world.size` times.
    """
    model.train()
    device = session.compute.device
    with _exchange_restored(model):
        parts = []
        for index, batch in enumerate(step.micro_batches, 1):
            collect_gradients(model, index == len(step.micro_batches))
            with session.compute.autocast():
                summed = supervised_loss(model, model_inputs(batch, device), *label_tensors(batch, device))
            (summed * (scale * session.world.size / step.supervised)).backward()
            parts.append(summed.detach())
            session.beats.beat()
        return float(torch.stack(parts).double().sum()) / step.supervised


@contextlib.contextmanager
def _exchange_restored(model: nn.Module) -> Iterator[None]:
    """Whatever happens inside, gradients are exchanged again afterwards."""
    try:
        yield
    finally:
        collect_gradients(model, True)


def _smaller(session: Session, steps: Steps, number: int) -> Step:
    """The same step in micro-batches of half the size; raises where that is not asked for or not possible."""
    before = steps.layout.micro_batch_tokens
    longest = int(steps.examples.lengths.max())
    if not session.world.alone or session.config.train.on_oom != "halve_micro_batch" or before // 2 < longest:
        raise RunFailed(guards.out_of_memory(session.config, steps.layout, longest))
    guards.release_memory()
    steps.layout = replace(steps.layout, micro_batch_tokens=before // 2)
    session.directory.note_choice("micro_batch_tokens", before // 2)
    session.terminal.warn(
        f"out of memory in step {number + 1}: micro-batches of {before // 2:,} tokens from here on (train.on_oom); "
        f"the step is repeated, the numbers stay the same"
    )
    return steps[number]


def _check_finite(session: Session, steps: Steps, number: int, loss: float, norm: float) -> None:
    if math.isfinite(loss) and (math.isfinite(norm) or session.compute.precision == "fp16"):
        return
    rows = sorted({int(row) for row in steps.examples.rows[steps.plan.step_examples(number)]})
    if session.world.is_main:
        content = {"step": number + 1, "loss": str(loss), "grad_norm": str(norm), "rows": rows}
        session.directory.write_json("nonfinite.json", content)
    what = "loss" if not math.isfinite(loss) else "gradient"
    raise RunFailed(
        f"step {number + 1}: the {what} is {loss if what == 'loss' else norm}; the weights were left as they were, "
        f"the step's rows are named in {session.directory.path / 'nonfinite.json'}; lower optimizer.lr, set "
        "train.precision=fp32, or look at those rows"
    )


def _log(session: Session, progress: Progress, loss: float, norm: float, meter: Meter, epoch: float, bar: Any) -> None:
    metrics = {
        "train/loss": loss,
        "train/learning_rate": progress.optimizer.param_groups[0]["lr"],
        "train/grad_norm": norm,
        **meter.metrics(),
    }
    if not session.world.is_main:
        return
    session.directory.log_metrics(progress.step, epoch, metrics)
    session.tracker.log(progress.step, metrics)
    shown = f"loss {loss:.4f}  {metrics['perf/logical_tokens_per_s']:,.0f} tokens/s"
    if "perf/mfu" in metrics:
        shown += f"  {metrics['perf/mfu']:.0%} MFU"
    bar.advance(progress.step - bar.done, shown)
