"""The best model so far by a held-out metric, kept beside the checkpoints until it becomes the run's result.

`best/step-N/` holds the trained weights alone, written like a checkpoint: complete or absent, by every rank. A
checkpoint says which step was the best when it was written; that one is left until the next checkpoint, so that a
run which goes on from it finds what it knew. Measurements of steps after the checkpoint are made again.
"""

import math
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import nn

from alpaca.errors import RunFailed
from alpaca.evaluation.losses import DIRECTIONS as LOSSES
from alpaca.evaluation.scores import HIGHER
from alpaca.training.checkpoint import Checkpoints, Reader, damage
from alpaca.training.scoring import WATCHED
from alpaca.training.sharding import trained
from alpaca.training.world import World

DIRECTIONS = {**LOSSES, **WATCHED}
ALL = 1 << 30  # none is removed by `Checkpoints`: which ones may go is decided here


class Best:
    """The best weights of a run as one rank keeps them."""

    def __init__(self, metric: str, run: Path, world: World, device: torch.device):
        self.metric, self._world = metric, world
        self._kept = Checkpoints(run / "best", world, device)
        self._in_checkpoint: int | None = None

    def begin(self, known: dict[str, float] | None) -> None:
        """Go on from a checkpoint that knew `known`, or anew: whatever else is there belongs to no run.

        Raises:
            RunFailed: the weights of the best step are gone.
        """
        self._kept.clean()
        self._in_checkpoint = int(known["step"]) if known else None
        self._remove_but({self._in_checkpoint})
        if known and (problem := self._world.tell(damage(self._folder(known)) if self._world.is_main else None)):
            raise RunFailed(
                f"{self._folder(known)}: the best model so far is damaged ({problem}); begin the run again with "
                "train.resume=never"
            )

    def observe(
        self, step: int, metrics: dict[str, float], known: dict[str, float] | None, model: nn.Module
    ) -> dict[str, float] | None:
        """What is the best after the measurement of `step`; its weights are on disk when this returns."""
        value = metrics.get(self.metric, math.nan)  # no ROUGE-L where no reference has a token
        if not math.isfinite(value) or (known is not None and not self._better(value, known["value"])):
            return known
        tensors: dict[str, Any] = {f"model/{name}": tensor for name, tensor in trained(model).items()}
        self._kept.save(step, tensors, {"metric": self.metric, "value": value}, keep=ALL)
        self._kept.wait()
        self._world.barrier()
        self._remove_but({step, self._in_checkpoint})
        return {"step": step, "value": value}

    def checkpointed(self, known: dict[str, float] | None) -> None:
        """A checkpoint that knows `known` is complete: no earlier best is needed any more."""
        self._in_checkpoint = int(known["step"]) if known else None
        self._remove_but({self._in_checkpoint})

    def restore(self, known: dict[str, float], model: nn.Module) -> None:
        """Put the best weights into `model`."""
        reader = Reader(self._folder(known))
        with torch.no_grad():
            for name, parameter in trained(model).items():
                reader.read_into(f"model/{name}", parameter)

    def remove(self) -> None:
        """The result is saved."""
        self._kept.close()
        self._kept.remove_all()

    def _better(self, value: float, than: float) -> bool:
        return value > than if DIRECTIONS[self.metric] == HIGHER else value < than

    def _folder(self, known: dict[str, float]) -> Path:
        return self._kept.folder / f"step-{int(known['step'])}"

    def _remove_but(self, steps: set[int | None]) -> None:
        if not self._world.is_main:
            return
        wanted = {f"step-{step}" for step in steps if step is not None}
        for folder in self._kept.folder.glob("step-*"):
            if folder.name not in wanted:
                gone = folder.with_name(f".{folder.name}")  # a name that is no checkpoint's, before the first file goes
                shutil.rmtree(gone, ignore_errors=True)
                folder.replace(gone)
                shutil.rmtree(gone, ignore_errors=True)
