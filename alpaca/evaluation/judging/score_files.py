"""Scores from 1 to 10 for two answers at once, the form of the Vicuna and QLoRA evaluations.

A record has `answer1_id`, `answer2_id` and `score`, two numbers; -1 is a score that could not be read. The
records say nothing about models: an answer is known by its id. Ids stand in answer files (`answer_id`), or are
made from the answer's text (a version-5 UUID in base 57), so a text finds its scores again. One text may answer several
questions, and a question may have several answers, so scores belong to question (`question_id`) and answers.

The result is the ratio of score sums, in per cent of the baseline's, for each order, and the mean of the two:
judges favour a position, so one order alone is not enough.
"""

import uuid
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from alpaca.data.files import Record
from alpaca.errors import UserError
from alpaca.evaluation.answers import Answer
from alpaca.evaluation.judging.intervals import LEVEL, Estimate
from alpaca.evaluation.judging.output_files import records_of
from alpaca.evaluation.judging.pairs import Judged, Judgement, Pair
from alpaca.evaluation.judging.settings import SECTION

KEY = f"{SECTION}.annotations"
UNREAD = -1.0
_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_DIGITS = 22  # base-57 digits of 128 bits
_TEXTS = ("generation_truncated", "generation", "output", "text")


@dataclass(frozen=True)
class Scored:
    """One record: the ids of the two answers in their order, and their scores; None where they could not be read.

    `question` is "" in files that do not say.
    """

    first: str
    second: str
    scores: tuple[float, float] | None
    question: str = ""


@dataclass
class ScoredPair:
    """Scores of one pair of answers: (model, baseline) for each time the model stood first, and second."""

    answer: Answer
    question: str = ""
    model_first: list[tuple[float, float] | None] = field(default_factory=list)
    model_second: list[tuple[float, float] | None] = field(default_factory=list)


@dataclass(frozen=True)
class Ratio:
    """Ratio of score sums in per cent, by order (NaN for one that nobody scored) and averaged, with an interval."""

    model_first: float
    model_second: float
    mean: Estimate
    unread: int


def is_scores(path: str) -> bool:
    """Whether a file is of this form, by its first record."""
    first = next(records_of(path, KEY), None)
    return first is not None and "answer1_id" in first.values


def read_scores(path: str) -> list[Scored]:
    """All records of a file.

    Raises:
        UserError: the file cannot be read, or a record is of another form; names the row.
    """
    return [_scored(record) for record in records_of(path, KEY)]


def answer_id(text: str) -> str:
    """The id that an answer without one gets from its text."""
    number, digits = uuid.uuid5(uuid.NAMESPACE_DNS, text).int, ""
    while number:
        number, digit = divmod(number, len(_ALPHABET))
        digits = _ALPHABET[digit] + digits
    return digits.rjust(_DIGITS, _ALPHABET[0])


def ids_of(path: str, key: str) -> set[str]:
    """Ids of all answers in an answer file: their `answer_id`, and those of their texts."""
    found: set[str] = set()
    for record in records_of(path, key):
        if isinstance(given := record.values.get("answer_id"), str):
            found.add(given)
        found |= {answer_id(text) for name in _TEXTS if isinstance(text := record.values.get(name), str)}
    return found


def scored_pairs(
    records: Sequence[Scored], answers: Sequence[Answer], baseline: set[str] | None, source: str
) -> tuple[list[ScoredPair], int]:
    """Scores of the answers, by question and pair of answer ids; and how many records score other answers.

    Args:
        baseline: ids of the baseline's answers; None takes whatever the answers were scored against.

    Raises:
        UserError: no answer is scored; says how many ids overlap.
    """
    mine: dict[str, list[Answer]] = defaultdict(list)
    for answer in answers:
        for known in {answer.id, answer_id(answer.output), answer_id(answer.output.strip())}:
            mine[known].append(answer)
    pairs: dict[tuple[str, str, str], ScoredPair] = {}
    asked: dict[str, list[str]] = defaultdict(
        list
    )  # questions of each answer id, in order: the n-th has the n-th answer
    against: dict[tuple[str, str], set[str]] = defaultdict(set)
    unmatched = 0
    for record in records:
        for me, other, first in ((record.first, record.second, True), (record.second, record.first, False)):
            if me not in mine or (baseline is not None and other not in baseline):
                continue
            if record.question not in asked[me]:
                asked[me].append(record.question)
            place = min(asked[me].index(record.question), len(mine[me]) - 1)
            answer = next((each for each in mine[me] if each.id == record.question), mine[me][place])
            against[record.question, me].add(other)
            pair = pairs.setdefault((record.question, me, other), ScoredPair(answer, record.question))
            given = record.scores if first or record.scores is None else record.scores[::-1]
            (pair.model_first if first else pair.model_second).append(given)
            break
        else:
            unmatched += 1
    if not pairs:
        raise UserError(_nothing_matched(records, set(mine), baseline, source, len(answers)))
    if crowded := next((one for one, others in against.items() if len(others) > 1), None):
        raise UserError(
            f"{KEY}={source}: answer {crowded[1]} is scored against {len(against[crowded])} others; name the answers "
            f"of one model with {SECTION}.baseline=FILE"
        )
    return list(pairs.values()), unmatched


def score_ratio(pairs: Sequence[ScoredPair], *, resamples: int, seed: int) -> Ratio:
    """Ratios of score sums, and the mean's 95 % interval by a bootstrap over the pairs."""
    sums = np.array([[_sums(pair.model_first), _sums(pair.model_second)] for pair in pairs])  # (n, order, side)
    total = sums.sum(axis=0)
    seen = total[:, 1] > 0
    first, second = (float(100 * one[0] / one[1]) if one[1] > 0 else float("nan") for one in total)
    mean = (
        float(np.mean([ratio for ratio, known in zip((first, second), seen, strict=True) if known]))
        if seen.any()
        else 0.0
    )
    unread = sum(given is None for pair in pairs for given in (*pair.model_first, *pair.model_second))
    if len(pairs) < 2 or not seen.any():
        nothing = float("nan")
        return Ratio(first, second, Estimate(mean, nothing, nothing, nothing), unread)
    weights = np.random.default_rng(seed).multinomial(len(pairs), np.full(len(pairs), 1 / len(pairs)), size=resamples)
    drawn = np.einsum("rn,nos->ros", weights, sums)
    drawn = drawn[(drawn[:, seen, 1] > 0).all(axis=1)][:, seen]  # a sample of unread scores has no ratio
    ratios = np.mean(100 * drawn[:, :, 0] / drawn[:, :, 1], axis=1)
    tail = (1 - LEVEL) / 2
    low, high = (float(bound) for bound in np.quantile(ratios, [tail, 1 - tail]))
    return Ratio(first, second, Estimate(mean, float(np.std(ratios, ddof=1)), low, high), unread)


def judged_of(pairs: Sequence[ScoredPair]) -> list[Judged]:
    """The same as comparisons: the higher score wins, equal ones are a draw."""
    found = []
    for pair in pairs:
        judgements = [
            Judgement(None if given is None else (np.sign(given[0] - given[1]) + 1) / 2, model_first=first)
            for first, several in ((True, pair.model_first), (False, pair.model_second))
            for given in several
        ]
        answer = pair.answer
        one = Pair(answer.id, answer.instruction, answer.input, answer.output, None, answer.dataset)
        found.append(Judged(one, tuple(judgements)))
    return found


def _sums(scores: Sequence[tuple[float, float] | None]) -> tuple[float, float]:
    known = [given for given in scores if given is not None]
    return sum(given[0] for given in known), sum(given[1] for given in known)


def _scored(record: Record) -> Scored:
    values = record.values
    ids = [values.get(name) for name in ("answer1_id", "answer2_id")]
    if not all(isinstance(one, str) for one in ids):
        raise UserError(f"{KEY}: {record.where}: answer1_id and answer2_id must be texts, the ids of two answers")
    score = values.get("score")
    numbers = isinstance(score, list) and len(score) == 2 and all(_is_number(one) for one in score)
    if not numbers:
        raise UserError(
            f"{KEY}: {record.where}: score is {score!r}; it must be two numbers from 1 to 10, such as [8, 9]"
        )
    assert isinstance(score, list)
    question = "" if values.get("question_id") is None else str(values["question_id"])
    if UNREAD in score:
        return Scored(str(ids[0]), str(ids[1]), None, question)
    if not all(0 <= one <= 10 for one in score):
        raise UserError(f"{KEY}: {record.where}: score is {score}; scores go from 1 to 10, or are -1 where unread")
    return Scored(str(ids[0]), str(ids[1]), (float(score[0]), float(score[1])), question)


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _nothing_matched(
    records: Sequence[Scored], mine: set[str], baseline: set[str] | None, source: str, answers: int
) -> str:
    ids = {record.first for record in records} | {record.second for record in records}
    others = "" if baseline is None else f" and {len(ids & baseline):,} those of the baseline"
    return (
        f"{KEY}={source}: no score matches: of its {len(ids):,} answer ids {len(ids & mine):,} are those of these "
        f"{answers:,} answers{others}; give the scores of these very answers"
    )
