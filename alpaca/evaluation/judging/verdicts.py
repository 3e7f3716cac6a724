"""A judge's answer read: a verdict in the strict form that was asked for, or none. Nothing is guessed. Pure."""

import json
import re
from dataclasses import dataclass

A, B, TIE = "A", "B", "tie"
_LINE = re.compile(r"[*_\s]*verdict[*_\s]*:[*_\s]*(a|b|tie)[*_\s]*\.?[*_\s]*", re.IGNORECASE)
_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)\n?\s*```", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """A, B or tie, and the words before it."""

    better: str
    reason: str = ""


def read(text: str) -> Verdict | None:
    """The verdict of an answer in either form; None where it has none.

    Read are: the whole text as a JSON object with `verdict`, in a code fence or not; a last line that is
    such an object; a last line `Verdict: A`. Anything before the last line may be reasoning.
    """
    text = text.strip()
    fenced = _FENCE.fullmatch(text)
    if found := _from_json(fenced[1] if fenced else text):
        return found
    if not text:
        return None
    rest, _, last = text.rpartition("\n")
    if line := _LINE.fullmatch(last.strip()):
        return Verdict(_spelt(line[1]) or TIE, rest.strip())
    return _from_json(last)


def points(verdict: Verdict, *, model_first: bool) -> float:
    """What a verdict counts for the model: 1, 0, or 0.5 for a tie."""
    if verdict.better == TIE:
        return 0.5
    return float((verdict.better == A) == model_first)


def _from_json(text: str) -> Verdict | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("verdict"), str):
        return None
    better = _spelt(record["verdict"])
    reason = record.get("reason")
    return None if better is None else Verdict(better, reason if isinstance(reason, str) else "")


def _spelt(word: str) -> str | None:
    return {"a": A, "b": B, "tie": TIE}.get(word.strip().lower())
