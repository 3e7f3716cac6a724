"""The verdict on a candidate: what is wrong with it as text, as a task, or as one more of the same.

Verdicts depend on nothing but the settings and the candidates judged before, in order.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from alpaca.config import GenerationConfig
from alpaca.data.novelty import Pool
from alpaca.data.rows import Row, normalise
from alpaca.data.words import tokens
from alpaca.selfinstruct.filters import ABOUT_OUTPUTS, first_broken
from alpaca.selfinstruct.parsing import Parsed

KEPT, TOO_SIMILAR, SAME_ANSWER = "kept", "too similar", "same answer as another"
MOST_SIMILAR = 10
_NOVELTY = ("similarity", "similar_to", "most_similar", "average_similarity")  # what it adds to a line


@dataclass(frozen=True)
class Judged:
    """A candidate with its verdict: `kept`, or the reason why not.

    Attributes:
        answer: which answer of the request it stands in, from 0.
        facts: what else the ledger says about it.
    """

    parsed: Parsed
    verdict: str
    answer: int = 0
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def row(self) -> Row:
        """The task as a row."""
        return Row(self.parsed.instruction, self.parsed.input, self.parsed.output)

    def record(self, request: str) -> dict[str, Any]:
        """Its line of `tasks.jsonl`."""
        parsed = self.parsed
        texts = {"instruction": parsed.instruction, "input": parsed.input, "output": parsed.output}
        raw = {"raw": parsed.raw} if parsed.raw else {}
        where = {"request": request, "answer": self.answer, "number": parsed.number, "verdict": self.verdict}
        return {**where, **texts, **raw, **self.facts}


class Judge:
    """Judges candidates in order; what it keeps counts against the next ones."""

    def __init__(self, filled: GenerationConfig, existing: Iterable[Row]):
        """A judge who knows the seeds (or the rows that are evolved): nothing may be too similar to those."""
        self._rules, self._similar = filled.filters, filled.similar
        self._pool = Pool(filled.rouge_threshold)
        self._texts: list[str] = []
        self._without_tokens: set[str] = set()
        for row in existing:
            self._add(row.instruction)

    def task(self, parsed: Parsed, answer: int, known: Mapping[str, Any] | None = None) -> Judged:
        """The verdict on a new task.

        Args:
            known: its line of `tasks.jsonl` from an earlier process. What novelty found is taken from there, since
                comparing with all tasks is most of the work; the filters are asked again.
        """
        reason = parsed.problem or first_broken(_row(parsed), self._rules)
        if reason:
            return Judged(parsed, reason, answer)
        if known is not None and (judged := self._found_before(parsed, answer, known)):
            return judged
        similarity, twin = self._most_similar(parsed.instruction)
        facts: dict[str, Any] = {"similarity": round(similarity, 4)}
        if similarity > self._pool.threshold:
            return Judged(parsed, TOO_SIMILAR, answer, {**facts, "similar_to": twin})
        if self._similar:
            facts |= self._ten_most_similar(parsed.instruction)
        self._add(parsed.instruction)
        return Judged(parsed, KEPT, answer, facts)

    def output(self, parsed: Parsed, answer: int, others: set[str]) -> Judged:
        """The verdict on an output of an instruction that is not in question; `others` are its outputs so far."""
        reason = parsed.problem or first_broken(_row(parsed), self._rules, only=ABOUT_OUTPUTS)
        if not reason and normalise(parsed.output) in others:
            reason = SAME_ANSWER
        if not reason:
            others.add(normalise(parsed.output))
        return Judged(parsed, reason or KEPT, answer)

    def _found_before(self, parsed: Parsed, answer: int, known: Mapping[str, Any]) -> Judged | None:
        """The verdict by what novelty found then; None where the line is of another task, or other rules."""
        verdict, similarity = known.get("verdict"), known.get("similarity")
        texts = (parsed.instruction, parsed.input, parsed.output)
        if texts != (known.get("instruction"), known.get("input"), known.get("output")):
            return None
        if verdict not in (KEPT, TOO_SIMILAR) or not isinstance(similarity, float):
            return None
        if self._similar is not ("most_similar" in known) and verdict == KEPT:
            return None
        if (verdict == KEPT) != (similarity <= round(self._pool.threshold, 4)):  # rounded as it is written
            return None
        if verdict == KEPT:
            self._add(parsed.instruction)
        return Judged(parsed, verdict, answer, {name: known[name] for name in _NOVELTY if name in known})

    def _most_similar(self, instruction: str) -> tuple[float, str]:
        """ROUGE-L F with the most similar text, and that text; texts without tokens are equal or not."""
        while len(self._pool) < len(self._texts):  # those that an earlier process kept
            self._pool.add(self._texts[len(self._pool)])
        if not tokens(instruction):
            same = normalise(instruction) in self._without_tokens
            return (1.01, instruction) if same else (0.0, "")
        match = self._pool.most_similar(instruction)
        return match.score, self._texts[match.index] if match.index >= 0 else ""

    def _add(self, instruction: str) -> None:
        self._texts.append(instruction)
        if not tokens(instruction):
            self._without_tokens.add(normalise(instruction))

    def _ten_most_similar(self, instruction: str) -> dict[str, Any]:
        scores = self._pool.scores(instruction)
        best = np.argsort(-scores, kind="stable")[:MOST_SIMILAR]
        listed = {self._texts[index]: round(float(scores[index]), 4) for index in best.tolist()}
        return {"most_similar": listed, "average_similarity": round(float(scores.mean()), 4) if len(scores) else 0.0}


def _row(parsed: Parsed) -> Row:
    return Row(parsed.instruction, parsed.input, parsed.output)
