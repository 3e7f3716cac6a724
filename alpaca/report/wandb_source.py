"""Runs from a W&B project, and a comparison as a W&B report. Both need the network and a key."""

import json
import tempfile
from pathlib import Path
from typing import Any

from alpaca.errors import UserError
from alpaca.evaluation.scores import DIRECTIONS
from alpaca.report import markdown
from alpaca.report.reading import COSTS, Found, Scores, flat, scores_in, shares_of
from alpaca.report.records import FAILED, FINISHED, INTERRUPTED, Comparison, Run
from alpaca.tracking.wandb_settings import has_key

TIMEOUT_S = 20
STATES = {"finished": FINISHED, "failed": FAILED, "crashed": FAILED, "killed": INTERRUPTED, "running": INTERRUPTED}
FACTS = ("signature", "data", "trained_parameters")  # what a run's W&B config holds beside its settings


def read_project(name: str) -> Found:
    """The training runs of `ENTITY/PROJECT`, with the scores of their examples from the table of predictions.

    Raises:
        UserError: no network, no key, no such project, or no run in it.
    """
    if name.count("/") != 1 or not all(name.split("/")):
        raise UserError(f"wandb:{name}: not a project; write wandb:ENTITY/PROJECT")
    import wandb

    place = f"wandb:{name}"
    if not has_key():
        raise UserError(f"{place}: no W&B key on this machine; set WANDB_API_KEY or run wandb login")
    try:
        listed = [run for run in wandb.Api(timeout=TIMEOUT_S).runs(name) if run.job_type in (None, "train")]
        runs = [_run(place, run) for run in listed]
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        raise UserError(
            f"{place}: not found or not reached ({first}); check the name, the key and the network"
        ) from None
    if not runs:
        raise UserError(f"{place}: there is no training run in this project")
    return Found(runs, name, first=runs[0])


def _run(place: str, run: Any) -> Run:
    """One run; its variant is made of its settings, since W&B holds no hash of its files."""
    settings = {key: value for key, value in dict(run.config).items() if key not in FACTS}
    flattened = dict(flat(settings))
    seed = flattened.pop("train.seed", None)
    summary = dict(run.summary)
    metrics = {
        key: float(value)
        for key, value in summary.items()
        if key.startswith("eval/") and isinstance(value, (int, float)) and not key.endswith(("_before", ".min", ".max"))
    }
    curves: dict[str, list[tuple[int, float]]] = {}
    for line in run.scan_history():
        for key, value in line.items():
            if key.startswith(("train/", "eval/")) and isinstance(value, (int, float)) and line.get("step") is not None:
                curves.setdefault(key, []).append((int(line["step"]), float(value)))
    trained = [
        key for key in flattened if not key.startswith(("tracker.", "sweep.")) and key not in ("name", "output_dir")
    ]
    scores, weights, texts = _predictions(run, metrics)
    return Run(
        name=str(run.name),
        place=f"{place}/{run.id}",
        status=STATES.get(str(run.state), INTERRUPTED),
        seed=seed if isinstance(seed, int) else None,
        variant=json.dumps({key: flattened[key] for key in sorted(trained)}, default=str),
        settings=flattened,
        metrics=metrics,
        curves=curves,
        scores=scores,
        weights=weights,
        shares=shares_of(scores),
        directions=dict(summary.get(DIRECTIONS) or {}),
        texts=texts,
        costs={name: float(summary[key]) for name, key in COSTS.items() if isinstance(summary.get(key), (int, float))},
        error="" if run.state == "finished" else str(summary.get("error") or run.state),
        tokenizer=f"{flattened.get('model.weights')}:{flattened.get('model.name')}",
    )


def _predictions(run: Any, metrics: dict[str, float]) -> tuple[Scores, Scores, dict[str, dict[str, str | None]]]:
    """From the artifact that holds the run's `predictions.jsonl`; empty where there is none."""
    for artifact in run.logged_artifacts():
        if artifact.type == "predictions":
            with tempfile.TemporaryDirectory() as folder:
                artifact.download(root=folder)
                return scores_in(Path(folder), metrics)
    return {}, {}, {}


def publish(comparison: Comparison, folder: Path, project: str) -> str:
    """Make a W&B report of the comparison; returns its address.

    Raises:
        UserError: the package is not installed, or W&B cannot be reached.
    """
    try:
        import wandb_workspaces.reports.v2 as reports  # type: ignore[import-not-found]
    except ImportError:
        raise UserError("--wandb-report: needs another package: pip install wandb-workspaces") from None
    entity, _, name = project.rpartition("/")
    try:
        made = reports.Report(project=name, entity=entity or None, title=comparison.title)
        made.blocks = [reports.MarkdownBlock(text=markdown.page(comparison))]
        made.save()
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)[:160]
        raise UserError(f"--wandb-report {project}: {first}; the report on disk is in {folder}") from None
    return str(made.url)
