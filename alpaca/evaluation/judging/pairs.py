"""What is compared, and what became of it: a pair of answers to one task, its judgements, its points. Plain values."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

from alpaca.data.rows import normalise


@dataclass(frozen=True)
class Pair:
    """The model's and the baseline's answer to one task; `baseline` is None where only its judgement is known."""

    id: str
    instruction: str
    input: str
    model: str
    baseline: str | None
    dataset: str = ""

    @property
    def same(self) -> bool:
        """Whether the two say the same, so that no judge is needed: it is a draw."""
        return self.baseline is not None and self.model.strip() == self.baseline.strip()


@dataclass(frozen=True)
class Judgement:
    """One verdict.

    Attributes:
        points: for the model, from 0 (lost) to 1 (won); None where there is no verdict.
        model_first: the model's answer stood first; None where the order is not known, or nobody was asked.
        lost: no answer came; otherwise a missing verdict is an answer that could not be read.
        reason: the judge's words.
    """

    points: float | None
    model_first: bool | None = None
    lost: bool = False
    reason: str = ""


@dataclass(frozen=True)
class Judged:
    """A pair with all of its judgements."""

    pair: Pair
    judgements: tuple[Judgement, ...]

    @property
    def points(self) -> float | None:
        """Mean over the judgements; None where one is missing, since one order alone carries the position's bias."""
        found = [judgement.points for judgement in self.judgements]
        known = [points for points in found if points is not None]
        return sum(known) / len(known) if known and len(known) == len(found) else None


def task_key(instruction: str, input: str = "") -> str:
    """What makes two tasks the same wherever they are written: some files join the input to the instruction."""
    return normalise(f"{instruction}\n\n{input}")


def full_instruction(instruction: str, input: str) -> str:
    """Instruction and input as one text, the way AlpacaEval writes them."""
    return f"{instruction}\n\n{input}" if input.strip() else instruction


def drawn(ids: Sequence[str], rows: int | None, seed: int) -> set[str]:
    """`rows` of the tasks, the same ones for every model that answered the same tasks; all where `rows` is None."""
    unique = set(ids)
    return unique if rows is None else set(sorted(unique, key=lambda one: draw(seed, "rows", one))[:rows])


def model_first_orders(pair: Pair, order: str, seed: int) -> tuple[bool, ...]:
    """Whether the model's answer stands first, for each time the pair is judged: both ways, or one drawn way."""
    if order == "both":
        return True, False
    return (int(draw(seed, "order", pair.id), 16) % 2 == 0,)


def draw(seed: int, what: str, id: str) -> str:
    """64 hexadecimal digits that depend on nothing else."""
    return hashlib.sha256(f"{seed}/{what}/{id}".encode()).hexdigest()
