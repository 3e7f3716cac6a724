"""From a checked config to a finished run: device checks, then the ranks, then the exit status.

One device works in this process; several are processes of their own, started by `agent.py`. The first
thing done is to look at the devices, before any weight or row is loaded.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from alpaca import agent, outside
from alpaca.cli import fail
from alpaca.config import Config
from alpaca.devices import check_device
from alpaca.errors import UserError
from alpaca.tracking.run_directory import FAILED, INTERRUPTED, close_unfinished
from alpaca.training.host import prepare_host


def launch(config: Config, path: Path, overrides: list[str]) -> int:
    """Train one run in `path`; returns the exit status.

    Raises:
        UserError: the devices cannot do what the config asks, or the directory cannot be used.
    """
    placement = outside.placement(config.parallelism)
    prepare_host()
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' bars: the terminal shows this project's own
    processes = devices_here(config)
    if placement.given or processes * placement.nodes == 1:
        with silenced_notices():
            from alpaca.training import rank
            from alpaca.training.world import World
        return rank.work(config, path, overrides, World.from_environment() if placement.given else World())
    ended = agent.run_ranks(job(config, path, overrides), processes, placement, config.parallelism.timeout_s)
    if ended.error is not None:
        if ended.directory is not None:
            close_unfinished(ended.directory, FAILED if ended.status != 130 else INTERRUPTED, ended.error)
        return fail(ended.error, ended.status)
    return ended.status


def job(config: Config, path: Path, overrides: list[str]) -> dict[str, Any]:
    """What a rank needs to know, as JSON."""
    settings: Any = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    return {"config": settings, "path": str(path), "overrides": overrides}


def devices_here(config: Config) -> int:
    """Ranks on this machine.

    Raises:
        UserError: more devices than there are, host offload without an accelerator, or no bitsandbytes.
    """
    import torch

    from alpaca.training import precision

    precision.choose(config.train.precision)  # refuses what this machine cannot compute in
    for line in check_device(config):
        print(line, flush=True)
    wanted, there = config.parallelism.devices, torch.cuda.device_count()
    if config.parallelism.sharding == "none":
        return 1
    if config.parallelism.offload and not there:
        raise UserError(
            f"parallelism={config.parallelism.name}: it keeps in the host's memory what an accelerator works on, and "
            "there is no accelerator here; choose parallelism=fsdp"
        )
    if there and wanted is not None and wanted > there:
        raise UserError(
            f"parallelism.devices={wanted}: this machine has {there}; set parallelism.devices={there} or less"
        )
    return wanted or there or 1


@contextlib.contextmanager
def silenced_notices() -> Iterator[Any]:
    """Importing transformers imports bitsandbytes, which prints about optional kernels; hide that line."""
    with contextlib.redirect_stdout(StringIO()), contextlib.redirect_stderr(StringIO()):
        yield
    sys.stdout.flush()
