"""What tokens cost: a dated list of public prices, or the user's own.

Only what is known is priced: an engine on this machine is free, a model on the list costs what the list
says at api.openai.com, everything else has no price until the user gives one.
"""

import math
import re
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from alpaca.engines.exchange import EngineSettings, Usage
from alpaca.errors import UserError

LIST = Path(__file__).with_name("prices.yaml")
LISTED_HOST = "api.openai.com"
PER = 1_000_000
ON_THIS_MACHINE = ("local", "vllm")
_SNAPSHOT = re.compile(r"-\d{4}-\d{2}-\d{2}$")


@dataclass(frozen=True)
class Prices:
    """Dollars per million tokens, and where the figures come from."""

    prompt: float
    completion: float
    source: str

    def cost(self, usage: Usage) -> float:
        """Dollars for `usage`."""
        return float(self.exact_cost(usage))

    def exact_cost(self, usage: Usage) -> Fraction:
        """Dollars for `usage` without rounding, for a budget that is kept to the last token."""
        prompt, completion = Fraction(str(self.prompt)), Fraction(str(self.completion))
        return (prompt * usage.prompt_tokens + completion * usage.completion_tokens) / PER


def prices_of(
    settings: EngineSettings, *, price_prompt: float | None = None, price_completion: float | None = None
) -> Prices | None:
    """What the model of `settings` costs; None where nobody has said.

    Args:
        price_prompt, price_completion: the user's own figures, dollars per million tokens; they win over the list.

    Raises:
        UserError: only one of the two is given, or one is no amount of money.
    """
    if price_prompt is not None or price_completion is not None:
        return _given(price_prompt, price_completion)
    if settings.name in ON_THIS_MACHINE:
        return Prices(0.0, 0.0, "this machine")
    if settings.base_url is not None and urlsplit(settings.base_url).hostname != LISTED_HOST:
        return None  # another seller's price for a model of the same name is not known
    listed = yaml.safe_load(LIST.read_text(encoding="utf-8"))
    found = listed["models"].get(settings.model) or listed["models"].get(_SNAPSHOT.sub("", settings.model))
    if found is None:
        return None
    factor = listed["batch_factor"] if settings.name == "openai_batch" else 1.0
    source = f"{listed['source']}, {listed['date']}"
    return Prices(found["prompt"] * factor, found["completion"] * factor, source)


def _given(prompt: float | None, completion: float | None) -> Prices:
    if prompt is None or completion is None:
        missing = "price_prompt" if prompt is None else "price_completion"
        raise UserError(
            f"{missing} is missing: give both prices, price_prompt and price_completion, in dollars per million tokens"
        )
    for key, value in (("price_prompt", prompt), ("price_completion", completion)):
        if not math.isfinite(value) or value < 0:
            raise UserError(f"{key}={value}: dollars per million tokens, 0 or more")
    return Prices(prompt, completion, "given by the user")
