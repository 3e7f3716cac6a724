"""What making the data costs, for `data_source=self_instruct`: requests, tokens, dollars.

Requests are written as a generation writes them, from the seeds, and measured in characters. How long a new
task is and how many of them are kept is assumed, and said.
"""

import math
from dataclasses import dataclass

from alpaca.config import DataSourceConfig, GenerationConfig
from alpaca.data.rows import Row
from alpaca.engines.exchange import Request, Usage
from alpaca.engines.section import prices
from alpaca.errors import UserError
from alpaca.selfinstruct import prompts
from alpaca.selfinstruct.prompts import Sampling
from alpaca.selfinstruct.seeds import load_seeds, short_enough
from alpaca.selfinstruct.settings import EVOLVE, SELF_INSTRUCT, resolved
from alpaca.signature import HUB_PREFIX

CHARACTERS_PER_TOKEN = 4.2
TASK_TOKENS = 100  # a new task with its labels: Alpaca's rows have 10 words of instruction and 45 of output
ANSWER_TOKENS = 80  # an answer alone
KEPT = 0.75  # share of an API model's tasks that pass filters and novelty; falls as the set grows
KEPT_LOCAL = 0.5  # measured with the embedded model: docs/generation.md
WRITTEN = 16  # requests that are written to be measured


@dataclass(frozen=True)
class GenerationCost:
    """What a generation takes.

    Attributes:
        target: tasks to keep.
        requests: to the engine.
        prompt_tokens, completion_tokens: of all requests.
        dollars: at `prices`; None where the model has no known price.
        prices: where the price comes from.
        assumptions: what is not known and was assumed.
        model: who writes.
    """

    target: int
    requests: int
    prompt_tokens: int
    completion_tokens: int
    dollars: float | None
    prices: str
    assumptions: str
    model: str


def generation_cost(generation: GenerationConfig) -> GenerationCost:
    """The cost of what `generation` says.

    Raises:
        UserError: seeds that cannot be read, or only one of two prices.
    """
    filled = resolved(generation)
    kept = KEPT_LOCAL if filled.engine == "local" else KEPT
    most = filled.max_tokens or 0
    seeds = short_enough(load_seeds(filled.seeds), filled.max_example_words)
    rows = seeds if filled.mode == SELF_INSTRUCT else _input_rows(filled)
    target = filled.target or len(rows)
    if filled.mode == SELF_INSTRUCT:
        shown = (filled.seed_examples or 0) + filled.machine_examples
        new = max(1, (filled.tasks_per_request or 1) - shown)
        length = min(new * TASK_TOKENS, most)
        requests = math.ceil(target / (kept * new))
        prompt = _mean_tokens([_new_tasks(filled, seeds, number, shown) for number in range(WRITTEN)])
    else:
        new, length = 1, min(TASK_TOKENS if filled.mode == EVOLVE else ANSWER_TOKENS, most)
        requests = math.ceil(target / kept)
        prompt = _mean_tokens([_answer(filled, row) for row in rows[:WRITTEN]])
    again = (filled.responses_per_instruction - 1) * target
    usage = Usage(
        prompt_tokens=round(requests * prompt + (target * ANSWER_TOKENS if again else 0)),
        completion_tokens=requests * length + again * min(ANSWER_TOKENS, most),
    )
    priced = prices(filled)
    return GenerationCost(
        target=target,
        requests=requests + (target if again else 0),
        prompt_tokens=usage.prompt_tokens,
        completion_tokens=usage.completion_tokens,
        dollars=None if priced is None else priced.cost(usage),
        prices="none known: give generation.price_prompt and generation.price_completion"
        if priced is None
        else priced.source,
        assumptions=f"{kept:.0%} of the tasks kept, {length / new:,.0f} tokens each, prompts of {prompt:,.0f}",
        model=filled.model or filled.engine,
    )


def _input_rows(filled: GenerationConfig) -> list[Row]:
    """The rows that answers or variants are made for."""
    from alpaca.data.sources import load

    path = filled.path
    if isinstance(path, str) and path.startswith(HUB_PREFIX):
        raise UserError(f"generation.path={path}: nothing is downloaded for a plan; give the file of its rows")
    return load(DataSourceConfig(name="generation", path=path, columns=filled.columns)).rows


def _new_tasks(filled: GenerationConfig, seeds: list[Row], number: int, shown: int) -> Request:
    examples = [seeds[(number * shown + place) % len(seeds)] for place in range(shown)]
    form = filled.prompt or "alpaca_chat"
    return prompts.new_tasks(form, "plan", examples, filled.tasks_per_request or shown + 1, Sampling.of(filled), 0)


def _answer(filled: GenerationConfig, row: Row) -> Request:
    api = filled.api or "chat"
    if filled.mode == EVOLVE:
        return prompts.evolved("plan", row, "specify", Sampling.of(filled), 0, api)
    return prompts.answer("plan", row, 1, Sampling.of(filled), 0, api)


def _mean_tokens(requests: list[Request]) -> float:
    """Tokens of a prompt, from its characters."""
    texts = [request.prompt or "".join(part["content"] for part in request.messages or ()) for request in requests]
    return sum(map(len, texts)) / len(texts) / CHARACTERS_PER_TOKEN
