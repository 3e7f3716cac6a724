"""One training: the Trainer's arguments, its metrics and its progress bar."""

from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from alpaca.config import Config
from alpaca.data.encoding import Examples
from alpaca.data.steps import StepPlan
from alpaca.tracking.run_directory import RunDirectory
from alpaca.tracking.terminal import Terminal
from alpaca.tracking.wandb_run import WandbRun
from alpaca.training.batches import Layout, Steps
from alpaca.training.flops import ModelFlops, peak_tflops
from alpaca.training.metering import Meter
from alpaca.training.optimizers import build_optimizer, learning_rate_factor, peak_learning_rate
from alpaca.training.precision import Compute
from alpaca.training.schedule_free import settle
from alpaca.training.trainer import AlpacaTrainer


@dataclass(frozen=True)
class Session:
    """A run under way: its settings, device, directory and where it is shown."""

    config: Config
    compute: Compute
    directory: RunDirectory
    terminal: Terminal
    tracker: WandbRun


class LogLastStep(TrainerCallback):
    """The last step is logged whatever `train.log_every_steps` is, so that no step is missing from the metrics."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Ask for a log line after the last step."""
        control.should_log |= state.global_step == state.max_steps


def train(session: Session, model: nn.Module, examples: Examples, plan: StepPlan, layout: Layout) -> Meter:
    """Train `model` in place over the whole plan; returns what was counted and timed."""
    config, compute = session.config, session.compute
    meter = Meter(compute.device, ModelFlops.of(model), peak_tflops(compute.device, compute.precision))
    rate = peak_learning_rate(config.optimizer, config.adapter)
    with session.terminal.progress("training", plan.steps) as bar:

        def on_metrics(logs: dict[str, float]) -> None:
            metrics = {
                "train/loss": logs["loss"],
                "train/learning_rate": logs["learning_rate"],
                "train/grad_norm": float(logs["grad_norm"]),
                **meter.metrics(),
            }
            step = trainer.state.global_step
            session.directory.log_metrics(step, plan.epoch_after(step), metrics)
            session.tracker.log(step, metrics)
            shown = f"loss {logs['loss']:.4f}  {metrics['perf/logical_tokens_per_s']:,.0f} tokens/s"
            if "perf/mfu" in metrics:
                shown += f"  {metrics['perf/mfu']:.0%} MFU"
            bar.advance(step - bar.done, shown)

        trainer = AlpacaTrainer(
            model=model,
            arguments=training_arguments(config, compute, str(session.directory.path / "checkpoints"), plan.steps),
            steps=Steps(examples, plan, layout),
            compute=compute,
            optimizer=lambda wrapped: build_optimizer(
                wrapped, config.optimizer, rate, b_lr_ratio=config.adapter.b_lr_ratio
            ),
            learning_rate_factor=learning_rate_factor(
                config.optimizer.schedule, config.optimizer.warmup, plan.steps, config.optimizer.decay_share
            ),
            meter=meter,
            on_metrics=on_metrics,
            callbacks=[LogLastStep()],
        )
        meter.start()
        trainer.train()
        meter.stop()
        settle(trainer.optimizer)
    return meter


def training_arguments(config: Config, compute: Compute, folder: str, steps: int) -> TrainingArguments:
    """What of the Trainer is used: loop, clipping, fp16 loss scaling; its logging and saving are ours."""
    arguments = TrainingArguments(
        output_dir=folder,
        max_steps=steps,
        per_device_train_batch_size=1,
        max_grad_norm=config.train.max_grad_norm or 0.0,
        logging_steps=config.train.log_every_steps,
        logging_nan_inf_filter=False,
        save_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        fp16=compute.precision == "fp16",
        use_cpu=compute.device.type == "cpu",
        seed=config.train.seed,
    )
    if arguments.n_gpu > 1:
        arguments._n_gpu = 1  # one device was asked for: the Trainer would wrap the model in DataParallel
    return arguments
