"""Plugins for tests: a sweeper that notes what it is told, and a launcher that works as submitit does.

The launcher pickles a job, runs it in another process, and there pickles it again first, as for a requeue.
"""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper

WORK = """
import sys, cloudpickle
from pathlib import Path
from hydra.core.singleton import Singleton
from hydra_plugins.trial import work
file = Path(sys.argv[1])
job = cloudpickle.loads(file.read_bytes())
again = cloudpickle.dumps(job)
file.write_bytes(cloudpickle.dumps(work(*cloudpickle.loads(again))))
"""


class TrialLauncher(Launcher):
    """Each job in a process of its own, one after another."""

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        self.job = (hydra_context, task_function, config)

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        folder = Path(str(self.job[2].hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        returns = []
        for number, overrides in enumerate(job_overrides, initial_job_idx):
            file = folder / "job.pkl"
            file.write_bytes(cloudpickle.dumps((*self.job, list(overrides), number, Singleton.get_state())))
            subprocess.run([sys.executable, "-c", WORK, str(file)], check=True, timeout=240)
            returns.append(cloudpickle.loads(file.read_bytes()))
            file.unlink()
        return returns


def work(context: Any, task: Any, config: Any, overrides: list[str], number: int, state: Any) -> JobReturn:
    """One job, in the other process."""
    Singleton.set_state(state)
    setup_globals()
    own = context.config_loader.load_sweep_config(config, overrides)
    own.hydra.job.num = number
    return run_job(
        hydra_context=context, task_function=task, config=own, job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )  # fmt: skip


class TrialSweeper(Sweeper):
    """Tries settings one after another and notes each objective, or the failure, in `told.json`."""

    def __init__(self, trials: list[str]) -> None:
        self.trials = trials

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        from hydra.core.plugins import Plugins

        self.folder = Path(str(config.hydra.sweep.dir))
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        told: list[Any] = []
        for number, trial in enumerate(self.trials):
            (done,) = self.launcher.launch([[*arguments, trial]], initial_job_idx=number)
            try:
                told.append(float(done.return_value))
            except Exception as error:
                told.append(f"{type(error).__name__}: {error}")
        (self.folder / "told.json").write_text(json.dumps(told))


@dataclass
class TrialSweeperConf:
    _target_: str = "hydra_plugins.trial.TrialSweeper"
    trials: list[str] = field(default_factory=list)


@dataclass
class TrialLauncherConf:
    _target_: str = "hydra_plugins.trial.TrialLauncher"


ConfigStore.instance().store(group="hydra/sweeper", name="trial", node=TrialSweeperConf, provider="trial")
ConfigStore.instance().store(group="hydra/launcher", name="trial", node=TrialLauncherConf, provider="trial")
