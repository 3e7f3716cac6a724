"""Which settings a finished run is evaluated with: its own, changed by what was typed. No torch here.

The command line is composed by Hydra as for a run; what the run had is put in front as overrides. An evaluation
that is chosen again keeps the run's values, a new one has those of its file, and `evaluation.decode` is the run's.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from alpaca.config import Config
from alpaca.errors import UserError

OWN = ("evaluation", "tracker", "output_dir", "notes", "extra_tags", "hydra", "local")
DEFAULT = "evaluation=[generate]"  # for model folders and files: it needs no rows of theirs


def overrides_for(run: Config, typed: list[str]) -> list[str]:
    """The whole command line for a run that had the settings `run`.

    Raises:
        UserError: an override of something that a finished run has fixed.
    """
    for override in typed:
        key = override.lstrip("+~").partition("=")[0]
        if not override.startswith("-") and key.partition(".")[0].partition("@")[0].partition("/")[0] not in OWN:
            raise UserError(
                f"{override}: a finished run keeps its settings; only evaluation, tracker and output_dir can be given "
                "here (python -m alpaca.run trains another)"
            )
    names = chosen_by(typed)
    given = [] if names is not None else ["evaluation=[{}]".format(",".join(_chosen(run)) or "none")]
    kept = [name for name in (names if names is not None else _chosen(run)) if name in _chosen(run)]
    for name in [*kept, "decode"]:
        given += list(_leaves(getattr(run.evaluation, name), f"evaluation.{name}"))
    given += [part for part in _leaves(run.tracker, "tracker") if not part.startswith("tracker.name=")]
    return [*given, *typed]


def overrides_for_other(typed: list[str]) -> list[str]:
    """The whole command line for a model folder or a file of outputs."""
    return [DEFAULT, *typed] if chosen_by(typed) is None else typed


def chosen_by(typed: list[str]) -> list[str] | None:
    """The evaluations that the command line names; None where it leaves the choice."""
    found = [override.partition("=")[2] for override in typed if override.lstrip("+").startswith("evaluation=")]
    if not found:
        return None
    return [name.strip(" '\"") for name in found[-1].strip("[]'\" ").split(",")]


def _chosen(run: Config) -> list[str]:
    section = run.evaluation
    return [item.name for item in fields(section) if item.name != "decode" and getattr(section, item.name) is not None]


def _leaves(section: Any, prefix: str) -> Iterator[str]:
    for item in fields(section):
        value = getattr(section, item.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}.{item.name}")
        else:
            yield f"{prefix}.{item.name}={literal(value)}"


def literal(value: Any) -> str:
    """`value` as Hydra's grammar reads it back."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, dict):
        return "{" + ",".join(f"{literal(key)}:{literal(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ",".join(map(literal, value)) + "]"
    text = str(value)
    # A backslash is one unless it stands before the closing quote or another quote, where it must be doubled.
    parts = text.split("'")
    doubled = [part + "\\" * (len(part) - len(part.rstrip("\\"))) for part in parts]
    return "'" + "\\'".join(doubled) + "'"
