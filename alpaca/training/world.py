"""The processes that work on one run, as one of them sees it: which rank it is, and how it speaks to the others.

One process alone is a world of size 1 whose every exchange is free. Small values travel as JSON through
the store that the processes met at, sums through the process group.
"""

import json
import os
import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import torch
from torch import distributed as dist
from torch.distributed import distributed_c10d
from torch.distributed.distributed_c10d import PrefixStore

LOOK_EVERY_S = 0.005
GRACE = 2  # the process group's own time limit, as a multiple of the watchdog's, which names the rank


@dataclass
class World:
    """Rank and size, and exchanges that every rank must make in the same order.

    Attributes:
        rank, size: this process among all of them.
        local_rank: this process among those of its machine; chooses its device.
        local_size: processes on this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    store: Any = None
    _exchanges: int = field(default=0, repr=False)

    @staticmethod
    def from_environment() -> "World":
        """Rank and size as torchrun's environment variables give them; not joined yet."""
        return World(
            rank=int(os.environ["RANK"]),
            size=int(os.environ["WORLD_SIZE"]),
            local_rank=int(os.environ.get("LOCAL_RANK", 0)),
            local_size=int(os.environ.get("LOCAL_WORLD_SIZE", 1)),
        )

    def join(self, device: torch.device, timeout_s: float) -> None:
        """Meet the other ranks; gloo carries CPU tensors, NCCL those on GPUs."""
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(
            backend, rank=self.rank, world_size=self.size, timeout=timedelta(seconds=GRACE * timeout_s)
        )
        self.store = PrefixStore("alpaca", distributed_c10d._get_default_store())

    def leave(self) -> None:
        """Part from the other ranks."""
        if self.size > 1 and dist.is_initialized():
            dist.destroy_process_group()

    @property
    def is_main(self) -> bool:
        """Whether this rank writes the run directory."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        """Whether there is no other rank."""
        return self.size == 1

    def tell(self, value: Any) -> Any:
        """Rank 0's `value` (JSON) on every rank."""
        if self.alone:
            return value
        key = self._next("tell")
        if self.is_main:
            self.store.set(key, json.dumps(value))
        return self._read(key)

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value` (JSON) in order of rank, on every rank."""
        if self.alone:
            return [value]
        key = self._next("gather")
        self.store.set(f"{key}/{self.rank}", json.dumps(value))
        return [self._read(f"{key}/{rank}") for rank in range(self.size)]

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """`values` summed over all ranks, in place."""
        if not self.alone:
            dist.all_reduce(values)
        return values

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.gather(None)

    def _read(self, key: str) -> Any:
        """Look until it is there: unlike the store's own waiting this lets signals through."""
        while not self.store.check([key]):
            time.sleep(LOOK_EVERY_S)
        return json.loads(self.store.get(key))

    def _next(self, kind: str) -> str:
        self._exchanges += 1
        return f"{kind}/{self._exchanges}"
