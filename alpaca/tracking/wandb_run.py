"""Weights & Biases as a view of the run directory: losing it never loses a run.

The record is `metrics.jsonl` and `summary.json`; every call here may fail, and then the run goes on
without W&B after one warning. No question is ever asked: `auto` is online only when a key is configured.
"""

import contextlib
import logging
import netrc
import os
import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from omegaconf import OmegaConf

from alpaca.config import Config

OFFLINE, ONLINE, AUTO, DISABLED = "offline", "online", "auto", "disabled"
REPORT = "report"  # job type of the W&B run that holds the report of a sweep: it has no settings of its own
INIT_TIMEOUT_S = 20
OPEN_FILE = ".wandb-open"  # in the run directory, with the id of the W&B run that is not closed yet
# What the summary of a run shows of a metric besides its last value: columns of W&B's table of runs.
BEST = {
    "train/loss": "min",
    "eval/loss": "min",
    "eval/perplexity": "min",
    "eval/bits_per_byte": "min",
    "eval/token_accuracy": "max",
    "eval/rougeL": "max",
    "perf/logical_tokens_per_s": "mean",
    "perf/peak_memory_gib": "max",
}
NAMING = ("WANDB_RUN_ID", "WANDB_SWEEP_ID", "WANDB_RESUME")  # variables that say which run a process is


def chosen_mode(mode: str) -> str:
    """`auto` resolved: online when a key is configured for the W&B host in use, else offline."""
    if mode != AUTO:
        return mode
    return ONLINE if _has_key() else OFFLINE


def _has_key() -> bool:
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def tags(config: Config, job_type: str = "train") -> list[str]:
    """The group choices of a run (of a generation: its engine and model), as tags, and the user's own."""
    if job_type == "generate":
        made = config.generation
        keys = ("mode", "engine", "model", "prompt")
        return [*(f"{key}={getattr(made, key)}"[:64] for key in keys), *config.extra_tags]
    if job_type == REPORT:
        return list(config.extra_tags)
    sections = ("model", "data_source", "template", "adapter", "parallelism", "optimizer")
    chosen = [f"{section}={getattr(config, section).name}"[:64] for section in sections]
    return [*chosen, *config.extra_tags]


def artifact_name(text: str) -> str:
    """`text` in the letters that W&B allows in the name of an artifact, which are fewer than a folder's."""
    return re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII)[:128]


class WandbRun:
    """One W&B run; after a failure every method does nothing."""

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
        self.mode = chosen_mode(config.tracker.mode) if watch else DISABLED
        if self.mode == DISABLED:
            return
        settings: Any = {}
        if job_type != REPORT:
            settings = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, throw_on_missing=True)
        self._guarded(lambda: self._start(config, {**settings, **facts}, folder))
        if self._run is None and self.mode == ONLINE:
            warn("W&B could not be reached: this run is logged offline")
            self.mode = OFFLINE
            self._guarded(lambda: self._start(config, {**settings, **facts}, folder))

    def _start(self, config: Config, settings: dict[str, Any], folder: Path) -> None:
        import wandb

        logging.getLogger("wandb").setLevel(logging.ERROR)
        with (
            self._environment(),
            contextlib.redirect_stderr(StringIO()),
        ):  # it advertises another product beside some libraries
            self._run = wandb.init(
                project=config.tracker.project,
                entity=config.tracker.entity,
                group=config.tracker.group or config.name,
                job_type=self._job_type,
                name=folder.name,
                notes=config.notes or None,
                tags=tags(config, self._job_type),
                config=settings,
                dir=str(folder),
                mode=self.mode,  # type: ignore[arg-type]
                reinit="finish_previous",
                **self._identity(folder),
                settings=wandb.Settings(silent=True, console="off", init_timeout=INIT_TIMEOUT_S, x_disable_stats=True),
            )
        (folder / OPEN_FILE).write_text(str(self._run.id))
        self._run.define_metric("step", hidden=True)
        for section in ("train/*", "eval/*", "perf/*", "generation/*"):
            self._run.define_metric(section, step_metric="step")
        for name, best in BEST.items():
            self._run.define_metric(name, step_metric="step", summary=best)

    def _identity(self, folder: Path) -> dict[str, Any]:
        """An online run that goes on stays one W&B run; a sweep agent or the user may have named it already.

        Offline runs cannot be resumed: each process leaves a segment of its own.
        """
        if os.environ.get("WANDB_RUN_ID") and not self._apart:
            return {}
        if self.mode != ONLINE:
            left = folder / OPEN_FILE
            return {"id": left.read_text().strip()} if self._goes_on and left.is_file() else {}
        file = folder / ".wandb-id"
        if not file.exists():
            file.write_text(secrets.token_hex(8))
        return {"id": file.read_text().strip(), "resume": "allow"}

    @contextlib.contextmanager
    def _environment(self) -> Iterator[None]:
        """For a run that stands apart: without what names another run. The library reads that once, until torn down."""
        hidden = {name: os.environ.pop(name) for name in NAMING if self._apart and name in os.environ}
        if hidden:
            import wandb

            wandb.teardown()
        try:
            yield
        finally:
            os.environ.update(hidden)

    @property
    def url(self) -> str | None:
        """Address of an online run."""
        return getattr(self._run, "url", None) if self._run is not None and self.mode == ONLINE else None

    def log(self, step: int, values: dict[str, Any]) -> None:
        """Metrics at an optimizer step."""
        self._guarded(lambda: self._run and self._run.log({"step": step, **values}))

    def log_table(self, name: str, columns: list[str], rows: list[list[Any]]) -> None:
        """A table, such as the predictions."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Table(columns=columns, data=rows)})

        if self._run is not None:
            self._guarded(send)

    def log_histogram(self, name: str, values: Sequence[float]) -> None:
        """A histogram of `values`."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Histogram(values)})  # type: ignore[arg-type]

        if self._run is not None and len(values):
            self._guarded(send)

    def log_html(self, name: str, html: str) -> None:
        """A self-contained piece of a page, such as a drawing."""

        def send() -> None:
            import wandb

            self._run.log({name: wandb.Html(html)})

        if self._run is not None:
            self._guarded(send)

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

        if self._run is not None:
            self._guarded(send)

    def use_artifact(self, name: str) -> None:
        """Name an artifact of another run as what this one was made from: only online, no loss if it is not there."""
        if self._run is not None and self.mode == ONLINE:
            with contextlib.suppress(Exception):
                self._run.use_artifact(f"{artifact_name(name)}:latest")

    def finish(self, status: int, summary: dict[str, Any]) -> None:
        """Close the run with an exit status; W&B marks any but 0 as failed."""

        def send() -> None:
            self._run.summary.update(summary)
            self._run.finish(exit_code=status)
            (self._folder / OPEN_FILE).unlink(missing_ok=True)
            if self._apart and any(name in os.environ for name in NAMING):
                import wandb

                wandb.teardown()  # the next run of this process is the one that is named

        if self._run is not None:
            self._guarded(send)
            self._run = None

    def _guarded(self, call: Callable[[], Any]) -> None:
        try:
            call()
        except Exception as error:
            reason = next(iter(str(error).splitlines()), type(error).__name__)[:200]
            self._warn(f"W&B: {reason}; the run goes on, its record is metrics.jsonl")
            self._run = None


def log_answers(tracker: WandbRun, name: str, examples: list[dict[str, Any]]) -> None:
    """The answers as a W&B table, keyed by the example's id, so that tables of two runs can be joined."""
    answered = [record for record in examples if record.get("output") is not None]
    numbers = list(dict.fromkeys(key for record in answered for key in record["scores"]))
    columns = ["id", "prompt", "reference", "output", *numbers]
    flat = [{**record, **record["scores"]} for record in answered]
    if flat:
        tracker.log_table(f"predictions-{name}", columns, [[row.get(column) for column in columns] for row in flat])
