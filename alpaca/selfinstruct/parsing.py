"""From a model's text to tasks: a numbered list of records, read line by line and forgivingly.

A record opens with a line such as `7. Instruction: ...`; skipped, repeated or missing numbers do no harm. What stands
between records (`###`, rules, numbers, "Task 7") is no part of them, see `parsing_marks`; the same inside an output
is text. Every piece of the response comes out as a task, a task with a problem, or text with a problem: nothing but
thinking, marks and end tokens is left out, and nothing is put in that was not there.
"""

import bisect
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from alpaca.data.defects import noinput_like
from alpaca.data.rows import Row
from alpaca.engines.content import before_end_token, plain, without_thinking
from alpaca.selfinstruct.parsing_labels import Label, field_in_other_words, label_of
from alpaca.selfinstruct.parsing_marks import Usual, closing_at, is_mark, mark_of, opening_at, usual_marks

CUT, OUTSIDE, NO_OUTPUT, NO_INSTRUCTION = "cut by length", "text outside a task", "no output field", "no instruction"
BAD_TEXT, NOT_TEXT = "not valid Unicode", "a field that is no text"
OTHER_LABEL, TWICE = "a label that is not known", "a field twice"

_FENCE = re.compile(r"[ \t]*+(?:```|~~~)[ \t]*+[\w+-]*+[ \t]*+")
_QUOTED = re.compile(r"[ \t]*>[ \t]?")
_GLUED_SEPARATOR = re.compile(r"(?<=\S)(?<!#)[ \t]+#{3,}\Z")
_EMPTY_INPUT = re.compile(  # a dash, dots, an empty element; not `.*`, `[]` or `(())`
    r"(?:[\s\u200b\u2060]|&nbsp;)*+(?:[\"'`_.\-–—]{1,3}|…|\*\*|\(\s*\)|<input(?:\s*/>|>\s*</input>))?\s*"
)


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
    """A record being read: which field the next line belongs to, and the lines so far.

    Attributes:
        number: of its label, 0 for none.
        heading: number that stands on a line of its own before it, 0 for none.
    """

    number: int
    heading: int = 0
    open: str = "instruction"
    problem: str = ""
    lines: dict[str, list[str]] = field(default_factory=lambda: {"instruction": []})

    @property
    def current(self) -> list[str]:
        """Lines of the open field."""
        return self.lines[self.open]

    def field(self, name: str) -> list[str]:
        """Lines of the field `name`, which is open from now on."""
        self.open = name
        return self.lines.setdefault(name, [])

    def finished(self) -> Parsed:
        """As it stands in the list."""
        texts = {name: _unfenced(lines) for name, lines in self.lines.items()}
        problem = self.problem or ("" if "output" in texts else NO_OUTPUT)
        number = self.number or self.heading
        return whole(texts["instruction"], texts.get("input", ""), texts.get("output", ""), number, problem)


def parse_list(text: str, *, first: int | None, cut: bool) -> list[Parsed]:
    """The records of a response, in order.

    Args:
        first: number of the record whose label the prompt already wrote, so that the response begins inside
            its instruction; None where the response brings its own labels.
        cut: the response ended because it became too long: its last piece is incomplete.
    """
    answer, unfinished = without_thinking(plain(text))
    if unfinished:
        return [Parsed(problem=CUT, raw=text.strip())]
    lines = answer.split("\n")
    if (begun := [line for line in lines if line.strip()]) and all(_QUOTED.match(line) for line in begun):
        lines = [_QUOTED.sub("", line, count=1) for line in lines]
    found = list(_Reader(lines, first, cut=cut).pieces())
    if cut and found:
        found[-1] = replace(found[-1], problem=CUT)
    return found


def parse_answer(text: str, row: Row, *, cut: bool) -> Parsed:
    """An answer to a given task: the whole response is the output, but for thinking and end tokens."""
    return whole(row.instruction, row.input, text, row.line, CUT if cut else "")


def whole(instruction: str, given: str, output: str, number: int, problem: str) -> Parsed:
    """A task from its texts: says-nothing inputs become empty, what cannot be a task gets its problem."""
    output, unfinished = without_thinking(plain(output))
    instruction, given, output = (before_end_token(plain(text)).strip() for text in (instruction, given, output))
    if unfinished:
        problem = CUT
    if not problem and not instruction:
        problem = NO_INSTRUCTION
    if not problem and any(_broken(text) for text in (instruction, given, output)):
        problem = BAD_TEXT
    return Parsed(instruction, without_noinput(given), output, number, problem)


def without_noinput(given: str) -> str:
    """The input, or "" where it says in any dress that there is none."""
    text = given.strip()
    return "" if _EMPTY_INPUT.fullmatch(text) or noinput_like(Row("", text, "")) else text


class _Reader:
    """Goes through the lines of a list once, knowing the labels of all of them beforehand."""

    def __init__(self, lines: list[str], first: int | None, *, cut: bool):
        self._lines, self._cut = lines, cut
        self._labels = [label_of(line) for line in lines]
        self._places: dict[tuple[str, int], list[int]] = defaultdict(list)  # of the numbered labels
        for place, label in enumerate(self._labels):
            if label and label.number:
                self._places[label.name, label.number].append(place)
        openings = [(place, label) for place, label in enumerate(self._labels) if label and label.name == "instruction"]
        openings = [one for one in openings if one[1].number] or openings
        self._openings = [place for place, _ in openings]
        before = [(lines[max(0, place - 8) : place], label.number) for place, label in openings]
        self._usual = usual_marks(before)
        self._in_other_words = _records_in_other_words(lines)
        self._outside: list[str] = []
        self._record = _Record(first) if first is not None and not self._opens() else None

    def pieces(self) -> Iterator[Parsed]:
        """The records, and the text outside of them."""
        for place, (line, label) in enumerate(zip(self._lines, self._labels, strict=True)):
            lines = self._record.current if self._record else self._outside
            if label and label.name == "instruction" and (marks := self._marks(lines, label)) is not None:
                del lines[len(lines) - len(marks) :]
                yield from self._left()
                self._record = _begun(label, marks, self._usual)
                self._record.current.append(line[label.end :])
            elif self._closes(line, place):
                mark = mark_of(line)
                marks = lines[opening_at(lines, mark.number if mark else 0, replace(self._usual, numbers=False)) :]
                del lines[len(lines) - len(marks) :]
                yield from self._left()
                self._outside = [*marks, line]
            elif self._record and label and (name := self._next_field(self._record, label, place)):
                opened = self._record.field(name)
                opened.append(line[label.start if label.part else label.end :].lstrip())
            else:
                lines.append(line)
                if self._record and _in_unknown_field(self._record, line):
                    self._record.problem = OTHER_LABEL
                elif self._record and label and _is_second_output(self._record, label):
                    self._record.problem = TWICE
        talk: list[str] = []
        if self._record and not self._cut:
            lines = self._record.current
            end, start = closing_at(lines, self._record.number or self._record.heading, self._usual)
            talk = lines[start:]
            del lines[end:]
        yield from self._left()
        yield from _outside(talk)

    def _opens(self) -> bool:
        """Whether a response that should go on with an instruction brings its own label instead."""
        for line, label in zip(self._lines, self._labels, strict=True):
            if line.strip() and not mark_of(line) and not _FENCE.fullmatch(line):
                return label is not None and label.name == "instruction"
        return False

    def _marks(self, lines: list[str], label: Label) -> list[str] | None:
        """The marks at the end of `lines` that belong to the record which `label` opens; None where it opens none.

        Numbered labels open one; bare ones where the record before has none, or is over.
        """
        marks = lines[opening_at(lines, label.number, self._usual, outside=self._record is None) :]
        record = self._record
        if label.number or record is None or (not record.number and record.open == "output"):
            return marks
        found = [mark for line in marks if (mark := mark_of(line))]
        over = any(mark.kind == "separator" or mark.number == record.number + 1 for mark in found)
        return marks if over or (record.heading and record.open == "output") else None

    def _closes(self, line: str, place: int) -> bool:
        """Whether the record ends here though no known label follows: the next heading, or labels of other words."""
        if self._record is None:
            return False
        if (number := self._in_other_words.get(place)) and number == self._record.number + 1:
            return True
        if not self._record.heading or self._record.open != "output":
            return False
        mark = mark_of(line)
        return mark is not None and mark.kind == "task" and not mark.plain and mark.number == self._record.heading + 1

    def _next_field(self, record: _Record, label: Label, place: int) -> str | None:
        """The field this label opens in `record`, or goes on with; None where the line is text.

        Fields come in order, each once. A label with the record's own number also opens an input that comes after
        the output, and goes on with an input; and where one of those follows, a label without a number is text.
        """
        name, own = label.name, label.number == record.number > 0
        if record.number and not label.number and self._follows(name, record.number, place):
            return None
        if name == record.open != "instruction":
            empty = not any(line.strip() for line in record.current)
            return name if empty or (own and name == "input") else None
        if name == "input":
            return name if record.open == "instruction" or (own and "input" not in record.lines) else None
        return name if name == "output" and "output" not in record.lines else None

    def _follows(self, name: str, number: int, place: int) -> bool:
        """Whether the numbered label stands between `place` and the next record."""
        places = self._places.get((name, number), [])
        later = bisect.bisect(places, place)
        if later == len(places):
            return False
        opening = bisect.bisect(self._openings, place)
        return opening == len(self._openings) or places[later] < self._openings[opening]

    def _left(self) -> Iterator[Parsed]:
        """The record that is over, or the text since the last one."""
        if self._record is not None:
            yield self._record.finished()
        else:
            yield from _outside(self._outside)
        self._record, self._outside = None, []


def _begun(label: Label, marks: Sequence[str], usual: Usual) -> _Record:
    found = [mark for line in marks if (mark := mark_of(line) or usual.heading(line))]
    heading = next((mark.number for mark in found if mark.kind == "task"), 0)
    number = next((mark.number for mark in found if mark.number), 0)
    return _Record(label.number, heading=heading or number)


def _outside(lines: Sequence[str]) -> Iterator[Parsed]:
    """Text outside of the records, unless it is marks and fences."""
    if any(line.strip() and not _FENCE.fullmatch(line) and not is_mark(line) for line in lines):
        yield Parsed(problem=OUTSIDE, raw="\n".join(lines).strip())


def _records_in_other_words(lines: Sequence[str]) -> dict[int, int]:
    """Place to number of the lines that begin a record none of whose labels is known: one number, several labels."""
    found: dict[int, int] = {}
    last: tuple[int, str, int] | None = None
    for place, line in enumerate(lines):
        if (field := field_in_other_words(line)) is None:
            continue
        number, label = field
        if last and last[0] == number and last[1] != label:
            found[last[2]] = number
        if last is None or last[0] != number:
            last = (number, label, place)
    return found


def _in_unknown_field(record: _Record, line: str) -> bool:
    """Whether `line` labels a field of `record` with words that are not known, and is no item of a numbered list."""
    if record.open == "output" or (field := field_in_other_words(line)) is None or field[0] != record.number:
        return False
    before = re.compile(rf"\s*{record.number - 1}[.)]")
    return not any(before.match(each) for each in record.current)


def _is_second_output(record: _Record, label: Label) -> bool:
    return record.open == label.name == "output" and label.number == record.number > 0


def _unfenced(lines: list[str]) -> str:
    """The text of a field; a closing fence whose opening stands before the list is taken away."""
    text = _GLUED_SEPARATOR.sub("", "\n".join(lines).strip())
    kept = text.split("\n")
    fences = [line for line in kept if line.lstrip().startswith(("```", "~~~"))]
    if len(fences) % 2 and _FENCE.fullmatch(kept[-1]) and kept[-1].strip() in ("```", "~~~"):
        return "\n".join(kept[:-1]).strip()
    return text


def _broken(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" or character == "\ufffd" for character in text)
