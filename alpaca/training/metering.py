"""Throughput, memory and time of the steps between two log lines, and totals over the run."""

import resource
import sys
import time

import torch

from alpaca.evaluation.scores import HIGHER, LOWER
from alpaca.training.batches import Step
from alpaca.training.flops import ModelFlops

DIRECTIONS = {
    "perf/logical_tokens_per_s": HIGHER,
    "perf/executed_tokens_per_s": HIGHER,
    "perf/supervised_tokens_per_s": HIGHER,
    "perf/model_tflops": HIGHER,
    "perf/mfu": HIGHER,
    "perf/packing": HIGHER,
    "perf/sharing": LOWER,
    "perf/data_wait": LOWER,
    "perf/step_time_s": LOWER,
    "perf/peak_memory_gib": LOWER,
}


class Meter:
    """Counts what `observe` sees and turns it into `perf/` metrics at each log line; costs microseconds a step."""

    def __init__(self, device: torch.device, flops: ModelFlops | None, peak_tflops: float | None):
        self.device, self.flops, self.peak_tflops = device, flops, peak_tflops
        self.examples = self.logical = self.supervised = self.executed = 0
        self.started = self._since = self._ended = time.perf_counter()
        self._before = 0.0
        self._clear()

    def _clear(self) -> None:
        self._steps = self._logical = self._executed = self._supervised = self._padding = 0
        self._operations = self._waited = 0.0

    def start(self) -> None:
        """Begin timing; the first step starts now."""
        self.started = self._since = self._ended = time.perf_counter()
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()

    def stop(self) -> None:
        """The last step is done."""
        self._ended = time.perf_counter()

    def totals(self) -> dict[str, float]:
        """What a checkpoint keeps, so that the totals of a run do not depend on where it was cut."""
        spent = self._before + time.perf_counter() - self.started
        counts = ("examples", "logical", "supervised", "executed")
        return {"train_time_s": spent, **{name: getattr(self, name) for name in counts}}

    def resume(self, totals: dict[str, float]) -> None:
        """Go on from the totals of a checkpoint."""
        self._before = totals["train_time_s"]
        for name in ("examples", "logical", "supervised", "executed"):
            setattr(self, name, int(totals[name]))

    def waited(self, seconds: float) -> None:
        """Time spent on getting a step's micro-batches ready."""
        self._waited += seconds

    def observe(self, step: Step) -> None:
        """Count one step whose backward passes are done."""
        executed = sum(batch.executed for batch in step.micro_batches)
        self._steps += 1
        self._logical += step.logical
        self._executed += executed
        self._supervised += step.supervised
        self._padding += sum(int((~batch.mask).sum()) for batch in step.micro_batches if batch.mask is not None)
        if self.flops is not None:
            self._operations += sum(self.flops.training_step(batch) for batch in step.micro_batches)
        self.examples += step.examples
        self.logical += step.logical
        self.supervised += step.supervised
        self.executed += executed

    def metrics(self) -> dict[str, float]:
        """Metrics since the last call. Logical and supervised tokens are of all ranks, executed ones of this rank.

        `perf/packing` is the share of executed tokens that are no padding, `perf/sharing` executed over
        logical tokens of a run on one rank, `perf/data_wait` the share of time spent on making batches.
        """
        now = time.perf_counter()
        elapsed, steps = now - self._since, max(1, self._steps)
        tflops = self._operations / elapsed / 1e12
        found = {
            "perf/logical_tokens_per_s": self._logical / elapsed,
            "perf/executed_tokens_per_s": self._executed / elapsed,
            "perf/supervised_tokens_per_s": self._supervised / elapsed,
            "perf/packing": 1 - self._padding / max(1, self._executed),
            "perf/sharing": self._executed / max(1, self._logical),
            "perf/data_wait": self._waited / elapsed,
            "perf/step_time_s": elapsed / steps,
            "perf/peak_memory_gib": peak_memory_gib(self.device),
        }
        if self.flops is not None:
            found["perf/model_tflops"] = tflops
            if self.peak_tflops is not None:
                found["perf/mfu"] = tflops / self.peak_tflops
        self._since = now
        self._clear()
        return found

    @property
    def train_time_s(self) -> float:
        """Seconds from `start` to `stop`, and those of earlier processes of the run."""
        return max(self._before + self._ended - self.started, 1e-9)


def peak_memory_gib(device: torch.device) -> float:
    """GiB: allocated on the accelerator since training began, or resident in this process since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    unit = 1 if sys.platform == "darwin" else 1024  # getrusage counts KiB on Linux, bytes on macOS
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 2**30
