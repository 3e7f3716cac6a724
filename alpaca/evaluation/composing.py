"""Which settings a finished run is evaluated with: its own, changed by what was typed. No torch here.

The command line is composed by Hydra as for a run; what the run had is put in front as overrides. An evaluation
that is chosen again keeps the run's values, a new one has those of its file, and `evaluation.decode` is the run's.
"""

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from alpaca.config import Config, EvaluationConfig
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
        if (
            "=" in override
            and not override.startswith("-")
            and key.partition(".")[0].partition("@")[0].partition("/")[0] not in OWN
        ):
            raise UserError(
                f"{override}: a finished run keeps its settings; only evaluation, tracker and output_dir can be given "
                "here (python -m alpaca.run trains another)"
            )
    own, named = _chosen(run), chosen_by(typed)
    wanted = own if named is None else named
    _refuse_unchosen(typed, wanted)
    given = ["evaluation=[{}]".format(",".join(own) or "none")] if named is None else []
    for name in [*(name for name in wanted if name in own), "decode"]:
        given += _leaves(getattr(run.evaluation, name), f"evaluation.{name}")
    given += [part for part in _leaves(run.tracker, "tracker") if not part.startswith("tracker.name=")]
    return _in_front(given, typed)


def _refuse_unchosen(typed: list[str], wanted: list[str]) -> None:
    """A key of an evaluation that is not made would change nothing; Hydra's own words for it name no way out."""
    for override in typed:
        parts = override.lstrip("+~").partition("=")[0].split(".")
        known = [item.name for item in fields(EvaluationConfig)]
        if len(parts) > 2 and parts[0] == "evaluation" and parts[1] in known and parts[1] not in [*wanted, "decode"]:
            together = ",".join([*(name for name in wanted if name != "none"), parts[1]])
            raise UserError(f"{override}: {parts[1]} is not made here; choose it, evaluation=[{together}]")


def _in_front(given: list[str], typed: list[str]) -> list[str]:
    """`given` before the first typed override, where later ones win; options of Hydra's may stand before or after."""
    first = next((i for i, part in enumerate(typed) if "=" in part and not part.startswith("-")), len(typed))
    return [*typed[:first], *given, *typed[first:]]


def overrides_for_other(typed: list[str]) -> list[str]:
    """The whole command line for a model folder or a file of outputs."""
    named = chosen_by(typed)
    _refuse_unchosen(typed, ["generate"] if named is None else named)
    return _in_front([DEFAULT], typed) if named is None else typed


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
