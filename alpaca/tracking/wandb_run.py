"""Weights & Biases as a view of the run directory: losing it never loses a run.

The record is `metrics.jsonl` and `summary.json`. Every call here may fail: what was refused is lost alone, after one
warning for its kind, everything else is still logged, and the W&B run is always closed with its exit status. No
question is ever asked: `auto` is online only when a key is configured and the environment does not say otherwise.
"""

import contextlib
import logging
import math
import os
import secrets
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from alpaca.config import Config
from alpaca.tracking.run_directory import read_jsonl
from alpaca.tracking.wandb_places import ENDED_FILE, IN_SWEEP, OPEN_FILE, sync_command, wandb_folder
from alpaca.tracking.wandb_settings import (
    DISABLED,
    OFFLINE,
    ONLINE,
    REPORT,
    artifact_name,
    chosen_mode,
    is_silent,
    names,
    notes,
)

INIT_TIMEOUT_S = 20
UPLOAD_TIMEOUT_S = 900  # at the end, for artifacts that are still being uploaded, such as a model
FINISH_TIMEOUT_S = 300  # after that, for everything else: a dead server must not hold the accelerators
# Metrics whose best value is in W&B's summary too, as `eval/loss.min`; `eval/loss` there is the last value.
BEST: dict[str, Callable[[float, float], float]] = {
    "train/loss": min,
    "eval/loss": min,
    "eval/perplexity": min,
    "eval/bits_per_byte": min,
    "eval/token_accuracy": max,
    "eval/rougeL": max,
}
NAMING = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_RESUME")  # variables that say which run a process is
TAKEN_OVER = ("WANDB_MODE", "WANDB_TAGS")  # handed to `init` as W&B allows them: it would refuse a bad value for good


class WandbRun:
    """One W&B run; without one every method does nothing."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        facts: dict[str, Any],
        warn: Callable[[str], None],
        *,
        job_type: str = "train",
        watch: bool = True,
        goes_on: bool = False,
        apart: bool = False,
    ):
        """Begin it.

        Args:
            watch: False logs nothing, as on every rank but the first.
            goes_on: close what another process left open, under the same id.
            apart: not the run that the environment names for this process (W&B's agent does that).
        """
        self._warn = warn
        self._folder = folder
        self._goes_on = goes_on
        self._apart = apart
        self._job_type = job_type
        self._run: Any = None
        self._warned: set[str] = set()
        self._artifacts: list[Any] = []
        self._best: dict[str, float] = {}
        self.where = ""  # for the user: an address, or a command; a sweep says it once for all its jobs
        self.mode = chosen_mode(config.tracker.mode) if watch else DISABLED
        if watch and IN_SWEEP not in os.environ:
            for line in notes(config):
                warn(line)
        if self.mode == DISABLED:
            return
        settings: Any = {}
        if job_type != REPORT:
            settings = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, throw_on_missing=True)
        reason = self._begin(config, {**settings, **facts})
        if reason and self.mode == ONLINE:
            warn(f"W&B cannot be used online ({reason}): this run is logged offline")
            self.mode = OFFLINE
            reason = self._begin(config, {**settings, **facts})
        if reason:
            warn(f"W&B: {reason}; the run goes on without it, its record is metrics.jsonl")
            return
        with contextlib.suppress(OSError):
            (folder / OPEN_FILE).write_text("\n".join([self.id, self.url or ""]))
        self._attempt("how metrics are shown", self._define_metrics)
        self.where = "" if is_silent() or IN_SWEEP in os.environ else self._place()
        for logged in read_jsonl(folder / "metrics.jsonl") if job_type == "train" else []:
            self._improved(logged)
        if self._best:  # of the run's earlier processes
            self._attempt("the summary", lambda: self._run.summary.update(self._best))

    def _begin(self, config: Config, settings: dict[str, Any]) -> str:
        """Open the run; why it cannot be, or nothing."""
        called = names(config, self._folder, self._job_type, apart=self._apart)
        folder = wandb_folder(self._folder)
        with contextlib.suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
        try:
            import wandb

            logging.getLogger("wandb").setLevel(logging.ERROR)
            with (
                self._environment(),
                contextlib.redirect_stderr(StringIO()),
            ):  # it advertises another product beside some libraries
                self._run = wandb.init(
                    project=called.project,
                    entity=called.entity,
                    group=called.group,
                    job_type=self._job_type,
                    name=called.name,
                    notes=config.notes or None,
                    tags=called.tags,
                    config=settings,
                    dir=str(folder),
                    mode=self.mode,  # type: ignore[arg-type]
                    reinit="finish_previous",
                    **self._identity(),
                    settings=wandb.Settings(**_quiet_settings()),
                )
        except Exception as error:
            return _in_a_line(error)
        return ""

    def _define_metrics(self) -> None:
        self._run.define_metric("step", hidden=True)
        for section in ("train/*", "eval/*", "perf/*", "generation/*"):
            self._run.define_metric(section, step_metric="step")

    def _identity(self) -> dict[str, Any]:
        """An online run that goes on stays one W&B run; a sweep agent or the user may have named it already.

        Offline runs cannot be resumed: each process leaves a segment of its own.
        """
        if os.environ.get("WANDB_RUN_ID") and not self._apart:
            return {}
        if self.mode != ONLINE:
            left = self._folder / OPEN_FILE
            return {"id": left.read_text().split()[0]} if self._goes_on and left.is_file() else {}
        file = self._folder / ".wandb-id"
        if not file.exists():
            file.write_text(secrets.token_hex(8))
        return {"id": file.read_text().strip(), "resume": "allow"}

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """W&B's variables without those that `init` is given, and for a run that stands apart without another's name.

        The library reads them once, until torn down.
        """
        out_of_sight = (*TAKEN_OVER, *(NAMING if self._apart else ()))
        hidden = {name: os.environ.pop(name) for name in out_of_sight if name in os.environ}
        if self._apart and any(name in hidden for name in NAMING):
            import wandb

            wandb.teardown()
        try:
            yield
        finally:
            os.environ.update(hidden)

    @property
    def id(self) -> str:
        """W&B's id of the run; empty without one."""
        return str(getattr(self._run, "id", ""))

    @property
    def url(self) -> str | None:
        """Address of an online run."""
        return getattr(self._run, "url", None) if self._run is not None and self.mode == ONLINE else None

    def _place(self) -> str:
        """The address of an online run; the command that sends an offline one, with all segments of a resumed run."""
        if self.mode == ONLINE:
            return self.url or ""
        folder = Path(self._run.dir).parent
        segments = list(folder.parent.glob("offline-run-*")) if folder.parent.parent == self._folder else [folder]
        return sync_command(folder) if len(segments) == 1 else sync_command(folder.parent, "offline-run-*")

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Metrics at an optimizer step."""
        self._attempt("metrics", lambda: self._run.log({"step": step, **values}))
        if self._run is not None and (better := self._improved(values)):
            self._attempt("the summary", lambda: self._run.summary.update(better))

    def _improved(self, values: dict[str, Any]) -> dict[str, float]:
        """The best values that `values` improve on, by their name in the summary."""
        better: dict[str, float] = {}
        for name, choose in BEST.items():
            value, key = values.get(name), f"{name}.{choose.__name__}"
            if isinstance(value, (int, float)) and math.isfinite(value):
                best = choose(value, self._best.get(key, value))
                if best != self._best.get(key):
                    better[key] = best
        self._best |= better
        return better

    def log_table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """A table, such as the predictions."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Table(columns=columns, data=rows)})

        self._attempt("a table", send)

    def log_histogram(self, name: str, values: Sequence[float]) -> None:
        """A histogram of `values`."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Histogram(values)})  # type: ignore[arg-type]

        if len(values):
            self._attempt("a histogram", send)

    def log_html(self, name: str, html: str) -> None:
        """A self-contained piece of a page, such as a drawing."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Html(html)})

        self._attempt("a page", send)

    def log_artifact(
        self, name: str, kind: str, path: Path | list[Path], metadata: dict[str, Any], *, is_input: bool = False
    ) -> None:
        """A file, several or a folder as one artifact, its lineage in the metadata.

        One that `is_input` is what the run was made from: online W&B draws it on the run's other side.
        """

        def send() -> None:
            import wandb

            artifact = wandb.Artifact(artifact_name(name), type=kind, metadata=metadata)
            with contextlib.redirect_stdout(StringIO()), contextlib.redirect_stderr(StringIO()):
                for each in path if isinstance(path, list) else [path]:
                    artifact.add_dir(str(each)) if each.is_dir() else artifact.add_file(str(each))
            if is_input and self.mode == ONLINE:  # offline W&B refuses to use one; the metadata have the lineage too
                self._run.use_artifact(artifact)
            else:
                self._run.log_artifact(artifact)
            self._artifacts.append(artifact)

        self._attempt("an artifact", send)

    def use_artifact(self, name: str) -> None:
        """Name an artifact of another run as what this one was made from: only online, no loss if it is not there."""
        if self._run is not None and self.mode == ONLINE:
            with contextlib.suppress(Exception):
                self._run.use_artifact(f"{artifact_name(name)}:latest")

    def finish(self, status: int, summary: dict[str, Any]) -> None:
        """Close the run with an exit status; W&B marks any but 0 as failed."""
        if self._run is None:
            return
        deadline = time.monotonic() + UPLOAD_TIMEOUT_S
        for artifact in self._artifacts if self.mode == ONLINE else []:  # they are uploaded in the background
            left = max(1, int(deadline - time.monotonic()))
            self._attempt("an artifact", partial(artifact.wait, timeout=left))
        self._attempt("the summary", lambda: self._run.summary.update(summary))
        own = Path(self._run.dir).parent
        if self._attempt("the end of the run", lambda: self._run.finish(exit_code=status)):
            with contextlib.suppress(OSError):
                os.replace(self._folder / OPEN_FILE, self._folder / ENDED_FILE)
        elif self.mode == ONLINE:
            self._warn(f"W&B: what did not arrive can be sent later: {sync_command(own)}")
        if self._apart and any(name in os.environ for name in NAMING):
            import wandb

            wandb.teardown()  # the next run of this process is the one that is named
        self._run = None

    def _attempt(self, what: str, call: Callable[[], Any]) -> bool:
        """Whether `call` succeeded; a failure costs what it was about and one warning for its kind."""
        if self._run is None:
            return False
        try:
            call()
        except Exception as error:
            if isinstance(error, ConnectionError):  # to W&B's own process: nothing will work from here on
                what = "anything any more"
            if what not in self._warned:
                reason = _in_a_line(error)
                self._warn(
                    f"W&B did not take {what} ({reason}); the rest is logged, and the run's folder has all of it"
                )
            self._warned.add(what)
            return False
        return True


def _quiet_settings() -> dict[str, Any]:
    """W&B prints nothing of its own and takes no output; the environment may ask for its console and system tabs."""
    chosen: dict[str, Any] = {"silent": True, "init_timeout": INIT_TIMEOUT_S}
    chosen |= {"finish_timeout": FINISH_TIMEOUT_S, "finish_timeout_raises": True}
    if "WANDB_CONSOLE" not in os.environ:
        chosen["console"] = "off"
    if not {"WANDB__DISABLE_STATS", "WANDB_X_DISABLE_STATS"} & set(os.environ):
        chosen["x_disable_stats"] = True
    return chosen


def _in_a_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")[:200].rstrip(":. ") or type(error).__name__


def log_answers(tracker: WandbRun, name: str, examples: list[dict[str, Any]]) -> None:
    """The answers as a W&B table, keyed by the example's id, so that tables of two runs can be joined."""
    answered = [record for record in examples if record.get("output") is not None]
    numbers = list(dict.fromkeys(key for record in answered for key in record["scores"]))
    columns = ["id", "prompt", "reference", "output", *numbers]
    flat = [{**record, **record["scores"]} for record in answered]
    if flat:
        tracker.log_table(f"predictions-{name}", columns, [[row.get(column) for column in columns] for row in flat])
