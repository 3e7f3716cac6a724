"""Whose a folder is: a command writes only into an empty folder, or into one that the same kind of command wrote.

A name is no proof: users have a `config.yaml` or a `data.json` of their own. What counts is the content of `env.json`,
`evaluation.json` or `sweep.yaml`, or the text that the holder of a lock writes before any other file.
"""

import re
from collections.abc import Iterable
from pathlib import Path

import yaml

from alpaca.errors import UserError
from alpaca.tracking.files import read_json

RUN, GENERATION, INSPECTION, EVALUATION, SWEEP, REPORT = KINDS = (
    "run",
    "generation",
    "inspection",
    "evaluation",
    "sweep",
    "report",
)
LOCK = ".lock"
GENERATOR = '<meta name="generator" content="alpaca.compare">'  # in the head of a report
MULTIRUN_SIGN = "alpaca.sweeping.folder."  # the callback in what Hydra writes about a multirun
SHOWN = 3  # names in an error
_HOLDER = re.compile(r"process \d+ on [^\n]*(?:\n(\w+)\n?)?")
# What a process may leave that was killed before it wrote what it is.
_BEGUN = re.compile(r"\.lock|run\.log|evaluate\.log|multirun\.yaml|\..+\.tmp")


def refuse_foreign(folder: Path, kind: str, *, key: str = "output_dir", also: tuple[str, ...] = ()) -> None:
    """Refuse a folder that is neither new nor empty nor of this kind; nothing is written.

    Args:
        key: the option that names the folder, for the error.
        also: further kinds that will do.

    Raises:
        UserError: it holds something else, or cannot be read.
    """
    try:
        names = sorted(each.name for each in folder.iterdir())
        found = kind_of(folder, names) if names else kind
    except FileNotFoundError:
        return
    except OSError as error:
        raise UserError(f"{key}={folder}: {error.strerror}; choose a new or empty folder") from error
    if found in (kind, *also, ""):
        return
    if found is None:
        shown = [name for name in names if not name.startswith(".")] or names
        found = f"other files: {', '.join(shown[:SHOWN])}{', ...' if len(shown) > SHOWN else ''}"
    else:
        found = f"{'an' if found[0] in 'aeiou' else 'a'} {found}"
    raise UserError(f"{key}={folder}: it holds no {kind} ({found}); choose a new or empty folder")


def kind_of(folder: Path, names: Iterable[str]) -> str | None:
    """Which kind of command wrote `folder`, which holds `names`; "" if it was killed too early to say, None if none."""
    locked, kind = _lock_of(folder)
    if not _is_foreign(names) and locked:
        return kind
    if kind == SWEEP or _is_sweep(folder):
        return SWEEP
    evaluation = read_json(folder / "evaluation.json")
    is_marked = locked or read_json(folder / "summary.json").get("status") == EVALUATION
    if isinstance(evaluation.get("target"), str) and is_marked:
        return EVALUATION
    environment = read_json(folder / "env.json")
    settings, packages = environment.get("settings"), environment.get("packages")
    if isinstance(environment.get("signature"), str) and (isinstance(settings, dict) or isinstance(packages, dict)):
        if kind:
            return kind
        if settings and all(str(key).startswith("generation.") for key in settings):
            return GENERATION
        return INSPECTION if (folder / "inspect.json").is_file() else RUN
    return REPORT if _is_report(folder) else None


def _is_foreign(names: Iterable[str]) -> bool:
    return any(not _BEGUN.fullmatch(name) for name in names)


def _lock_of(folder: Path) -> tuple[bool, str]:
    """Whether `.lock` is one of ours, and the kind in it; a process killed between two system calls leaves it empty."""
    if not (folder / LOCK).is_file():
        return False, ""
    text = _text(folder / LOCK)
    match = _HOLDER.fullmatch(text)
    kind = (match[1] or "") if match else ""
    return match is not None or not text, kind if kind in KINDS else ""


def _is_sweep(folder: Path) -> bool:
    """A list of jobs, Hydra's record of a multirun of ours, or, where both are damaged, runs named by signatures."""
    try:
        found = yaml.safe_load(_text(folder / "sweep.yaml"))
    except yaml.YAMLError:
        found = None
    jobs = found.get("jobs") if isinstance(found, dict) else None
    if isinstance(jobs, list) and all(isinstance(job, dict) and "folder" in job for job in jobs):
        return True
    if MULTIRUN_SIGN in _text(folder / "multirun.yaml"):
        return True
    runs = [each for each in folder.glob("*-??????????") if each.is_dir()]
    return any(kind_of(each, (inside.name for inside in each.iterdir())) == RUN for each in runs)


def _is_report(folder: Path) -> bool:
    return GENERATOR in _text(folder / "report.html")


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
