"""A judge's answer read: a verdict in the strict form that was asked for, or none. Nothing is guessed. Pure."""

import json
import re
from dataclasses import dataclass

from alpaca.engines.content import before_end_token, plain, without_thinking

A, B, TIE = "A", "B", "tie"
_LINE = re.compile(r"[*_\s]*verdict[*_\s]*:[*_\s]*(a|b|tie)[*_\s]*\.?[*_\s]*", re.IGNORECASE)
_GIVEN = re.compile(  # any line that gives one, strict or not
    r"[*_\s>#•-]*+(?:(?:my|the|first|final|initial)\s+){0,2}verdict[*_\s]*:[*_\s\[]*(?:a|b|tie)\b", re.IGNORECASE
)
_OBJECT = re.compile(r"^\{", re.MULTILINE)
_KEY = re.compile(r"(?<!\\)\"verdict\"\s*:", re.IGNORECASE)  # quoted inside a text its marks are escaped
_FENCE = re.compile(r"```(?:json)?[ \t]*\n((?:(?!```).)*?)\n?[ \t]*```$", re.DOTALL | re.IGNORECASE)


@dataclass(frozen=True)
class Verdict:
    """A, B or tie, and the words before it."""

    better: str
    reason: str = ""


def read(text: str) -> Verdict | None:
    """The verdict of an answer in either form; None where it has none.

    Read are: a text that ends with a JSON object with `verdict`, begun on a line of its own, in a code fence or
    not; and a text whose last line is `Verdict: A`. Whatever stands before may be reasoning, but no second verdict:
    of two none is the judge's. Thinking, end tokens and control characters do not count; thinking that never ends
    leaves no verdict.
    """
    text = before_end_token(without_thinking(plain(text))[0]).strip()
    if len(_KEY.findall(text)) + sum(bool(_GIVEN.match(line)) for line in text.splitlines()) != 1:
        return None
    if fenced := _FENCE.search(text):
        text = fenced[1].strip()
    rest, _, last = text.rpartition("\n")
    if line := _LINE.fullmatch(last.strip()):
        return Verdict(_spelt(line[1]) or TIE, rest.strip())
    objects = [found.start() for found in _OBJECT.finditer(text)]
    return _from_json(text[objects[-1] :]) if objects else None


def points(verdict: Verdict, *, model_first: bool) -> float:
    """What a verdict counts for the model: 1, 0, or 0.5 for a tie."""
    if verdict.better == TIE:
        return 0.5
    return float((verdict.better == A) == model_first)


def _from_json(text: str) -> Verdict | None:
    try:
        record = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return None
    if not isinstance(record, dict) or not isinstance(record.get("verdict"), str):
        return None
    better = _spelt(record["verdict"])
    reason = record.get("reason")
    return None if better is None else Verdict(better, reason if isinstance(reason, str) else "")


def _spelt(word: str) -> str | None:
    return {"a": A, "b": B, "tie": TIE}.get(word.strip().lower())
