"""Runs as they lie on disk: single directories, folders of runs, sweeps with runs that never began."""

import json
import math
import statistics
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from alpaca.errors import UserError
from alpaca.evaluation.scores import DIRECTIONS
from alpaca.report.records import DAMAGED, FAILED, FINISHED, INTERRUPTED, MISSING, Run
from alpaca.report.variants import all_settings, compared, fits_settings, full_key
from alpaca.report.wording import visible
from alpaca.signature import variant_of
from alpaca.sweeping import damage, record
from alpaca.sweeping.record import SEED
from alpaca.tracking.run_directory import read_json

DEEPEST = 5  # folders below a given one in which runs are looked for
COSTS = {
    "wall_time_s": "wall_time_s",
    "tokens_per_s": "perf/logical_tokens_per_s",
    "peak_memory_gib": "perf/peak_memory_gib",
    "trained_parameters": "trained_parameters",
}
ALIASES = {  # what an evaluation calls the score of an example, the metric that is its mean, and what it counts times
    "win": ("win_rate", 100.0),
    "stopped": ("stop_rate", 1.0),
    "refused": ("refusal_rate", 1.0),
}
YES_OR_NO = {f"/{name}": factor for name, factor in ALIASES.values()} | {"/exact_match": 1.0}  # how such metrics end
PREDICTIONS, QUICK = "predictions", "eval/"
BITS = "eval/bits_per_byte"
SIZES = ("tokens", "bytes")  # of an example, beside its scores


@dataclass(frozen=True)
class Found:
    """Runs, and what the folder they came from says about itself.

    Attributes:
        first: a run of the baseline where none is named: the first in the order of their sweep if all runs are of one
            sweep, however they were named, else the first of the first argument.
        order: which order that is, for a sentence.
        baseline: `sweep.baseline`, where `first` is a run of it.
    """

    runs: list[Run]
    title: str
    question: str = ""
    read: str = ""
    first: Run | None = None
    folders: list[Path] = field(default_factory=list)
    order: str = "as they were found"
    baseline: str = ""


def read_runs(places: list[Path]) -> Found:
    """All runs in `places`.

    Raises:
        UserError: a place that is not there or holds no run, or a damaged file in one.
    """
    folders: dict[Path, Path] = {}
    for place in places:
        if not place.is_dir():
            raise UserError(f"{place}: no such folder; give run directories or folders of them")
        inside = list(_run_folders(place))
        if not inside and not record.read(place).get("jobs"):
            raise UserError(f"{place}: there is no run in this folder; give run directories or a sweep's folder")
        for folder in inside:
            folders.setdefault(folder.resolve(), folder)
    wholes = [place for place in places if not (place / "config.yaml").is_file()]
    sweeps = {place.resolve(): place for place in wholes if (place / record.FILE).is_file()}
    home = places[0] if len(sweeps) == len(places) == 1 else _home(folders, sweeps)
    if home is not None and wholes:
        sweeps.setdefault(home.resolve(), home)
    runs: dict[Path, Run] = {}
    for sweep in sweeps.values():
        for number, job in enumerate(record.read(sweep).get("jobs", [])):
            run = _job(sweep, job)
            runs.setdefault((Path(run.place) if run.place else sweep / f"job {number}").resolve(), run)
    for resolved, folder in folders.items():
        if resolved not in runs:
            runs[resolved] = read_run(folder)
    listed = list(runs.values())
    title = ", ".join(place.name or str(place) for place in places)
    if home is None:
        return Found(listed, title, first=listed[0], folders=places)
    found = record.read(home)
    name = str(found.get("name") or home.resolve().name)
    order = f"in the order of the sweep {name}"
    if not wholes:
        place_of = {job.get("folder"): number for number, job in enumerate(found.get("jobs", []))}
        listed.sort(key=lambda run: place_of.get(Path(run.place).resolve().name, len(place_of)))
        first, baseline = _baseline(listed, found)
        return Found(listed, title, first=first, folders=places, order=order, baseline=baseline)
    question, how = str(found.get("question") or ""), str(found.get("read") or "")
    first, baseline = _baseline(listed, found)
    return Found(listed, name, question, how, first, places, order, baseline)


def _baseline(runs: list[Run], of_sweep: dict[str, Any]) -> tuple[Run, str]:
    """A run of the baseline that `sweep.yaml` names, and its name; the first run where none is named or here."""
    name = str(of_sweep.get("baseline") or "")
    fits = [run for run in runs if name and fits_settings(all_settings(run), run.job or (), name)]
    return (fits[0], name) if fits else (runs[0], "")


def _home(folders: dict[Path, Path], sweeps: dict[Path, Path]) -> Path | None:
    """The folder of the one sweep that all these run directories lie in; None where `sweeps` has another one too."""
    homes = {resolved.parent: folder.parent for resolved, folder in folders.items()}
    if len(homes) != 1 or sweeps.keys() - homes.keys():
        return None
    ((resolved, home),) = homes.items()
    place = home if home.resolve() == resolved else resolved  # the parent of "." is "."
    return place if (place / record.FILE).is_file() else None


def read_run(folder: Path) -> Run:
    """The run in `folder`.

    Raises:
        UserError: a file of it that cannot be read.
    """
    problem = damage.of_summary(folder)
    summary = {} if problem else read_json(folder / damage.SUMMARY)
    environment = read_json(folder / "env.json")
    settings = _settings(folder)
    seed = settings.pop("train.seed", None)
    hashed = environment.get("settings")
    metrics = {
        name: float(value)
        for name, value in summary.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and "/" in name
    }
    scores, weights, texts = scores_in(folder, metrics)
    costs = {name: float(summary[key]) for name, key in COSTS.items() if isinstance(summary.get(key), (int, float))}
    device = str(environment.get("device_name") or environment.get("device") or "")
    dollars = _dollars(device, int(environment.get("world_size") or 1), costs)
    return Run(
        name=folder.name,
        place=str(folder),
        status=DAMAGED if problem else str(summary.get("status") or INTERRUPTED),
        seed=seed if isinstance(seed, int) else None,
        variant=variant_of(hashed) if isinstance(hashed, dict) and "train.seed" in hashed else str(compared(settings)),
        settings=settings,
        metrics={name: value for name, value in metrics.items() if not name.endswith("_before")},
        curves=_curves(folder / "metrics.jsonl"),
        scores=scores,
        weights=weights,
        shares=shares_of(scores),
        directions=dict(summary.get(DIRECTIONS) or {}),
        texts=texts,
        costs=costs if dollars is None else {**costs, "dollars": dollars},
        error=visible(f"{problem}; the file is damaged: the command that made the run runs it again")
        if problem
        else visible(str(summary.get("error") or ("" if summary else "it did not come to its end"))),
        device=device,
        tokenizer=f"{settings.get('model.weights')}:{settings.get('model.name')}",
    )


def _job(place: Path, job: dict[str, Any]) -> Run:
    """A job of a sweep: its run, or a row that says why there is none."""
    folder = place / job["folder"] if job.get("folder") else None
    differs = [str(part) for part in job.get("differs") or []]
    apart = tuple(part for part in differs if not SEED.match(part))
    if folder is not None and (folder / "config.yaml").is_file():
        return replace(read_run(folder), job=apart, sweep=str(place))
    said = dict(part.lstrip("+").partition("=")[::2] for part in apart if "=" in part)
    seed = next((found[1] for part in differs if (found := SEED.match(part))), None)
    return Run(
        name=",".join(differs) or "defaults",
        place="" if folder is None else str(folder),
        status=FAILED if job.get("error") else MISSING,
        seed=None if seed is None else int(seed),
        variant=str(job.get("variant") or f"job:{place}:{apart}"),
        settings={full_key(key): value for key, value in said.items()},
        error=visible(str(job.get("error") or "it has not run yet")),
        job=apart,
        sweep=str(place),
        began=False,
    )


def _run_folders(place: Path) -> Iterator[Path]:
    """Run directories: `place` itself, or those below it."""
    if (place / "config.yaml").is_file():
        yield place
        return
    for depth in range(1, DEEPEST + 1):
        for file in sorted(place.glob("/".join(["*"] * depth) + "/config.yaml")):
            if (file.parent / "env.json").is_file() or (file.parent / "summary.json").is_file():
                yield file.parent


def _settings(folder: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load((folder / "config.yaml").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"{folder / 'config.yaml'}: cannot be read ({type(error).__name__}); it is damaged") from error
    if not isinstance(content, dict):
        raise UserError(f"{folder / 'config.yaml'}: holds no settings; it is damaged")
    return dict(flat(content))


def flat(section: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in section.items():
        if isinstance(value, dict) and value:
            yield from flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _lines(file: Path, *, grows: bool = False) -> Iterator[tuple[int, dict[str, Any]]]:
    """Line number and object of each line of a JSONL file; of one that grows a last line may be cut off.

    Raises:
        UserError: any other line that is no JSON object.
    """
    try:
        text = file.read_text(encoding="utf-8", errors="surrogatepass")
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({type(error).__name__}); it is damaged") from error
    lines = text.split("\n")
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found = json.loads(line)
            if not isinstance(found, dict):
                raise ValueError
        except ValueError:
            if grows and number == len(lines):
                return
            raise UserError(
                f"{file}, line {number}: no JSON object; mend or remove that line, or leave the run out"
            ) from None
        yield number, found


def _curves(file: Path) -> dict[str, list[tuple[int, float]]]:
    curves: dict[str, list[tuple[int, float]]] = {}
    for number, line in _lines(file, grows=True):
        step = line.get("step")
        if not isinstance(step, int):
            raise UserError(f"{file}, line {number}: no step; mend or remove that line, or leave the run out")
        for name, value in line.items():
            if "/" in name and isinstance(value, (int, float)) and not name.startswith("perf/"):
                curves.setdefault(name, []).append((step, float(value)))
    return curves


Scores = dict[str, dict[str, float]]


def scores_in(folder: Path, metrics: dict[str, float]) -> tuple[Scores, Scores, dict[str, dict[str, str | None]]]:
    """Scores, weights and texts of every evaluation, by example id.

    Runs of earlier versions do not say how many bytes of each response were scored. The whole reference has that many
    unless the response was truncated, so their bits per byte count only where their mean is that of `metrics`.
    """
    scores: Scores = {}
    weights: Scores = {}
    texts: dict[str, dict[str, str | None]] = {}
    for file in sorted(folder.glob(f"{PREDICTIONS}*.jsonl"), key=lambda file: (len(file.stem), file.stem)):
        evaluation = file.stem.removeprefix(PREDICTIONS).lstrip("-")
        section = f"{QUICK}{evaluation}/" if evaluation else QUICK
        for number, line in _lines(file):
            name, found = line.get("id"), line.get("scores")
            if not isinstance(name, str) or not isinstance(found, dict):
                raise UserError(f"{file}, line {number}: no id or no scores; score the run again: alpaca.evaluate")
            for key, value in found.items():
                known = isinstance(value, (int, float)) and math.isfinite(value)
                if known and not key.endswith("_before") and key not in SIZES:
                    known_as, factor = ALIASES.get(key, (key, 1.0)) if evaluation else (key, 1.0)
                    kind = f"_{line['kind']}" if evaluation == "safety" and line.get("kind") else ""
                    scores.setdefault(section + known_as + kind, {})[name] = factor * float(value)
            if not evaluation and isinstance(tokens := found.get("tokens"), int) and "loss" in found:
                weights.setdefault("eval/loss", {})[name] = tokens
                size = found.get("bytes")
                if size is None:
                    size = len(str(line.get("reference") or "").encode("utf-8", "replace"))
                if size and isinstance(found["loss"], (int, float)):
                    scores.setdefault(BITS, {})[name] = found["loss"] * tokens / math.log(2) / size
                    weights.setdefault(BITS, {})[name] = size
            if name not in texts or (texts[name]["output"] is None and line.get("output") is not None):
                asked = [line[key] for key in ("instruction", "input") if line.get(key)] or [line.get("prompt") or ""]
                texts[name] = {
                    "prompt": visible("\n".join(map(str, asked))),
                    "reference": None if line.get("reference") is None else visible(str(line["reference"])),
                    "output": None if line.get("output") is None else visible(str(line["output"])),
                }
    if BITS in scores and BITS in metrics:
        mean = statistics.fmean(scores[BITS].values(), weights[BITS].values())
        if not math.isclose(mean, metrics[BITS], rel_tol=1e-6):
            del scores[BITS], weights[BITS]
    return scores, weights, texts


def shares_of(scores: Scores) -> dict[str, float]:
    """Metrics of which every example is a yes or a no, and the score of a yes."""
    found = {}
    for metric, by_name in scores.items():
        known = next((whole for end, whole in YES_OR_NO.items() if end in metric), None)
        if known is not None or set(by_name.values()) <= {0.0, 1.0}:
            found[metric] = known or 1.0
    return found


def _dollars(device: str, devices: int, costs: dict[str, float]) -> float | None:
    from alpaca.planning.devices import find

    found = find(device) if device else None
    if found is None or not found.dollars_per_hour or "wall_time_s" not in costs:
        return None
    return found.dollars_per_hour * devices * costs["wall_time_s"] / 3600


def finished(runs: list[Run]) -> list[Run]:
    """Those with results."""
    return [run for run in runs if run.status == FINISHED]
