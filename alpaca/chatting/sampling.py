"""How the next token is picked: the settings of a chat, checked by one rule wherever they are given."""

import math
from dataclasses import dataclass, fields, replace
from typing import Any

from alpaca.errors import UserError


@dataclass(frozen=True)
class Sampling:
    """Settings of an answer.

    Attributes:
        temperature: 0 takes the likeliest token, as evaluation does; otherwise logits are divided by it.
        top_p: tokens are drawn from the likeliest that make up this share of the probability.
        max_new_tokens: longest answer, its EOS included.
        seed: where the draws of a chat begin.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    max_new_tokens: int = 256
    seed: int = 0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.temperature) and self.temperature >= 0):
            raise _wrong("temperature", self.temperature, "a number from 0 (greedy) up, such as 0.7")
        if not 0 < self.top_p <= 1:
            raise _wrong("top_p", self.top_p, "above 0 and at most 1 (all tokens)")
        if self.max_new_tokens < 1:
            raise _wrong("max_new_tokens", self.max_new_tokens, "at least 1")

    def changed(self, name: str, text: str) -> "Sampling":
        """The same with the setting `name` (with - or _) as `text` says.

        Raises:
            UserError: no such setting, or a value that does not fit.
        """
        known = {each.name: type(getattr(self, each.name)) for each in fields(self)}
        field = name.lstrip("-").replace("-", "_")
        if field not in known:
            raise UserError(f"{name}: no such setting; known: {', '.join(map(option, known))}")
        try:
            value: Any = known[field](text)
        except ValueError:
            kind = "a whole number" if known[field] is int else "a number"
            raise _wrong(field, text, kind) from None
        return replace(self, **{field: value})

    def described(self) -> str:
        """The settings in one line."""
        return ", ".join(f"{option(each.name)} {getattr(self, each.name):g}" for each in fields(self))


def option(field: str) -> str:
    """A setting's name as it is typed."""
    return field.replace("_", "-")


def _wrong(field: str, value: object, rule: str) -> UserError:
    return UserError(f"{option(field)} {value}: must be {rule}")
