"""The part of a run that one process trains: from its start or the newest checkpoint to the end, or to a signal."""

from typing import Any

from torch import nn

from alpaca.errors import RunFailed, UserError
from alpaca.evaluation.held_out import HeldOut
from alpaca.evaluation.losses import held_out_losses
from alpaca.training.batches import Steps
from alpaca.training.best import Best
from alpaca.training.checkpoint import Checkpoints, Reader
from alpaca.training.flops import counted, peak_tflops
from alpaca.training.loop import LossScale, Progress, Session, train
from alpaca.training.metering import Meter
from alpaca.training.optimizers import build_optimizer, peak_learning_rate
from alpaca.training.schedule_free import averaged, settle
from alpaca.training.scoring import watch
from alpaca.training.sharding import whole_weights, without_wrapper
from alpaca.training.state import facts_of, restore, tensors_of


class Segment:
    """Optimizer, checkpoints and meter around the loop."""

    def __init__(self, session: Session, model: nn.Module, steps: Steps, held_out: HeldOut | None):
        config, compute = session.config, session.compute
        self.session, self.model, self.steps, self.held_out = session, model, steps, held_out
        self.checkpoints = Checkpoints(session.directory.path / "checkpoints", session.world, compute.device)
        self.meter = Meter(
            compute.device, counted(without_wrapper(model)), peak_tflops(compute.device, compute.precision)
        )
        rate = peak_learning_rate(config.optimizer, config.adapter)
        optimizer = build_optimizer(model, config.optimizer, rate, b_lr_ratio=config.adapter.b_lr_ratio)
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
        self.progress = Progress(0, optimizer, LossScale.of(compute.precision))
        self._saved_at = 0
        metric = config.train.keep_best
        self.best = (
            Best(metric, session.directory.path, session.world, compute.device)
            if metric is not None and held_out is not None
            else None
        )

    def begin(self) -> bool:
        """Take up the newest whole checkpoint; False where there is none and the run begins anew.

        Raises:
            UserError: the checkpoint is of another model.
        """
        session = self.session
        self.checkpoints.clean()
        found = self.checkpoints.newest(on_bad=session.terminal.warn)
        if found is None:
            if (named := session.config.train.resume) not in ("auto", "never"):
                raise UserError(
                    f"train.resume={named}: it has no whole checkpoint to go on from; train.resume=never begins a new "
                    "run, train.resume=auto this one again"
                )
            if session.directory.goes_on:
                session.terminal.print("[bold]resume[/] no whole checkpoint: this run begins again in its folder")
            session.directory.rewind(-1)
            if self.best is not None:
                self.best.begin(None)
            return False
        restore(Reader(found), self.model, self.progress, self.meter, session.world, session.compute.device)
        self._saved_at = self.progress.step
        if self.best is not None:
            self.best.begin(self.progress.best)
        session.directory.rewind(self.progress.step)
        session.terminal.print(
            f"[bold]resume[/] from {found.name}: {self.progress.step:,} of {self.steps.plan.steps:,} steps are done"
        )
        return True

    def train(self) -> Meter:
        """The rest of the plan; returns the meter of the whole run."""
        try:
            with self.session.stopping.between_steps(self._save_unless_saved):
                train(self.session, self.model, self.steps, self.progress, self.meter, self._after_step)
                if self.session.stopping.asked:
                    self._save_unless_saved()
                self.checkpoints.wait()
        finally:
            self.checkpoints.close()
        settle(self.progress.optimizer)
        if self.best is not None and self.progress.best is not None:
            self.best.restore(self.progress.best, self.model)
        return self.meter

    def _after_step(self, step: int) -> None:
        train, plan = self.session.config.train, self.steps.plan
        if step == 1 and train.rehearse_save:
            self._rehearse()
        if self.held_out is not None and self._is_measured(step):
            self._evaluate(step)
        epoch_ends = step == plan.steps or int(plan.epoch_after(step)) > int(plan.epoch_after(step - 1))
        every = train.save_every_steps
        if (every and step % every == 0) or (train.save_every_epoch and epoch_ends):
            self._save()

    def _is_measured(self, step: int) -> bool:
        every = self.session.config.train.eval_every_steps
        last = self.best is not None and step == self.steps.plan.steps  # the last model is a candidate too
        return every is not None and (step % every == 0 or last)

    def _save(self) -> None:
        self.session.beats.beat("saving a checkpoint")
        keep = self.session.config.train.keep_checkpoints
        self.checkpoints.save(self.progress.step, self._tensors(), self._facts(), keep=keep)
        self._saved_at = self.progress.step
        if self.best is not None:
            self.checkpoints.wait()
            self.best.checkpointed(self.progress.best)

    def _save_unless_saved(self) -> None:
        if self._saved_at != self.progress.step:
            self._save()
        self.checkpoints.wait()

    def _rehearse(self) -> None:
        """Everything that saving needs, once, while little is lost: the gathered result and a checkpoint."""
        self.session.beats.beat("rehearsing a save")
        try:
            whole_weights(self.model, keep=self.session.world.is_main)
            self.checkpoints.rehearse(self._tensors(), self._facts())
        except RunFailed as error:
            raise RunFailed(f"rehearsal after the first step: {error}") from error

    def _evaluate(self, step: int) -> None:
        """Held-out losses and answers to the watched rows; with train.keep_best the best weights are kept."""
        assert self.held_out is not None
        session, epoch = self.session, self.steps.plan.epoch_after(step)
        with averaged(self.progress.optimizer):
            metrics = held_out_losses(
                self.model,
                self.held_out.examples,
                self.held_out.response_bytes(),
                compute=session.compute,
                layout=self.steps.layout,
                world=session.world,
            ).metrics()
            if (quick := session.config.evaluation.quick) is not None and quick.watch_rows:
                metrics |= watch(session, quick, self.held_out, self.model, step, epoch)
            if self.best is not None:
                session.beats.beat("keeping the best model")
                self.progress.best = self.best.observe(step, metrics, self.progress.best, self.model)
        if session.world.is_main:
            session.directory.log_metrics(step, epoch, metrics)
            session.tracker.log(step, metrics)

    def _tensors(self) -> dict[str, Any]:
        session = self.session
        return tensors_of(self.model, self.progress.optimizer, session.world, session.compute.device)

    def _facts(self) -> dict[str, Any]:
        session = self.session
        return facts_of(self.model, self.progress, self.meter, session.directory.identity, session.world)
