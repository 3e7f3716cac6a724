"""Which way a metric is better: as the user says, else as who made it declared. Never guessed by its name."""

from collections.abc import Sequence

from alpaca.errors import UserError
from alpaca.evaluation.scores import HIGHER, LOWER, declared
from alpaca.report.records import Run


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
    unsaid = [name for name, ways in said.items() if not ways]
    known = _of_this_package(unsaid) if unsaid else {}
    found = {name: ways.pop() if len(ways) == 1 else known.get(name, "") for name, ways in said.items()}
    given = dict.fromkeys(lower, LOWER) | dict.fromkeys(higher, HIGHER)
    return {name: given.get(name, way) for name, way in found.items()}


def _of_this_package(metrics: Sequence[str]) -> dict[str, str]:
    """For runs of earlier versions, whose summaries do not have them: from the code, which takes seconds to import."""
    from alpaca.evaluation import generate, losses_apart, quick, safety
    from alpaca.evaluation.judging import report
    from alpaca.training import metering, scoring

    makers = (quick, losses_apart, generate, safety, report, metering)
    every = {name: way for maker in makers for name, way in maker.DIRECTIONS.items()}
    return declared(metrics, {**every, **scoring.WATCHED})
