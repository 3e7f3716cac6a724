"""A multirun whose jobs another launcher or sweeper of Hydra's runs, such as Slurm's or Ray's: its list and its report.

The jobs begin in processes of the launcher, often on other machines. This process composes them once more beforehand,
to know which there are, and waits for the launcher; what they left is in the sweep's folder then.
"""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from alpaca.errors import UserError
from alpaca.sweeping import record, sweep
from alpaca.sweeping.expansion import combinations, typed_overrides
from alpaca.sweeping.planning import Job, placed, plan


class Elsewhere:
    """The jobs as they were planned; none where a sweeper chooses them one after another."""

    def __init__(self, config: DictConfig, place: Path, arguments: list[str]):
        """Plan them.

        Raises:
            UserError: none can run, or an option that only this program's own sweeps have.
        """
        if config.sweep.dry_run or config.sweep.one_at_a_time:
            raise UserError(
                "sweep.dry_run and sweep.one_at_a_time need Hydra's own sweeper and launcher; leave out "
                "hydra/launcher and hydra/sweeper"
            )
        self._place, self._name = place, str(config.name)
        hydra: Any = config.hydra
        own = [item.path for item in hydra.runtime.config_sources if item.provider == "command-line"]
        self._question = record.question_of(hydra.runtime.choices.get("sweep"), [Path(folder) for folder in own])
        self._planned: list[Job] = []
        if str(hydra.sweeper._target_).endswith("BasicSweeper"):
            made = combinations(typed_overrides(arguments), dict(hydra.sweeper.params or {}), [])
            self._planned, _ = plan(made, place)
            sweep.first_config(self._planned)

    def close(self) -> int:
        """All jobs have ended: write `sweep.yaml` and the report; returns the exit status."""
        self._write()
        return sweep.close(placed(self._planned, self._place), self._place)

    def leave(self) -> None:
        """This process ends before the launcher's jobs have: say how to get the report."""
        self._write()
        print(
            "the jobs that the launcher has begun may go on; for the report afterwards: "
            f"{sweep.report_command(self._place)}",
            flush=True,
        )

    def _write(self) -> None:
        if self._planned:
            jobs = [job.record() for job in placed(self._planned, self._place)]
            record.write(self._place, self._name, self._question, jobs)
