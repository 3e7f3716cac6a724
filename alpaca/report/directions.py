"""Which way a metric is better: as the user says, else as who made it declared. Never guessed by its name."""

from collections.abc import Sequence

from alpaca.errors import UserError
from alpaca.evaluation.scores import HIGHER, LOWER, NEITHER, declared
from alpaca.report.records import Run

EARLIER = {  # the metrics of runs made before runs wrote their directions; a new metric has no place here
    "eval/loss": LOWER,
    "eval/perplexity": LOWER,
    "eval/bits_per_byte": LOWER,
    "eval/token_accuracy": HIGHER,
    "eval/rougeL": HIGHER,
    "eval/stop_rate": HIGHER,
    "eval/loss/*": LOWER,
    "eval/generate/rougeL": HIGHER,
    "eval/generate/exact_match": HIGHER,
    "eval/generate/stop_rate": HIGHER,
    "eval/generate/distinct_*": HIGHER,
    "eval/generate/*_rate": LOWER,
    "eval/generate/*": NEITHER,
    "eval/safety/refusal_rate_harmful": HIGHER,
    "eval/safety/refusal_rate_borderline": LOWER,
    "eval/safety/requests": NEITHER,
    "eval/judge/win_rate*": HIGHER,
    "eval/judge/discrete_win_rate": HIGHER,
    "eval/judge/length_controlled_win_rate*": HIGHER,
    "eval/judge/score_ratio_standard_error": NEITHER,
    "eval/judge/score_ratio*": HIGHER,
    "eval/judge/cost_usd": LOWER,
    "eval/judge/*": NEITHER,
    "perf/logical_tokens_per_s": HIGHER,
    "perf/peak_memory_gib": LOWER,
}


def directions_of(
    metrics: Sequence[str], runs: Sequence[Run], lower: Sequence[str] = (), higher: Sequence[str] = ()
) -> dict[str, str]:
    """Each metric's direction: lower, higher or neither; empty where nobody says, or runs say different things.

    Args:
        lower, higher: metrics whose direction the user gives.

    Raises:
        UserError: one is given both ways.
    """
    if both := set(lower) & set(higher):
        raise UserError(f"--lower {min(both)} and --higher {min(both)}: give one of them")
    said = {name: {run.directions[name] for run in runs if name in run.directions} for name in metrics}
    known = declared([name for name, ways in said.items() if not ways], EARLIER)
    found = {name: ways.pop() if len(ways) == 1 else known.get(name, "") for name, ways in said.items()}
    given = dict.fromkeys(lower, LOWER) | dict.fromkeys(higher, HIGHER)
    return {name: given.get(name, way) for name, way in found.items()}
