"""What Weights & Biases is told about a run: its mode, project, group, name and tags.

A value in the config wins. Where the config leaves it open (`mode: auto`, `null`), W&B's own environment variables
decide, then the files that `wandb offline` and `wandb login` write, then a default of ours. W&B refuses a whole run
over one tag or name that is too long, so its limits are kept here, before it is asked.
"""

import configparser
import netrc
import os
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

from alpaca.config import Config, TrackerConfig
from alpaca.errors import UserError

OFFLINE, ONLINE, AUTO, DISABLED = "offline", "online", "auto", "disabled"
MODES = {"online": ONLINE, "run": ONLINE, "shared": ONLINE, "offline": OFFLINE, "dryrun": OFFLINE, "disabled": DISABLED}
REPORT = "report"  # job type of the W&B run that holds the report of a sweep: it has no settings of its own
PROJECT = "alpaca"
TRUE = ("1", "true", "yes", "on")
# W&B's limits, in characters. The server has the last two; offline runs would fail only when they are sent.
TAG_LENGTH, NAME_LENGTH = 64, 128
FORBIDDEN_IN_PROJECT = "/\\#?%:"


@dataclass(frozen=True)
class Names:
    """How a W&B run is called; null leaves it to W&B's own settings."""

    project: str | None
    entity: str | None
    group: str
    name: str
    tags: list[str]


def chosen_mode(mode: str) -> str:
    """`auto` resolved: what the environment says, else online when a key is configured for the W&B host in use."""
    if mode != AUTO:
        return mode
    return environment_mode() or (ONLINE if has_key() else OFFLINE)


def environment_mode() -> str | None:
    """The mode that `WANDB_DISABLED`, `WANDB_MODE` or `wandb offline` ask for; None if they say nothing."""
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in TRUE:
        return DISABLED
    return MODES.get((_configured("mode") or "").lower())


def has_key() -> bool:
    """Whether a key is configured for the W&B host in use."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    host = urlparse(_configured("base_url") or "https://api.wandb.ai").hostname or ""
    try:
        return netrc.netrc(os.environ.get("NETRC")).authenticators(host) is not None
    except (OSError, netrc.NetrcParseError):
        return False


def is_silent() -> bool:
    """Whether `WANDB_SILENT` asks for no lines about W&B."""
    return os.environ.get("WANDB_SILENT", "").strip().lower() in TRUE


def check_tracker(tracker: TrackerConfig) -> None:
    """Raise `UserError` for a project or mode that W&B would refuse."""
    if tracker.mode == AUTO and (mode := os.environ.get("WANDB_MODE", "")) and mode.lower() not in MODES:
        raise UserError(f"WANDB_MODE={mode}: choose one of online, offline, disabled, or set tracker=NAME")
    if chosen_mode(tracker.mode) == DISABLED:
        return
    key, project = "tracker.project", tracker.project
    if project is None:
        key, project = "WANDB_PROJECT", os.environ.get("WANDB_PROJECT") or PROJECT
    if bad := sorted(set(project) & set(FORBIDDEN_IN_PROJECT)):
        raise UserError(
            f"{key}={project}: W&B allows no {' '.join(bad)} in the name of a project; a team or user is given apart, "
            "tracker.entity=NAME"
        )
    if not 0 < len(project.strip()) <= NAME_LENGTH:
        raise UserError(f"{key}={project}: the name of a W&B project has 1 to {NAME_LENGTH} characters")


def names(config: Config, folder: Path, job_type: str, *, apart: bool = False) -> Names:
    """How the W&B run of `folder` is called, within W&B's limits.

    Args:
        apart: not the run that the environment names for this process.
    """
    project = config.tracker.project or (None if _configured("project") else PROJECT)
    name = ("" if apart else os.environ.get("WANDB_NAME", "").strip()) or folder.name
    group = config.tracker.group or os.environ.get("WANDB_RUN_GROUP", "").strip() or config.name
    tags = [cut(tag.strip(), TAG_LENGTH) for tag in [*_choices(config, job_type), *_own_tags(config)]]
    return Names(
        project,
        config.tracker.entity or None,
        cut(group, NAME_LENGTH),
        cut(name, NAME_LENGTH),
        list(dict.fromkeys(filter(None, tags))),
    )


def notes(config: Config) -> list[str]:
    """What the user should know about these settings, a line each: contradictions, and what is cut or left out."""
    if config.tracker.mode != AUTO and environment_mode() not in (None, config.tracker.mode):
        asked = "WANDB_DISABLED" if os.environ.get("WANDB_DISABLED") else "WANDB_MODE"
        asked = f"{asked}={os.environ[asked]}" if asked in os.environ else f"wandb {environment_mode()}"
        lines = [
            f"W&B: tracker.mode={config.tracker.mode} is used, not {asked}; tracker=auto leaves it to W&B's settings"
        ]
    else:
        lines = []
    if chosen_mode(config.tracker.mode) == DISABLED:
        return lines
    own = [tag.strip() for tag in _own_tags(config)]
    if not all(own):
        lines.append("W&B: an empty tag is left out (extra_tags, WANDB_TAGS)")
    lines += [
        f"W&B: the tag {tag[:24]}... has {len(tag)} characters and is cut to {TAG_LENGTH}, W&B's limit"
        for tag in dict.fromkeys(own)
        if len(tag) > TAG_LENGTH
    ]
    group = config.tracker.group or os.environ.get("WANDB_RUN_GROUP", "").strip() or config.name
    if len(group) > NAME_LENGTH:
        lines.append(f"W&B: the group {group[:24]}... has {len(group)} characters and is cut to {NAME_LENGTH}")
    return lines


def cut(text: str, length: int) -> str:
    """`text` in at most `length` characters; the end is kept, where a run's signature stands."""
    end = length // 4
    return text if len(text) <= length else f"{text[: length - end - 2]}..{text[-end:]}"


def artifact_name(text: str) -> str:
    """`text` in the letters that W&B allows in the name of an artifact, which are fewer than a folder's."""
    return cut(re.sub(r"[^\w.-]+", "-", text, flags=re.ASCII), NAME_LENGTH)


def _choices(config: Config, job_type: str) -> list[str]:
    """The group choices of a run, or engine and model of a generation, as tags."""
    if job_type == "generate":
        made = config.generation
        return [f"{key}={getattr(made, key)}" for key in ("mode", "engine", "model", "prompt")]
    if job_type == REPORT:
        return []
    sections = ("model", "data_source", "template", "adapter", "parallelism", "optimizer")
    return [f"{section}={getattr(config, section).name}" for section in sections]


def _own_tags(config: Config) -> list[str]:
    """The user's own tags: the config's and the environment's."""
    given = os.environ.get("WANDB_TAGS", "")
    return [*config.extra_tags, *(given.split(",") if given else [])]


def _configured(key: str) -> str | None:
    """A setting of W&B's: its environment variable, else its settings files, the working directory's first."""
    if value := os.environ.get(f"WANDB_{key.upper()}", "").strip():
        return value
    own, home = os.environ.get("WANDB_DIR") or ".", os.environ.get("WANDB_CONFIG_DIR") or "~/.config/wandb"
    for folder in (Path(own) / "wandb", Path(os.path.expanduser(home))):
        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read(folder / "settings", encoding="utf-8")
        except (configparser.Error, OSError, UnicodeDecodeError):
            continue
        if value := parser.get("default", key, fallback="").strip():
            return value
    return None
