"""A subclass of `transformers.Trainer` that overrides only how a step's batches come and how their loss is summed.

One item of the data loader is one optimizer step: this rank's micro-batches, already laid out. Their
summed losses are divided by the number of supervised tokens of the whole step over all ranks, which
the plan knows beforehand. Optimizer, clipping, schedule, callbacks and state stay the Trainer's.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments

from alpaca.training.batches import Step, Steps, label_tensors, model_inputs
from alpaca.training.loss import supervised_loss
from alpaca.training.metering import Meter
from alpaca.training.precision import Compute


class AlpacaTrainer(Trainer):
    """Trains on `Steps`; hands every log line to `on_metrics` as plain numbers."""

    def __init__(
        self,
        *,
        model: nn.Module,
        arguments: TrainingArguments,
        steps: Steps,
        compute: Compute,
        optimizer: Callable[[nn.Module], torch.optim.Optimizer],
        learning_rate_factor: Callable[[int], float],
        meter: Meter,
        on_metrics: Callable[[dict[str, float]], None],
        callbacks: list[TrainerCallback] | None = None,
    ):
        self.optimizer: Any
        self.lr_scheduler: Any
        super().__init__(model=model, args=arguments, train_dataset=steps, callbacks=callbacks)
        self.compute = compute
        self._build_optimizer, self._learning_rate_factor = optimizer, learning_rate_factor
        self._meter, self._on_metrics = meter, on_metrics

    def get_train_dataloader(self) -> DataLoader[Step]:
        """Steps in order; each rank makes its own share, so nothing is left for accelerate to divide."""
        assert isinstance(self.train_dataset, Steps)
        return DataLoader(self.train_dataset, batch_size=None, shuffle=False)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Step], num_batches: int, device: torch.device
    ) -> tuple[list[Step], None]:
        """One step; its token count comes with it."""
        started = time.perf_counter()
        step = next(epoch_iterator)
        self._meter.waited(time.perf_counter() - started)
        return [step], None

    def training_step(
        self, model: nn.Module, inputs: Step, num_items_in_batch: torch.Tensor | int | None = None
    ) -> torch.Tensor:
        """Backward of every micro-batch; returns the step's loss: the mean over its supervised tokens."""
        model.train()
        total = torch.zeros((), device=self.compute.device)
        for number, batch in enumerate(inputs.micro_batches, 1):
            last = number == len(inputs.micro_batches)
            with contextlib.nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute.autocast():
                    summed = supervised_loss(
                        model, model_inputs(batch, self.compute.device), *label_tensors(batch, self.compute.device)
                    )
                loss = summed / inputs.supervised
                self.accelerator.backward(loss)
            total += loss.detach()
        self._meter.observe(inputs)
        return total

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        """The run's own optimizer over the trained parameters."""
        if self.optimizer is None:
            self.optimizer = self._build_optimizer(model or self.model)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> LambdaLR:
        """The run's own schedule."""
        if self.lr_scheduler is None:
            self.lr_scheduler = LambdaLR(optimizer or self.optimizer, self._learning_rate_factor)
            self._created_lr_scheduler = True
        return self.lr_scheduler

    def floating_point_ops(self, inputs: Any) -> int:
        """Left to our own metering."""
        return 0

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Metrics of the last step go to the run; the Trainer's closing summary does not."""
        if "loss" in logs:
            self._on_metrics(logs)
