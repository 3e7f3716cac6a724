"""One rank's whole life: device, other ranks, run directory, worker, and how it ends.

The only rank of a run lives in the command's own process. Of several, each is a process started by the
agent (`alpaca/rank_process.py`) or by a launcher like torchrun; rank 0 chooses and writes
the run directory, the others learn its place.
"""

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

import torch
from omegaconf import OmegaConf
from rich.markup import escape

from alpaca import paths
from alpaca.agent import Handover, report_error
from alpaca.cli import INTERRUPTED as INTERRUPTED_STATUS
from alpaca.cli import fail
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.signature import signature_of, training_settings
from alpaca.tracking.report import report
from alpaca.tracking.run_directory import FAILED, INTERRUPTED, Onlooker, RunDirectory
from alpaca.tracking.terminal import Terminal
from alpaca.training import precision, worker
from alpaca.training.host import prepare_host
from alpaca.training.stopping import Stopping
from alpaca.training.watchdog import Beats, Watchdog
from alpaca.training.world import World


def work(
    config: Config,
    path: Path,
    overrides: list[str],
    world: World,
    handover: Handover | None = None,
    *,
    on_host: bool = False,
) -> int:
    """Train as `world`'s rank; returns the exit status, after one line for what went wrong.

    Args:
        on_host: this is the machine where several meet; the run is written in its folder.

    Raises:
        UserError: (alone) the run directory cannot be used.
    """
    compute = precision.choose(config.train.precision, local_rank=world.local_rank)
    if compute.device.type == "cuda":
        torch.cuda.set_device(compute.device)
    settings = training_settings(config)  # once: files may change while the run trains
    mark = signature_of(settings)
    timeout = config.parallelism.timeout_s
    directory: RunDirectory | None = None
    terminal = Terminal(silent=not world.is_main)
    stopping = Stopping(_say_at_once if world.is_main else lambda text: None)

    def end(status: str, error: str | None) -> None:
        if directory is not None:
            with contextlib.suppress(OSError):  # a full disk may refuse even this; no summary is no finished run
                directory.finish(status, {"signature": mark, **({"error": error} if error else {})})

    def failed(error: BaseException, text: str, status: int) -> int:
        if handover is not None:  # the agent knows every rank's end and writes the summary
            report_error(handover, world.rank, error, status)
            return status
        end(FAILED, text)
        return fail(text, status)

    try:
        if not world.alone:
            world.join(compute.device, timeout)
            _same_everywhere(world, mark)
        with stopping.installed(), Watchdog(world, timeout, lambda text: _give_up(world, handover, text)):
            path = Path(_of_the_host(world.gather([str(path.absolute()), on_host])))
            directory = RunDirectory(path, mark, settings) if world.is_main else Onlooker(path)
            if handover is not None and world.is_main:
                handover.write("directory.json", str(path))
            terminal.log_to(directory.path / "run.log" if world.is_main else None)
            # Before config.yaml, which makes the folder a run's: who goes on with it must know its signature.
            directory.write_environment(device=str(compute.device), precision=compute.precision, world_size=world.size)
            directory.write_settings(config, overrides)
            terminal.print(f"[bold]run[/]    {escape(str(paths.shown(path)))}")
            beats = Beats(world, timeout)
            summary = worker.run(config, mark, compute, directory, terminal, world, stopping, beats)
            report(summary, path, terminal)
            with beats.while_working("waiting for the others"):
                world.barrier()
        return _ended(handover, world, 0)
    except KeyboardInterrupt:
        end(INTERRUPTED, None)
        shown = escape(str(paths.shown(path)))
        terminal.print(f"[yellow]interrupted[/] what was logged is in {shown}; the same command goes on with it")
        return _ended(handover, world, INTERRUPTED_STATUS)
    except (UserError, RunFailed) as error:
        if directory is None and handover is None and world.alone:
            raise
        return failed(error, str(error), error.exit_status)
    except OSError as error:
        reason = f"{error.filename or path}: {error.strerror or error}; free space or choose another output_dir=DIR"
        return failed(error, reason, RunFailed.exit_status)
    except BaseException as error:
        if handover is None:
            end(FAILED, f"{type(error).__name__}: {error}")
            raise
        report_error(handover, world.rank, error, RunFailed.exit_status)
        return RunFailed.exit_status
    finally:
        terminal.close()
        if directory is not None:
            directory.close()
        world.leave()


def _say_at_once(text: str) -> None:
    """From a signal handler, which may have interrupted a write to any stream of Python's."""
    with contextlib.suppress(OSError):  # nobody reads it: what it announces happens all the same
        os.write(2, f"{text}\n".encode())


def _of_the_host(offers: list[list[Any]]) -> str:
    """The folder that the machine everyone meets at chose, else rank 0's; offers are [folder, is it the host]."""
    return str(next((folder for folder, is_host in offers if is_host), offers[0][0]))


def _same_everywhere(world: World, mark: str) -> None:
    marks = world.gather(mark)
    other = next((rank for rank, found in enumerate(marks) if found != marks[0]), None)
    if other is not None:
        raise UserError(
            f"rank {other} was started with other settings, data or weights (signature {marks[other]}, rank 0 has "
            f"{marks[0]}); run the same command on every machine"
        )


def _ended(handover: Handover | None, world: World, status: int) -> int:
    """With an agent the status goes through the handover: a rank that ends by itself, ends well."""
    if handover is None:
        return status
    if world.local_rank == 0:
        handover.write("outcome.json", status)
    return 0


def _give_up(world: World, handover: Handover | None, text: str) -> None:
    """Called from the watchdog's thread while the main one is stuck: say so and end the process."""
    if handover is not None:
        report_error(handover, world.rank, RunFailed(text), RunFailed.exit_status)
    else:
        print(f"error: {text}", file=sys.stderr, flush=True)
    os._exit(RunFailed.exit_status)


def main(folder: str) -> int:
    """Work as a process started by the agent whose handover is `folder`."""
    handover = Handover(Path(folder))
    world = World.from_environment()
    handover.write(f"pid-{world.rank}.json", os.getpid())
    prepare_host()
    given = handover.read("job.json")
    config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), given["config"]))
    return work(config, Path(given["path"]), given["overrides"], world, handover, on_host=given["on_host"])
