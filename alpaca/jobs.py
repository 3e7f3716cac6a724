"""The jobs of a multirun: each a process of its own, so that memory, Weights & Biases and a crash stay with it.

One after another, or several at once with devices of their own: no two jobs ever get the same accelerator.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpaca.cli import INTERRUPTED
from alpaca.errors import UserError

FORWARDED = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)  # Ctrl-C reaches the jobs from the terminal itself


@dataclass
class Jobs:
    """Runs at most `at_once` jobs at a time and remembers how each ended."""

    ended: list[int] = field(default_factory=list)
    _running: dict[int, tuple[subprocess.Popen[Any], Path, tuple[str, ...]]] = field(default_factory=dict)

    def start(self, number: int, command: list[str], folder: Path, at_once: int, devices: int | None) -> None:
        """Begin job `number` as soon as there is room for it.

        Args:
            devices: accelerators each job uses; None for all there are.

        Raises:
            UserError: more jobs at once than devices to give them.
        """
        visible = shares(visible_devices(), at_once, devices)
        while len(self._running) >= at_once:
            self._reap()
        taken = {share for _, _, share in self._running.values()}
        share = next(each for each in visible if each not in taken or not each)
        environment = dict(os.environ)
        if at_once > 1:
            environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
            if share:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(share)
        self._running[number] = (subprocess.Popen(command, env=environment), folder, share)

    def finish(self) -> None:
        """Wait for every job.

        Raises:
            KeyboardInterrupt: one was interrupted; the others have ended too.
        """
        while self._running:
            self._reap()
        if INTERRUPTED in self.ended:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def forwarding(self) -> Iterator[None]:
        """Signals to this process go to the jobs within this context."""

        def forward(number: int, frame: Any) -> None:
            for process, _, _ in self._running.values():
                with contextlib.suppress(ProcessLookupError):
                    process.send_signal(number)

        before = {number: signal.signal(number, forward) for number in FORWARDED}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _reap(self) -> None:
        """Wait until at least one job ended; print those that failed when it happens."""
        try:
            while not (done := [number for number, (process, _, _) in self._running.items() if _is_over(process)]):
                time.sleep(0.05)
        except KeyboardInterrupt:
            for process, _, _ in self._running.values():
                with contextlib.suppress(KeyboardInterrupt):
                    process.wait()
            self._running.clear()
            raise
        for number in done:
            process, folder, _ = self._running.pop(number)
            status = INTERRUPTED if process.returncode == -signal.SIGINT else int(process.returncode)
            self.ended.append(status)
            if status == INTERRUPTED and self._running:
                continue
            if status == INTERRUPTED:
                raise KeyboardInterrupt
            if status:
                print(f"job {number} ended with status {status}: {folder}", file=sys.stderr, flush=True)


def _is_over(process: subprocess.Popen[Any]) -> bool:
    return process.poll() is not None


def visible_devices() -> list[str]:
    """Names of the accelerators this process may use, as CUDA_VISIBLE_DEVICES names them."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [name for name in given.split(",") if name.strip() and name.strip() != "-1"]
    if not Path("/dev/nvidiactl").exists() and "microsoft" not in os.uname().release.lower():
        return []  # without a driver there is nothing to ask torch for, and importing it takes seconds
    import torch

    return [str(index) for index in range(torch.cuda.device_count())]


def shares(visible: list[str], at_once: int, devices: int | None) -> list[tuple[str, ...]]:
    """For each of `at_once` jobs its accelerators; empty where there are none.

    Raises:
        UserError: there are not enough of them.
    """
    if not visible or at_once == 1:
        return [()] * at_once
    each = devices or len(visible) // at_once
    if each == 0 or each * at_once > len(visible):
        raise UserError(
            f"sweep.parallel_jobs={at_once}: this machine has {len(visible)} accelerators and each job wants "
            f"{devices or 1}; lower sweep.parallel_jobs or parallelism.devices"
        )
    return [tuple(visible[index * each : (index + 1) * each]) for index in range(at_once)]
