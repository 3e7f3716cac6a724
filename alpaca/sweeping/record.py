"""`sweep.yaml`: the question, and the jobs that answer it, on disk before the first of them begins."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from alpaca import paths
from alpaca.errors import UserError
from alpaca.sweeping.damage import mapping_of
from alpaca.tracking.run_directory import write_text

FILE = "sweep.yaml"
SEED = re.compile(r"\+*train\.seed=(-?\d+)$")  # as it sets jobs of a sweep apart


@dataclass(frozen=True)
class Question:
    """What a sweep file says about itself in its first comment."""

    question: str = ""
    cost: str = ""
    read: str = ""


def question_of(name: str | None, folders: list[Path]) -> Question:
    """The header of the sweep file `name`, looked for in `folders` of the user's and among those that are shipped."""
    if name is None:
        return Question()
    for file in [*(folder / "sweep" / f"{name}.yaml" for folder in folders), paths.sweeps_dir() / f"{name}.yaml"]:
        if file.is_file():
            return parsed_header(file.read_text(encoding="utf-8"))
    return Question()


def parsed_header(text: str) -> Question:
    """Question, `Cost:` and `Read:` of the comment that `text` opens with."""
    found: dict[str, list[str]] = {"question": [], "cost": [], "read": [], "use": []}
    part = "question"
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        words = line.lstrip("#").strip()
        if words.startswith("@package"):
            continue
        for name in ("cost", "read", "use"):
            if words.lower().startswith(f"{name}:"):
                part, words = name, words[len(name) + 1 :].strip()
        found[part].append(words)
    return Question(*(" ".join(found[name]) for name in ("question", "cost", "read")))


def write(folder: Path, name: str, question: Question, jobs: list[dict[str, Any]], baseline: str | None = None) -> None:
    """Write `sweep.yaml`; jobs of an earlier command stay in it while their directories are there, if it can be read.

    Raises:
        UserError: the folder cannot be written.
    """
    mine = {job["folder"] for job in jobs}
    kept = [job for job in _parsed(folder)[0].get("jobs", []) if job.get("folder") and job["folder"] not in mine]
    kept = [job for job in kept if (folder / job["folder"]).is_dir()]
    named = {"baseline": baseline} if baseline else {}
    content = {"name": name, "question": question.question, "read": question.read, **named, "jobs": [*jobs, *kept]}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / FILE, yaml.safe_dump(content, sort_keys=False, allow_unicode=True, width=120))
    except OSError as error:
        raise UserError(f"output_dir={folder}: {error.strerror}; choose a folder that can be written") from error


def read(folder: Path) -> dict[str, Any]:
    """`sweep.yaml` of a folder; empty where there is none.

    Raises:
        UserError: it is damaged.
    """
    found, problem = _parsed(folder)
    if problem:
        raise UserError(
            f"{problem}; the file is damaged: the sweep's command writes it anew, and without it "
            f"(remove it) the runs that are there can be compared"
        )
    return found


def damage(folder: Path) -> str:
    """What is wrong with `sweep.yaml` of a folder, with file and line; empty for nothing."""
    return _parsed(folder)[1]


def _parsed(folder: Path) -> tuple[dict[str, Any], str]:
    file = folder / FILE
    found, problem = mapping_of(file)
    jobs = found.get("jobs", [])
    if not problem and not (isinstance(jobs, list) and all(map(_is_job, jobs))):
        problem = f"{file}: jobs is no list of jobs, each with folder and differs"
    return ({}, problem) if problem else (found, "")


def _is_job(entry: Any) -> bool:
    return (
        isinstance(entry, dict)
        and isinstance(entry.get("folder"), str | None)
        and isinstance(entry.get("differs", []), list)
    )
