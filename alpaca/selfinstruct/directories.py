"""Which directory a generation works in: a finished one of the same signature is reused, an unfinished one continued.

The signature leaves out what cannot change the data, so a higher budget or another concurrency goes on
in the same place. A directory that the user names may also be extended: everything but the target must
be as it was, seeds and rows by what they contain, not by their names.
"""

import hashlib
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from alpaca.config import Config, GenerationConfig
from alpaca.errors import UserError
from alpaca.licences import UNKNOWN
from alpaca.selfinstruct.settings import resolved
from alpaca.signature import GENERATED, generation_settings, generation_signature
from alpaca.tracking.run_directory import FINISHED, read_json, status

OUTPUTS = Path("outputs")
DATASET, HASH = "dataset.json", "dataset_sha256"  # the data set, and its content in the summary
BY_CONTENT = ("generation.seeds", "generation.path", "generation.model")  # files enter the settings by their content


def directory(config: Config, started: str, *, named: str | None = None) -> Path:
    """The folder for this generation: `named`, or one of the same signature under outputs/, or a new one.

    A finished one comes before an unfinished one, and of equals the newest.
    """
    if named:
        return Path(named).expanduser()
    mark = generation_signature(config.generation)
    existing = sorted(
        (folder for folder in OUTPUTS.glob(f"*/*-{mark}") if (folder / "config.yaml").is_file()),
        key=lambda folder: (status(folder) == FINISHED, folder.name),
    )
    return existing[-1] if existing else OUTPUTS / config.name / f"{started}-{mark}"


def with_finished_data(config: Config, started: str) -> Config:
    """The config with the finished generation of its settings as data, where it wants one and there is one."""
    if config.data_source.path != GENERATED or status(place := directory(config, started)) != FINISHED:
        return config
    if dataset_damage(place, summary(place)):
        return config
    return trained_on(config, place)


def dataset_damage(folder: Path, found: dict[str, Any]) -> str:
    """What is wrong with the data set of a finished generation, by its summary; "" for a whole one."""
    file = folder / DATASET
    try:
        content = file.read_bytes()
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    if HASH in found and hashlib.sha256(content).hexdigest() == found[HASH]:
        return ""
    try:
        rows = json.loads(content)
    except ValueError:
        return "is damaged"
    if HASH in found or not isinstance(rows, list) or len(rows) != found.get("rows", len(rows)):
        return "is not what this generation wrote"
    return ""


def dataset_hash(folder: Path) -> str:
    """SHA-256 of the data set as it lies there."""
    return hashlib.sha256((folder / DATASET).read_bytes()).hexdigest()


def set_aside(folder: Path) -> None:
    """Give a changed data set another name, so that the one made in its place does not overwrite it."""
    if (folder / DATASET).is_file():
        (folder / DATASET).rename(folder / f"dataset-changed-{time.strftime('%Y%m%d-%H%M%S')}.json")


def trained_on(config: Config, place: Path) -> Config:
    """The config with the finished generation in `place` as its data, and what is known about its licence."""
    found, source = summary(place), config.data_source
    known = {key: found[key] for key in ("license", "license_note")} if source.license == UNKNOWN else {}
    return replace(config, data_source=replace(source, path=f"{GENERATED}{place.absolute()}", **known))


def summary(folder: Path) -> dict[str, Any]:
    """`summary.json`, empty where there is none."""
    return read_json(folder / "summary.json")


def check_same(folder: Path, generation: GenerationConfig) -> None:
    """Refuse a directory whose generation is another one than `generation`, but for a target that has grown.

    Raises:
        UserError: it holds a generation with other settings, or more tasks than wanted.
    """
    if not (folder / "config.yaml").is_file():
        return
    before = _settings_of(folder)
    now = resolved(generation)
    recorded = read_json(folder / "env.json").get("settings") or {}
    wanted, had = now.target, before.get("target")
    if None not in (wanted, had) and wanted < had and (kept := _kept(folder)) > wanted:  # type: ignore[operator]
        raise UserError(
            f"generation.target={wanted}: {folder} has {kept:,} tasks already; "
            f"set generation.target={kept} or more, or another output_dir=DIR"
        )
    if difference := _difference(before, recorded, now):
        raise UserError(
            f"output_dir={folder}: it was begun with {difference}; give the same to continue, or another output_dir=DIR"
        )


def _settings_of(folder: Path) -> dict[str, Any]:
    """The section `generation` of the directory's `config.yaml`.

    Raises:
        UserError: the file is damaged.
    """
    file = folder / "config.yaml"
    try:
        settings = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, OSError, ValueError):
        settings = None
    section = (settings.get("generation") or {}) if isinstance(settings, dict) else None
    if not isinstance(section, dict):
        raise UserError(
            f"{file}: it is damaged; restore it, remove it to go on with the settings given now, or use another "
            "output_dir=DIR"
        )
    return section


def _kept(folder: Path) -> int:
    """Kept tasks, counted in the ledger, which is right even after a crash; never above the target of that time."""
    try:
        with (folder / "tasks.jsonl").open("rb") as stream:
            return sum(b'"verdict": "kept"' in line and line.startswith(b'{"request": "task-') for line in stream)
    except OSError:
        return 0


def _difference(before: dict[str, Any], recorded: dict[str, Any], now: GenerationConfig) -> str:
    """The first setting that changes the data and is not as it was, as KEY=VALUE of that time; "" for none.

    Args:
        before: the section as it was written then.
        recorded: the same with files replaced by their content, as the signature sees it.
    """
    settings = json.loads(json.dumps(generation_settings(now), default=str))
    for key, value in settings.items():
        then: Any = before
        for name in key.removeprefix("generation.").split("."):
            then = then.get(name) if isinstance(then, dict) else None
        if key == "generation.target" or value == (recorded.get(key) if recorded else then):
            continue
        if not recorded and (value is None or key in BY_CONTENT):
            continue  # begun and killed at once: nothing was asked yet
        content = key in BY_CONTENT and recorded.get(key) is not None
        return f"other content of {key}={then}" if content else f"{key}={then}"
    return ""
