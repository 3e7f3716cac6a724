"""What a sweep has to do: each job's config, its folder, and how far it got before."""

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from alpaca import cli
from alpaca.checks import check
from alpaca.config import Config
from alpaca.errors import UserError
from alpaca.signature import evaluation_settings, signature_of, training_settings, variant_of
from alpaca.sweeping import damage
from alpaca.sweeping.expansion import ALONE, Combination, composed
from alpaca.sweeping.record import SEED
from alpaca.tracking.lock import is_held
from alpaca.tracking.run_directory import FINISHED, differences, settings_of, status

RUNNING, DAMAGED, MISSING, REFUSED = "running", "damaged", "missing", "refused"
ONE_AT_A_TIME = "sweep.one_at_a_time"
APART = ("name", "output_dir", "notes", "extra_tags", "sweep", "tracker", "generation")  # never make two runs of one


@dataclass(frozen=True)
class Job:
    """One run of a sweep; one that cannot run has an error, and no folder."""

    number: int
    combination: Combination
    config: Config | None = None
    settings: dict[str, Any] | None = None
    signature: str | None = None
    variant: str | None = None
    folder: Path | None = None
    error: str | None = None

    @property
    def title(self) -> str:
        """What sets it apart, for a line."""
        return " ".join(self.combination.differs) or "the only one"

    @property
    def state(self) -> str:
        """finished, failed, interrupted, running (another process holds it), damaged, missing or refused."""
        if self.folder is None:
            return REFUSED
        if is_held(self.folder / ".lock"):
            return RUNNING
        if damage.of_summary(self.folder):
            return DAMAGED
        return status(self.folder) or MISSING

    def record(self) -> dict[str, Any]:
        """Its entry in `sweep.yaml`."""
        entry = {
            "overrides": self.combination.overrides,
            "differs": self.combination.differs,
            "folder": self.folder.name if self.folder else None,
            "signature": self.signature,
            "variant": self.variant,
        }
        return entry | ({"error": self.error} if self.error else {})


def plan(combinations: list[Combination], place: Path) -> tuple[list[Job], list[str]]:
    """The jobs with their folders under `place`, and lines about combinations that are the same run as another."""
    checked = [_checked(number, combination) for number, combination in enumerate(combinations)]
    jobs: list[Job] = []
    lines = []
    seen: dict[str, Job] = {}
    for job in checked:
        if job.config is None:
            jobs.append(job)
            continue
        identity = f"{job.signature} {_rest(job.config)}"
        if (first := seen.get(identity)) is not None:
            lines.append(f"job {job.number} ({job.title}) is the same run as job {first.number}; run once")
            continue
        seen[identity] = job
        jobs.append(job)
    return placed(jobs, place), lines


def placed(jobs: list[Job], place: Path) -> list[Job]:
    """The jobs with their folders as they are under `place` now."""
    sharing = [job.signature for job in jobs]
    return [_placed(job, place, alone=sharing.count(job.signature) == 1) for job in jobs]


def check_baseline(jobs: list[Job], baseline: str | None, typed: list[str]) -> list[str]:
    """See to it that `sweep.baseline` names one variant of the sweep; returns lines to print.

    Where the command line (`typed`) gives other values than those that the sweep file's baseline is one of, or varies
    something beside them, the report compares with the first job, or the first of the baseline's, and a line says so.

    Raises:
        UserError: it fits no variant, or several.
    """
    if baseline is None:
        return []
    from alpaca.report.reading import flat
    from alpaca.report.variants import fits_settings

    titles: dict[str, bool] = {}
    for job in jobs:
        apart = [part for part in job.combination.differs if not SEED.match(part)]
        if job.config is not None:
            container: Any = OmegaConf.to_container(OmegaConf.structured(job.config), resolve=True)
            titles[",".join(apart) or ALONE] = fits_settings(dict(flat(container)), tuple(apart), baseline)
    fits = [title for title, fit in titles.items() if fit]
    if len(fits) == 1:
        return []
    given = {part.partition("=")[0].lstrip("+") for part in typed}
    if fits and "sweep.baseline" not in given:
        return [f"several settings have the sweep's baseline {baseline}: the report compares with {fits[0]}"]
    if not fits and "sweep.baseline" not in given and given & {*re.findall(r"([\w.]+)=", baseline), ONE_AT_A_TIME}:
        return [f"no run has the sweep's baseline {baseline}: the report compares with the first, {next(iter(titles))}"]
    how = "no run of this sweep has that" if not fits else "several settings of this sweep have that"
    raise UserError(f"sweep.baseline={baseline}: {how}; name one of {'; '.join(fits or titles)}, or null for the first")


def _checked(number: int, combination: Combination) -> Job:
    try:
        config = cli.typed(composed(combination.overrides))
        check(config)
        settings = training_settings(config)
    except UserError as error:
        return Job(number, combination, error=str(error))
    return Job(number, combination, config, settings, signature_of(settings), variant_of(settings))


def _placed(job: Job, place: Path, *, alone: bool) -> Job:
    """Its directory: one with its signature that is there, whatever it differed in then, else a new name.

    Jobs that share a signature differ in what changes no result, such as the number of devices: each has its own.
    """
    if job.config is None:
        return job
    named = place / f"{job.combination.name}-{job.signature}"
    if named.is_dir():
        return replace(job, folder=named)
    there = [each for each in sorted(place.glob(f"*-{job.signature}")) if (each / "config.yaml").is_file()]
    wanted = _rest(job.config)
    same = [each for each in there if (before := settings_of(each)) is not None and _rest(before) == wanted]
    found = [*same, *sorted(there, key=lambda each: status(each) != FINISHED)] if alone else same
    return replace(job, folder=found[0] if found else named)


def _rest(config: Config) -> str:
    """Every setting that could be swept, as text to compare."""
    container: Any = OmegaConf.to_container(OmegaConf.structured(config), resolve=True)
    return json.dumps({key: value for key, value in container.items() if key not in APART}, default=str)


def other_evaluation(folder: Path, config: Config) -> str:
    """Evaluation settings in which the run in `folder` differs from what `config` asks for; empty for none."""
    before = settings_of(folder)
    return differences(evaluation_settings(before), evaluation_settings(config)) if before is not None else ""
