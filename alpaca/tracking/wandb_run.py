"""Weights & Biases as a view of the run directory: losing it never loses a run.

The record is `metrics.jsonl` and `summary.json`; every call here may fail, and then the run goes on
without W&B after one warning. No question is ever asked: `auto` is online only when a key is configured.
"""

import contextlib
import logging
import netrc
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from io import StringIO
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

from omegaconf import OmegaConf

from alpaca.config import Config

OFFLINE, ONLINE, AUTO, DISABLED = "offline", "online", "auto", "disabled"
INIT_TIMEOUT_S = 20
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
    sections = ("model", "data_source", "template", "adapter", "parallelism", "optimizer")
    chosen = [f"{section}={getattr(config, section).name}"[:64] for section in sections]
    return [*chosen, *config.extra_tags]


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
        apart: bool = False,
    ):
        """Begin it; `apart` from the run that the environment names for this process (W&B's agent does that)."""
        self._warn = warn
        self._apart = apart
        self._job_type = job_type
        self._run: Any = None
        self.mode = chosen_mode(config.tracker.mode) if watch else DISABLED
        if self.mode == DISABLED:
            return
        settings: Any = OmegaConf.to_container(OmegaConf.structured(config), resolve=True, throw_on_missing=True)
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
        self._run.define_metric("step", hidden=True)
        for section in ("train/*", "eval/*", "perf/*", "generation/*"):
            self._run.define_metric(section, step_metric="step")
        self._run.define_metric("eval/loss", step_metric="step", summary="min")
        self._run.define_metric("eval/rougeL", step_metric="step", summary="max")

    def _identity(self, folder: Path) -> dict[str, Any]:
        """An online run that goes on stays one W&B run; a sweep agent or the user may have named it already.

        Offline runs cannot be resumed: each process leaves a segment of its own.
        """
        if self.mode != ONLINE or (os.environ.get("WANDB_RUN_ID") and not self._apart):
            return {}
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

    def log_artifact(self, name: str, kind: str, path: Path | list[Path], metadata: dict[str, Any]) -> None:
        """A file, several or a folder as one artifact, its lineage in the metadata."""

        def send() -> None:
            import wandb

            artifact = wandb.Artifact(name, type=kind, metadata=metadata)
            with contextlib.redirect_stdout(StringIO()), contextlib.redirect_stderr(StringIO()):
                for each in path if isinstance(path, list) else [path]:
                    artifact.add_dir(str(each)) if each.is_dir() else artifact.add_file(str(each))
            self._run.log_artifact(artifact)

        if self._run is not None:
            self._guarded(send)

    def finish(self, status: int, summary: dict[str, Any]) -> None:
        """Close the run with an exit status; W&B marks any but 0 as failed."""

        def send() -> None:
            self._run.summary.update(summary)
            self._run.finish(exit_code=status)
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
