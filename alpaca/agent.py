"""Starts the ranks of this machine through torch's elastic agent and turns how they end into one exit status.

The agent meets those of other machines, gives every rank its place in the world and ends all of them when
one dies. It runs in a thread: signals belong to this process's main thread, which hands them on to the
ranks, so that they can finish a step and save. What a rank has to say about its end it leaves in a folder
that lives as long as the agent (`Handover`).
"""

import contextlib
import json
import logging
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca.cli import INTERRUPTED
from alpaca.errors import RunFailed, UserError
from alpaca.outside import Placement
from alpaca.startup import heard
from alpaca.tracking.run_directory import write_text

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
START_S = 20  # from meeting to a rank's first sign of life
SHUTDOWN_S = 10  # for ranks that are left when another one died
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Handover:
    """The folder through which an agent and its ranks speak: the job, process ids, where the run is, how it ended."""

    folder: Path

    def write(self, name: str, content: Any) -> None:
        """One JSON file, whole."""
        write_text(self.folder / name, json.dumps(content))

    def read(self, name: str) -> Any:
        """Its content, or None."""
        try:
            return json.loads((self.folder / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return None

    def errors(self) -> dict[int, dict[str, Any]]:
        """What each rank of this machine said about its end."""
        found = {int(file.stem.split("-")[1]): self.read(file.name) for file in self.folder.glob("error-*.json")}
        return {rank: error for rank, error in found.items() if error}

    def pids(self) -> list[int]:
        """Process ids of the ranks of this machine."""
        return [int(self.read(file.name) or 0) for file in self.folder.glob("pid-*.json")]


@dataclass(frozen=True)
class Ended:
    """How the ranks ended: exit status, and for a failure its sentence and the run directory, where one was opened."""

    status: int
    error: str | None = None
    directory: Path | None = None


def run_ranks(job: dict[str, Any], processes: int, placement: Placement, timeout_s: float) -> Ended:
    """Start `processes` ranks here on `job`, wait for them, and say how it ended."""
    logging.getLogger("torch.distributed.elastic").setLevel(logging.CRITICAL)
    logging.getLogger("torch.distributed.launcher").setLevel(logging.CRITICAL)
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    with tempfile.TemporaryDirectory(prefix="alpaca-") as folder:
        handover = Handover(Path(folder))
        handover.write("job.json", job)
        caught: list[BaseException] = []
        thread = threading.Thread(
            target=_agent, args=(handover, processes, placement, timeout_s, caught), name="agent", daemon=True
        )
        with _signals_forwarded(handover) as received:
            thread.start()
            began = time.monotonic()
            while thread.is_alive():
                thread.join(0.2)
                if placement.nodes > 1 and not handover.pids() and time.monotonic() - began > timeout_s + START_S:
                    return Ended(UserError.exit_status, _did_not_meet(placement, f"waited {timeout_s:g} s"))
        directory = handover.read("directory.json")
        place = Path(directory) if directory else None
        if (outcome := handover.read("outcome.json")) is not None:
            return Ended(int(outcome), None, place)
        if not caught:
            return Ended(0, None, place)  # rank 0 is on another machine, and it ended well
        status, error = _reason(caught[0], handover, placement)
        by_signal = received and all(said["consequence"] for said in handover.errors().values())
        return Ended(INTERRUPTED if by_signal else status, error, place)


def _agent(
    handover: Handover, processes: int, placement: Placement, timeout_s: float, caught: list[BaseException]
) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    endpoint = placement.rendezvous or f"{LOOPBACK}:0"
    is_local = endpoint.rsplit(":", 1)[0] in (LOOPBACK, "localhost")
    os.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = str(SHUTDOWN_S)
    config = LaunchConfig(
        min_nodes=placement.nodes,
        max_nodes=placement.nodes,
        nproc_per_node=processes,
        run_id=placement.rendezvous or uuid.uuid4().hex,
        role="rank",
        rdzv_backend="c10d",
        rdzv_endpoint=endpoint,
        rdzv_configs={"timeout": max(60, int(timeout_s)), "join_timeout": max(60, int(timeout_s))},
        max_restarts=0,
        monitor_interval=0.1,
        local_addr=LOOPBACK if is_local else None,
        logs_specs=DefaultLogsSpecs(log_dir=str(handover.folder / "logs")),
    )
    try:
        elastic_launch(config, sys.executable)("-m", "alpaca.rank_process", str(handover.folder), str(os.getpid()))
    except BaseException as error:
        caught.append(error)


@contextlib.contextmanager
def _signals_forwarded(handover: Handover) -> Any:
    """Hand signals on to the ranks; the third one kills them."""
    received: list[int] = []

    def forward(number: int, frame: Any) -> None:
        if received and number == signal.SIGHUP:  # a shell repeats it
            return
        received.append(number)
        for pid in handover.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, signal.SIGKILL if len(received) > 2 else number)
        if not handover.pids():
            raise KeyboardInterrupt

    before = {number: signal.signal(number, forward) for number in heard(*FORWARDED)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _reason(error: BaseException, handover: Handover, placement: Placement) -> tuple[int, str]:
    """Exit status and the sentence of the rank that ended first by its own fault."""
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    if not isinstance(error, ChildFailedError):
        if "endezvous" in type(error).__name__ or "endezvous" in str(error):
            return UserError.exit_status, _did_not_meet(placement, " ".join(str(error).split())[:150])
        return RunFailed.exit_status, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
    said = sorted(handover.errors().items(), key=lambda item: (item[1]["consequence"], item[1]["time"]))
    killed = sorted(
        (rank, -failure.exitcode)
        for rank, failure in error.failures.items()
        if failure.exitcode < 0 and -failure.exitcode != signal.SIGTERM
    )
    if killed and (not said or said[0][1]["consequence"]):
        rank, number = killed[0]
        why = "; the system does that when memory runs out" if number == signal.SIGKILL else ""
        return RunFailed.exit_status, f"rank {rank} was killed by {signal.Signals(number).name}{why}"
    if said:
        rank, first = said[0]
        if first["trace"]:
            print(first["trace"], file=sys.stderr, end="")
        return int(first["status"]), first["message"] if first["status"] == 2 else f"rank {rank}: {first['message']}"
    rank, failure = error.get_first_failure()
    return RunFailed.exit_status, f"rank {rank} ended with status {failure.exitcode} without a word"


def _did_not_meet(placement: Placement, why: str) -> str:
    return (
        f"parallelism.rendezvous={placement.rendezvous}: the {placement.nodes} machines did not meet there ({why}); "
        "all must run the same command, the host must be one of them and the port used by nothing else; "
        "parallelism.timeout_s says how long to wait"
    )


def report_error(handover: Handover, rank: int, error: BaseException, status: int) -> None:
    """A rank says why it ends; what follows from another rank's end is marked so."""
    text, trace = str(error) or type(error).__name__, ""
    if status == RunFailed.exit_status and not isinstance(error, RunFailed):
        text = f"{type(error).__name__}: {' '.join(text.split())[:500]}"
        trace = "" if isinstance(error, OSError) else "".join(traceback.format_exception(error))
    found = {"message": text, "status": status, "consequence": _is_consequence(error), "time": time.time()}
    handover.write(f"error-{rank}.json", {**found, "trace": trace})


def _is_consequence(error: BaseException) -> bool:
    words = ("Connection closed by peer", "Connection reset", "gloo", "NCCL", "ECONN", "Broken pipe", "wait timeout")
    return type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError") or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )
