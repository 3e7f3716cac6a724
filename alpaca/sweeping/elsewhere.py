"""A multirun whose jobs another launcher or sweeper of Hydra's runs, such as Slurm's or Ray's: its list and its report.

The jobs begin in processes of the launcher, often on other machines. This process composes them once more beforehand,
to know which there are, and waits for the launcher; what they left is in the sweep's folder then.
"""

import contextlib
import io
import re
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any, TextIO

from omegaconf import DictConfig, OmegaConf

from alpaca.cli import fail
from alpaca.errors import RunFailed, UserError
from alpaca.sweeping import record, sweep
from alpaca.sweeping.expansion import combinations, typed_overrides
from alpaca.sweeping.folder import RECORD
from alpaca.sweeping.planning import Job, check_baseline, placed, plan

# What a launcher that cannot submit says, and the keys of hydra.launcher that decide it.
DECIDES = {
    r"gres|gpu": ("gpus_per_node", "gpus_per_task", "gres"),
    r"partition": ("partition",),
    r"account": ("account",),
    r"qos": ("qos",),
    r"feature|constraint": ("constraint",),
    r"time limit": ("timeout_min",),
    r"memory": ("mem_gb", "mem_per_cpu", "mem_per_gpu"),
    r"node configuration|node count|cpu": ("nodes", "tasks_per_node", "gpus_per_node", "cpus_per_task", "mem_gb"),
    r"ray instance|address|connect": ("ray.init.address",),
}
SUBMITTED = "_submitted.pkl"  # submitit's file for each job, after the job's id


class Elsewhere:
    """The jobs as they were planned; none where a sweeper chooses them one after another."""

    def __init__(self, config: DictConfig, place: Path, arguments: list[str]):
        """Plan them.

        Raises:
            UserError: none can run, or an option that only this program's own sweeps have.
        """
        hydra: Any = config.hydra
        searches = not str(hydra.sweeper._target_).endswith("BasicSweeper")
        if config.sweep.dry_run or config.sweep.one_at_a_time:
            raise UserError(
                "sweep.dry_run and sweep.one_at_a_time need Hydra's own sweeper and launcher; leave out "
                "hydra/launcher and hydra/sweeper"
            )
        if searches and config.sweep.parallel_jobs > 1:
            raise UserError(
                f"sweep.parallel_jobs={config.sweep.parallel_jobs}: hydra/sweeper={_chosen(hydra, 'sweeper')} decides "
                "how many trials run at once, and its launcher where; leave out sweep.parallel_jobs"
            )
        self._place, self._name = place, str(config.name)
        self._hydra, self._since = hydra, time.time()
        own = [item.path for item in hydra.runtime.config_sources if item.provider == "command-line"]
        self._question = record.question_of(hydra.runtime.choices.get("sweep"), [Path(folder) for folder in own])
        self._baseline: str | None = config.sweep.baseline
        self._planned: list[Job] = []
        if not searches:
            typed = typed_overrides(arguments)
            made = combinations(typed, dict(hydra.sweeper.params or {}), [])
            self._planned, _ = plan(made, place)
            sweep.first_config(self._planned)
            for line in check_baseline(self._planned, self._baseline, typed):
                print(line, flush=True)
        self._quiet = contextlib.ExitStack()
        if (logs := self._logs()) is not None:
            self._quiet.enter_context(contextlib.redirect_stderr(_WithoutSbatch(sys.stderr)))
            slurm = str(hydra.launcher._target_).endswith("SlurmLauncher")
            threading.Thread(target=_announce, args=(logs, self._submitted(), slurm), daemon=True).start()

    def close(self) -> int:
        """All jobs have ended: write `sweep.yaml` and the report; returns the exit status."""
        self._quiet.close()
        self._write()
        return sweep.close(placed(self._planned, self._place), self._place)

    def leave(self) -> None:
        """This process ends before the launcher's jobs have: say how to get the report."""
        self._quiet.close()
        self._write()
        print(
            "the jobs that the launcher has begun may go on; for the report afterwards: "
            f"{sweep.report_command(self._place)}",
            flush=True,
        )

    def failed(self, error: Exception) -> int:
        """The launcher or the sweeper ended with `error`: say why in one line; returns the exit status."""
        self._quiet.close()
        plugin = _plugin_of(error)
        if plugin is None:  # a bug of ours
            traceback.print_exception(error)
            self.leave()
            return RunFailed.exit_status
        kind = "sweeper" if plugin in str(self._hydra.sweeper._target_) else "launcher"
        line = f"hydra/{kind}={_chosen(self._hydra, kind)}: {_in_a_line(error)}"
        if self._has_begun():
            self.leave()
            return fail(line, RunFailed.exit_status)
        self._clean_up()
        return fail(f"{line}; {self._way_out(str(error))}" if kind == "launcher" else line, UserError.exit_status)

    def _way_out(self, said: str) -> str:
        if "srun" in said:
            return "start it where sbatch is, or choose hydra/launcher=submitit_local"
        known = next((keys for what, keys in DECIDES.items() if re.search(what, said, re.IGNORECASE)), ())
        settings = {key: OmegaConf.select(self._hydra.launcher, key) for key in known}
        asked = {key: value for key, value in settings.items() if value is not None} or settings
        if not asked:
            return f"its settings are those of conf/hydra/launcher/{_chosen(self._hydra, 'launcher')}.yaml"
        return "change " + " ".join(
            f"hydra.launcher.{key}={'null' if value is None else value}" for key, value in asked.items()
        )

    def _has_begun(self) -> bool:
        """Whether a job was submitted, or wrote into its folder."""
        recent = (file for file in self._place.glob("[!.]*/*") if file.stat().st_mtime >= self._since)
        return any(recent) or any(file.stat().st_mtime >= self._since for file in self._submitted())

    def _clean_up(self) -> None:
        """Remove what the launcher and Hydra wrote for jobs that never began."""
        with contextlib.suppress(OSError):
            if (logs := self._logs()) is not None:
                for file in logs.iterdir():
                    if file.stat().st_mtime >= self._since:
                        file.unlink()
                logs.rmdir()
            if [each.name for each in self._place.iterdir()] == [RECORD]:
                (self._place / RECORD).unlink()

    def _logs(self) -> Path | None:
        """Where submitit's jobs write what they say; None for other launchers."""
        folder = self._hydra.launcher.get("submitit_folder")
        return Path(str(folder).partition("%")[0]) if folder else None

    def _submitted(self) -> set[Path]:
        logs = self._logs()
        return set(logs.rglob(f"*{SUBMITTED}")) if logs else set()

    def _write(self) -> None:
        if (self._planned or self._baseline) and (lock := sweep.lock_of(self._place)) is not None:
            with lock:
                jobs = [job.record() for job in placed(self._planned, self._place)]
                record.write(self._place, self._name, self._question, jobs, self._baseline)


class _WithoutSbatch(io.TextIOBase):
    """Standard error without what sbatch says, which submitit prints and then raises."""

    def __init__(self, stream: TextIO):
        self._stream, self._dropped = stream, False

    def write(self, text: str) -> int:
        """Pass `text` on, unless it is sbatch's, or the end of that line."""
        self._dropped = text.startswith("sbatch: ") or (self._dropped and text == "\n")
        return len(text) if self._dropped else self._stream.write(text)

    def flush(self) -> None:
        """Flush the wrapped stream."""
        self._stream.flush()


def _announce(logs: Path, before: set[Path], slurm: bool) -> None:
    """Print the ids of jobs that submitit hands over, and where they write; ends with this process."""
    told, last = set(before), set(before)
    while True:
        time.sleep(1)
        found = set(logs.rglob(f"*{SUBMITTED}"))
        if found - told and found == last:  # no more in the last second: the batch is complete
            ids = sorted(file.name.removesuffix(SUBMITTED) for file in found - told)
            queue = "; squeue shows what they wait for" if slurm else ""
            print(f"submitted: {', '.join(ids)}; their output is in {logs}{queue}", flush=True)
            told |= found
        last = found


def _plugin_of(error: BaseException) -> str | None:
    """The package of the Hydra plugin that raised `error`; None where it came from our own code."""
    modules = (str(frame.f_globals.get("__name__", "")) for frame, _ in traceback.walk_tb(error.__traceback__))
    ours = [name for name in modules if name.startswith(("alpaca.", "hydra_plugins.")) or name == "__main__"]
    return ".".join(ours[-1].split(".")[:2]) if ours and ours[-1].startswith("hydra_plugins.") else None


def _chosen(hydra: Any, group: str) -> str:
    return str(hydra.runtime.choices.get(f"hydra/{group}"))


def _in_a_line(error: BaseException) -> str:
    """What `error` says, without a traceback within its text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip(" -")]
    if any(line.startswith("Traceback") for line in lines):
        lines = lines[-1:]
    text = " ".join(dict.fromkeys(lines))
    return text if len(text) > 3 else f"{type(error).__name__}: {text}"
