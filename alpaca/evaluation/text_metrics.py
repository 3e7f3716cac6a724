"""What can be counted about answers without a model: overlap with references, variety, length, loops, refusals.

Words are those of `alpaca.data.words`. Everything is given for each answer and over the set;
`distinct_n` is over the set only: different n-grams of all answers by all of them (Li et al. 2016, arXiv:1510.03055).
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from alpaca.data.rows import normalise
from alpaca.data.words import words
from alpaca.evaluation.refusals import refuses
from alpaca.evaluation.rouge import rouge_l
from alpaca.evaluation.scores import HIGHER, LOWER, NEITHER

LOOP_SHARE = 0.5  # an answer repeats itself when more than this share of its word triples occurred before
LOOP_WORDS = 8  # shorter answers have too few triples to say
NEVER_STOPS = 0.05  # below this stop rate a model is taken for one that never learned EOS
FEWEST_ANSWERS = 8  # fewer say nothing about a rate
DIRECTIONS = {  # of `set_metrics`
    "answers": NEITHER,
    "distinct_1": HIGHER,
    "distinct_2": HIGHER,
    "words": NEITHER,
    "empty_rate": LOWER,
    "repetition_rate": LOWER,
    "refusal_rate": LOWER,
    "rougeL": HIGHER,
    "exact_match": HIGHER,
    "tokens": NEITHER,
    "stop_rate": HIGHER,
}


@dataclass(frozen=True)
class Text:
    """An answer as text; `tokens` and `stopped` are None where only the text is known."""

    output: str
    reference: str | None = None
    tokens: int | None = None
    stopped: bool | None = None


def text_scores(text: Text) -> dict[str, float]:
    """The numbers of one answer; what does not apply to it is left out."""
    output_words = words(text.output)
    found = {
        "words": float(len(output_words)),
        "repetition": repetition(output_words),
        "refused": float(refuses(text.output)),
    }
    if text.reference:
        if (score := rouge_l(text.reference, text.output)) is not None:
            found["rougeL"] = score
        found["exact_match"] = float(normalise(text.reference) == normalise(text.output))
    if text.tokens is not None:
        found["tokens"] = float(text.tokens)
    if text.stopped is not None:
        found["stopped"] = float(text.stopped)
    return found


def repetition(found: Sequence[str]) -> float:
    """Share of the word triples that occurred before in the same answer."""
    if len(found) < LOOP_WORDS:
        return 0.0
    triples = list(zip(found, found[1:], found[2:], strict=False))
    return 1 - len(set(triples)) / len(triples)


def set_metrics(texts: Sequence[Text], scores: Sequence[dict[str, float]]) -> dict[str, float]:
    """Means and rates over a set of answers; `scores` are those of `text_scores` in the same order."""
    if not texts:
        return {}
    output_words = [words(text.output) for text in texts]
    found = {
        "answers": float(len(texts)),
        "distinct_1": distinct(output_words, 1),
        "distinct_2": distinct(output_words, 2),
        "words": _mean(len(each) for each in output_words),
        "empty_rate": _mean(not text.output.strip() for text in texts),
        "repetition_rate": _mean(each["repetition"] > LOOP_SHARE for each in scores),
        "refusal_rate": _mean(each["refused"] for each in scores),
    }
    for name, known in (
        ("rougeL", "rougeL"),
        ("exact_match", "exact_match"),
        ("tokens", "tokens"),
        ("stop_rate", "stopped"),
    ):
        if values := [each[known] for each in scores if known in each]:
            found[name] = _mean(values)
    return found


def distinct(answers: Iterable[Sequence[str]], n: int) -> float:
    """Different n-grams of all answers by all their n-grams; 0 where there is none."""
    grams = [tuple(each[start : start + n]) for each in answers for start in range(len(each) - n + 1)]
    return len(set(grams)) / len(grams) if grams else 0.0


def never_stops(answers: int, stop_rate: float | None, max_new_tokens: int) -> str | None:
    """What to warn of when next to no answer ended by itself, else None."""
    if stop_rate is None or answers < FEWEST_ANSWERS or stop_rate >= NEVER_STOPS:
        return None
    return (
        f"{stop_rate:.0%} of {answers} answers ended by themselves within {max_new_tokens} tokens: this model never "
        "learned EOS (was it trained with train.train_on_eos=false, or on truncated rows?), or the limit is too short"
    )


def _mean(values: Iterable[float]) -> float:
    listed = [float(value) for value in values]
    return sum(listed) / len(listed)
