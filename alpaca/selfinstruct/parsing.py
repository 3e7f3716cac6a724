"""From a model's text to tasks: a numbered list of records, read line by line and forgivingly.

A record opens with a line such as `7. Instruction: ...`; skipped, repeated or missing numbers do no
harm. `###` separates records only where a new record or the end follows, so a Markdown heading or a
bare `###` stays in the output it stands in. Every piece of the response comes out as a task, a task with
a problem, or text with a problem: nothing vanishes, and nothing is put in that was not there.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from alpaca.data.defects import noinput_like
from alpaca.data.rows import Row

CUT, OUTSIDE, NO_OUTPUT, NO_INSTRUCTION = "cut by length", "text outside a task", "no output field", "no instruction"
BAD_TEXT, NOT_TEXT = "not valid Unicode", "a field that is no text"

# possessive quantifiers: a model may write thousands of blanks, and backtracking over them would not end
_LABEL = re.compile(
    r"[ \t]*+(?:[-*•>][ \t]++)?(?:#{1,6}[ \t]*+)?(?P<mark>\*\*|__)?[ \t]*+"
    r"(?:task[ \t]++)?(?:(?P<number>\d{1,5})[ \t]*+[.):]+)?[ \t]*+"
    r"(?P<inner>\*\*|__)?(?P<name>instruction|input|output|response)[ \t]*+"
    r"(?(mark)(?:\*\*|__)?|(?(inner)(?:\*\*|__)?))[ \t]*+:(?(mark)(?:\*\*|__)?|(?(inner)(?:\*\*|__)?))",
    re.IGNORECASE,
)
_SEPARATOR = re.compile(r"[ \t]*+#{3,}[ \t]*+")
_FENCE = re.compile(r"[ \t]*+(?:```|~~~)[ \t]*+[\w+-]*+[ \t]*+")
_EMPTY_INPUT = re.compile(r"\s*(?:[\"'`_.\-–—]{1,3}|\*\*|\(\s*\))?\s*")  # a dash or dots; not `.*`, `[]` or `(())`
_NO_INPUT_OPENING = re.compile(r"\s*<\s*no[\s_-]?inputs?\s*/?>\s*", re.IGNORECASE)


@dataclass(frozen=True)
class Parsed:
    """One piece of a response.

    Attributes:
        number: as the list numbers it, 0 where it does not.
        problem: why it is no whole task; "" for one that is.
        raw: the text, where it could not be read as a task.
    """

    instruction: str = ""
    input: str = ""
    output: str = ""
    number: int = 0
    problem: str = ""
    raw: str = ""


@dataclass
class _Record:
    """A record being read: which field the next line belongs to, and the lines so far."""

    number: int
    numbered: bool
    open: str = "instruction"
    lines: dict[str, list[str]] = field(default_factory=lambda: {"instruction": []})

    def finished(self) -> Parsed:
        texts = {name: _unfenced(lines) for name, lines in self.lines.items()}
        problem = "" if "output" in texts else NO_OUTPUT
        return whole(texts["instruction"], texts.get("input", ""), texts.get("output", ""), self.number, problem)


def parse_list(text: str, *, first: int | None, cut: bool) -> list[Parsed]:
    """The records of a response, in order.

    Args:
        first: number of the record whose label the prompt already wrote, so that the response begins inside
            its instruction; None where the response brings its own labels.
        cut: the response ended because it became too long: its last piece is incomplete.
    """
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    found = list(_records(lines, first))
    if cut and found:
        found[-1] = replace(found[-1], problem=CUT)
    return found


def parse_answer(text: str, row: Row, *, cut: bool) -> Parsed:
    """An answer to a given task: the whole response is the output."""
    output = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    return whole(row.instruction, row.input, output, row.line, CUT if cut else "")


def whole(instruction: str, given: str, output: str, number: int, problem: str) -> Parsed:
    """A task from its texts: says-nothing inputs become empty, what cannot be a task gets its problem."""
    if not problem and not instruction.strip():
        problem = NO_INSTRUCTION
    if not problem and any(_broken(text) for text in (instruction, given, output)):
        problem = BAD_TEXT
    return Parsed(instruction.strip(), without_noinput(given), output.strip(), number, problem)


def without_noinput(given: str) -> str:
    """The input, or "" where it says in any dress that there is none."""
    text = given.strip()
    if _EMPTY_INPUT.fullmatch(text) or noinput_like(Row("", text, "")):
        return ""
    opening = _NO_INPUT_OPENING.match(text)
    return "" if opening and opening.end() == len(text) else text


def _records(lines: list[str], first: int | None) -> Iterator[Parsed]:
    record = _Record(first, numbered=True) if first is not None and not _opens(lines) else None
    outside: list[str] = []
    held: list[str] = []  # separators and blank lines that may end a record or belong to it
    for line in lines:
        if _SEPARATOR.fullmatch(line) or (held and not line.strip()):
            held.append(line)
            continue
        label = _LABEL.match(line)
        if label and _begins(label, record, after_separator=bool(held)):
            yield from _closed(record, outside)
            outside, held = [], []
            number = int(label["number"] or 0)
            record = _Record(number, numbered=bool(label["number"]))
            record.lines["instruction"].append(line[label.end() :])
            continue
        if record is None:
            outside += [*held, line]
        elif label and (name := _next_field(label, record)):
            record.lines[record.open] += held
            record.open = name
            record.lines[name] = [line[label.end() :]]
        else:
            record.lines[record.open] += [*held, line]
        held = []
    yield from _closed(record, outside)


def _opens(lines: list[str]) -> bool:
    """Whether a response that should go on with an instruction brings its own label instead."""
    for line in lines:
        if line.strip() and not _SEPARATOR.fullmatch(line) and not _FENCE.fullmatch(line):
            label = _LABEL.match(line)
            return bool(label) and label["name"].lower() == "instruction"  # type: ignore[index]
    return False


def _begins(label: re.Match[str], record: _Record | None, *, after_separator: bool) -> bool:
    """Whether this label opens a new record: numbered ones do; bare ones where the record has none, or is over."""
    if label["name"].lower() != "instruction":
        return False
    if label["number"] or record is None or after_separator:
        return True
    return not record.numbered and record.open == "output"


def _next_field(label: re.Match[str], record: _Record) -> str | None:
    """The field this label opens in `record`; None where the line is text: fields come in order, each once.

    A label that is written again before any text of its field opens the same field.
    """
    name = {"input": "input", "output": "output", "response": "output"}.get(label["name"].lower())
    if name == record.open and not "".join(record.lines[record.open]).strip():
        return name
    if name == "input" and record.open == "instruction":
        return name
    return name if name == "output" and record.open in ("instruction", "input") else None


def _closed(record: _Record | None, outside: list[str]) -> Iterator[Parsed]:
    """The record that is over, or the text before the first one unless it is blank or an opening fence."""
    if record is not None:
        yield record.finished()
    elif (text := "\n".join(line for line in outside if not _FENCE.fullmatch(line)).strip()) and text.strip("# "):
        yield Parsed(problem=OUTSIDE, raw="\n".join(outside).strip())


def _unfenced(lines: list[str]) -> str:
    """The text of a field; a closing fence whose opening stands before the list is taken away."""
    text = "\n".join(lines).strip()
    kept = text.split("\n")
    fences = [line for line in kept if line.lstrip().startswith(("```", "~~~"))]
    if len(fences) % 2 and _FENCE.fullmatch(kept[-1]) and kept[-1].strip() in ("```", "~~~"):
        return "\n".join(kept[:-1]).strip()
    return text


def _broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)
