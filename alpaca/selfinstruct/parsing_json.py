"""Structured output to tasks: JSON as models write it: fences, trailing commas, talk around it, its end missing.

Objects that have an `instruction` are tasks wherever they stand; objects without one, and what a list holds beside
objects, come out with a problem. The talk around the JSON is a problem of its own only where nothing was found at all.
"""

import json
import re
from collections.abc import Iterator
from typing import Any

from alpaca.engines.content import plain, without_thinking
from alpaca.selfinstruct.parsing import CUT, NO_INSTRUCTION, NOT_TEXT, OUTSIDE, TWICE, Parsed, whole

NOT_JSON = "not readable as JSON"
MOST_BROKEN = 500  # objects of a response that are tried and cannot be read; what follows comes out as one piece
_FIELDS = ("instruction", "input", "output")
_OBJECT = re.compile(r'\{(?=\s*+["}])')
_TASK = re.compile(r'\{\s*+"instruction"', re.IGNORECASE)


class _Twice(dict[str, Any]):
    """An object in which a key stands twice: two tasks run into each other."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    return values if len(values) == len(pairs) else _Twice(values)


_DECODER = json.JSONDecoder(strict=False, object_pairs_hook=_object)  # line ends inside texts lose no task


def parse_json(text: str, *, cut: bool) -> list[Parsed]:
    """The tasks of a response, in order; a response cut by length loses its last task only where that is incomplete.

    JSON shows by itself what is complete: an object that closes is whole, whatever came after it.
    """
    answer, unfinished = without_thinking(text)
    if unfinished:
        return [Parsed(problem=CUT, raw=plain(text).strip())]
    cleaned = _without_trailing_commas(answer if _OBJECT.search(answer) else text)  # the mark may stand in a task
    found: list[Parsed] = []
    position = broken = 0
    while start := _OBJECT.search(cleaned, position):
        try:
            value, position = _DECODER.raw_decode(cleaned, start.start())
        except (ValueError, RecursionError):
            position, broken = start.end(), broken + 1
            if broken == MOST_BROKEN:
                found.append(Parsed(problem=CUT if cut else NOT_JSON, raw=cleaned[start.start() :].strip()))
                break
            if _TASK.match(cleaned, start.start()):
                after = _OBJECT.search(cleaned, position)
                raw = cleaned[start.start() : after.start() if after else len(cleaned)].strip()
                found.append(Parsed(problem=CUT if cut and not after else NOT_JSON, raw=raw))
            continue
        found += _tasks(value)
    if not found and text.strip():
        found.append(Parsed(problem=CUT if cut else OUTSIDE, raw=text.strip()))
    return found


def _tasks(value: Any) -> Iterator[Parsed]:
    """Tasks inside a decoded value, depth first; iterative, since depth is the model's choice.

    An object without an instruction holds others, or should have had one.
    """
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, list):
            waiting += reversed(item)
        elif not isinstance(item, dict):
            yield Parsed(problem=OUTSIDE, raw=json.dumps(item, ensure_ascii=False))
        elif "instruction" in item:
            yield _task(item)
        else:
            inner = [one for one in item.values() if one and isinstance(one, (dict, list))]
            if not inner or any(isinstance(item.get(name), str) for name in _FIELDS):
                yield Parsed(problem=NO_INSTRUCTION, raw=json.dumps(item, ensure_ascii=False))
            waiting += reversed(inner)


def _task(item: dict[str, Any]) -> Parsed:
    if isinstance(item, _Twice):
        return Parsed(problem=TWICE, raw=json.dumps(item, ensure_ascii=False))
    texts = [item.get(name) for name in _FIELDS]
    if any(not isinstance(text, str) and text is not None for text in texts):
        return Parsed(problem=NOT_TEXT, raw=json.dumps(item))
    return whole(texts[0] or "", texts[1] or "", texts[2] or "", 0, "")


def _without_trailing_commas(text: str) -> str:
    """Commas before a closing bracket become blanks, outside of texts; everything keeps its place."""
    result = list(text)
    inside = escaped = False
    comma = -1
    for place, character in enumerate(text):
        if inside:
            if escaped:
                escaped = False
            elif character == "\\":
                escaped = True
            elif character == '"':
                inside = False
        elif character == '"':
            inside, comma = True, -1
        elif character == ",":
            comma = place
        elif character in "]}":
            if comma >= 0:
                result[comma] = " "
            comma = -1
        elif not character.isspace():
            comma = -1
    return "".join(result)
