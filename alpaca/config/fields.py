"""What a field of the schema carries: meaning, what it can change, and the values it may take."""

from copy import copy
from dataclasses import field
from typing import Any

TRAINING = "training"  # enters the signature: two runs that differ here are different experiments
EVALUATION = "evaluation"  # changes scores, never weights
GENERATION = "generation"  # changes the instruction data that a generation makes; enters its signature
NOTHING = "nothing"  # changes where, how fast or under which name the same numbers appear


def setting(
    default: Any,
    affects: str,
    help: str,
    *,
    at_least: float | None = None,
    above: float | None = None,
    at_most: float | None = None,
    choices: tuple[str, ...] = (),
) -> Any:
    """A dataclass field with its documentation and rules; `None` always passes the range rules."""
    metadata = {
        "affects": affects,
        "help": help,
        "at_least": at_least,
        "above": above,
        "at_most": at_most,
        "choices": choices,
    }
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: copy(default), metadata=metadata)
    return field(default=default, metadata=metadata)
