"""What every section that asks a model behind an engine has to say: which one, for how much, how patiently."""

from dataclasses import dataclass

from alpaca.config.fields import NOTHING, setting


@dataclass
class EngineConfig:
    """A model behind an engine. What is bare here each section gives a default, and says what it changes there."""

    engine: str
    model: str | None
    base_url: str | None
    concurrency: int | None
    budget_usd: float | None = setting(None, NOTHING, "Dollars never to be exceeded; null is no limit", above=0)
    budget_tokens: int | None = setting(None, NOTHING, "Tokens never to be exceeded; null is no limit", at_least=1)
    price_prompt: float | None = setting(
        None, NOTHING, "Dollars for a million prompt tokens; null is the shipped price list", at_least=0
    )
    price_completion: float | None = setting(
        None, NOTHING, "Dollars for a million completion tokens; null is the shipped price list", at_least=0
    )
    timeout_s: float = setting(120.0, NOTHING, "Seconds one attempt may take", above=0)
    retries: int = setting(6, NOTHING, "Attempts after the first", at_least=0)
    leave_out: list[str] = setting(
        [], NOTHING, "Parameters that are not sent: any of temperature, top_p, stop, seed, n, max_tokens."
    )
    poll_s: float = setting(30.0, NOTHING, "Seconds between two looks at a batch, for openai_batch", above=0)
