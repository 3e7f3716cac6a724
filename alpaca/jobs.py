"""The jobs of a multirun: each a process of its own, so that memory, Weights & Biases and a crash stay with it.

One after another, or several at once with devices of their own: no two jobs ever get the same accelerator.

A job's process has a process group of its own. So a Ctrl-C, which a terminal sends to the whole group in front, reaches
the parent alone, and the parent hands on what it receives, from a terminal or by `kill`: one press is one signal to a
job, which saves at the first and ends at once at the second.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpaca.cli import INTERRUPTED
from alpaca.errors import UserError
from alpaca.startup import heard, once

FORWARDED = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
# Of one W&B run, and the service that a process around this one may have: every job is a run of its own.
INHERITED_NAMES = ("WANDB_RUN_ID", "WANDB_NAME", "WANDB_RESUME", "WANDB_SWEEP_ID", "WANDB_SERVICE")


@dataclass
class Jobs:
    """Runs at most `at_once` jobs at a time and remembers how each ended.

    `on_end(number, status)` is called when a job has ended by itself; a status below zero is the signal that killed it.
    It returns false for a job that is no failure of this process although its status is not 0.
    """

    ended: list[int] = field(default_factory=list)
    received: list[int] = field(default_factory=list)  # signals to this process, in order
    on_end: Callable[[int, int], bool] = field(default=lambda number, status: True)
    _running: dict[int, tuple[subprocess.Popen[Any], Path, tuple[str, ...]]] = field(default_factory=dict)
    _asked_to_end: bool = False
    _told: set[int] = field(default_factory=set)  # jobs that a signal was handed on to
    _waits: bool = False  # a signal interrupts nothing here: who waits looks at `_asked_to_end`

    def start(self, number: int, command: list[str], folder: Path, at_once: int, devices: int | None) -> None:
        """Begin job `number` as soon as there is room for it.

        Args:
            devices: accelerators this job uses; None for an equal share.

        Raises:
            UserError: more jobs at once than devices to give them.
            KeyboardInterrupt: a signal, or an interrupted job, asked for the end.
        """
        mine = tuple(self.room(at_once, devices))
        with self._patience():
            environment = {name: value for name, value in os.environ.items() if name not in INHERITED_NAMES}
            if at_once > 1:
                environment.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // at_once)))
            if mine:
                environment["CUDA_VISIBLE_DEVICES"] = ",".join(mine)
            process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, process_group=0)
            self._running[number] = (process, folder, mine)
            if self._asked_to_end:  # a signal came while the process was made
                self.interrupt()
                raise KeyboardInterrupt

    def room(self, at_once: int, devices: int | None) -> list[str]:
        """Wait until one more job may begin; returns the accelerators that it gets. Raises as `start`."""
        visible = visible_devices() if at_once > 1 else []
        wanted = share(len(visible), at_once, devices)
        with self._patience():
            while len(self._running) >= at_once or len(free := self._free(visible)) < wanted:
                self._reap()
            if self._asked_to_end:
                raise KeyboardInterrupt
        return free[:wanted]

    def _free(self, visible: list[str]) -> list[str]:
        taken = {name for _, _, held in self._running.values() for name in held}
        return [name for name in visible if name not in taken]

    def finish(self) -> None:
        """Wait for every job.

        Raises:
            KeyboardInterrupt: a signal asked for the end; all have ended.
        """
        with self._patience():
            while self._running:
                self._reap()
        if self._asked_to_end:
            raise KeyboardInterrupt

    def interrupt(self) -> None:
        """Ask the running jobs that no signal was handed to yet to end, as Ctrl-C does."""
        self._asked_to_end = True
        self._hand_on(signal.SIGINT, [number for number in self._running if number not in self._told])

    @contextlib.contextmanager
    def forwarding(self) -> Iterator[None]:
        """Signals to this process go to the jobs within this context; Ctrl-Z halts them too until this one goes on."""
        handlers = {**dict.fromkeys(heard(*FORWARDED), self._received), signal.SIGTSTP: self._halted}
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _received(self, number: int, frame: Any) -> None:
        """Hand a signal on to the jobs; it interrupts what is done here meanwhile, such as making data."""
        once(number)
        self.received.append(number)
        self._asked_to_end = self._asked_to_end or self._waits or bool(self._running)
        self._hand_on(number, list(self._running))
        if not self._waits:
            raise KeyboardInterrupt

    def _halted(self, number: int, frame: Any) -> None:
        """Ctrl-Z, which the terminal sends to this process's group alone."""
        self._signal(signal.SIGSTOP, list(self._running))
        os.kill(os.getpid(), signal.SIGSTOP)
        self._signal(signal.SIGCONT, list(self._running))

    def _hand_on(self, signal_number: int, jobs: list[int]) -> None:
        self._told |= set(jobs)
        self._signal(signal_number, jobs)

    def _signal(self, signal_number: int, jobs: list[int]) -> None:
        """To each job's process; what a terminal would send to all processes of a job goes to all."""
        for job in jobs:
            process = self._running[job][0]
            with contextlib.suppress(ProcessLookupError):
                if process.returncode is not None:
                    continue
                if signal_number in (signal.SIGINT, signal.SIGSTOP, signal.SIGCONT):
                    os.killpg(process.pid, signal_number)
                else:
                    process.send_signal(signal_number)

    @contextlib.contextmanager
    def _patience(self) -> Iterator[None]:
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def _reap(self) -> None:
        """Wait until at least one job ended; print those that failed when it happens."""
        done: list[int] = []
        while not done:
            try:
                done = [number for number, (process, _, _) in self._running.items() if _is_over(process)]
                time.sleep(0 if done else 0.05)
            except KeyboardInterrupt:  # in a process of another launcher no handler of ours is installed
                self._received(signal.SIGINT, None)
        for number in done:
            process, folder, _ = self._running.pop(number)
            status = int(process.returncode)
            by_signal = -status in (signal.SIGINT, *FORWARDED)
            self.ended.append(INTERRUPTED if by_signal else status)
            if self._asked_to_end and self.ended[-1] == INTERRUPTED:
                continue
            if not self.on_end(number, INTERRUPTED if by_signal else status):
                self.ended[-1] = 0
            elif self.ended[-1] == INTERRUPTED:
                print(f"job {number} was interrupted: {folder}", file=sys.stderr, flush=True)
            elif status:
                how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
                print(f"job {number} {how}: {folder}", file=sys.stderr, flush=True)


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


def share(visible: int, at_once: int, devices: int | None) -> int:
    """Accelerators one of `at_once` jobs gets; 0 leaves it all there are.

    Raises:
        UserError: there are not enough of them.
    """
    if not visible or at_once == 1:
        return 0
    each = devices or visible // at_once
    if each == 0 or each * at_once > visible:
        raise UserError(
            f"sweep.parallel_jobs={at_once}: this machine has {visible} accelerators and each job wants "
            f"{devices or 1}; lower sweep.parallel_jobs or parallelism.devices"
        )
    return each
