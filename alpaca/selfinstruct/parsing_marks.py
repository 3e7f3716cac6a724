"""Lines that belong to a list and to no task in it: separators, rules, numbers, "Task n" headings, closing talk.

Models put them between the records whatever the prompt asks for. A mark directly before a record opens that record;
at the end of the list it closes it. Anywhere else the same line is text.
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Literal

from alpaca.selfinstruct.parsing_labels import value_of

_SEPARATOR = re.compile(r"[ \t]*+(?:\\?+#){3,}+[ \t]*+")
_RULE = re.compile(
    r"\s*+\\?+([-_*=+─━═—–~➖•]{1,2})(?:[ \t]*+\\?+\1){2,}+[-_*=+~]?\s*+|\s*+<hr\s*/?>\s*+", re.IGNORECASE
)
_FENCE = re.compile(r"\s*(?:```|~~~)")
_DRESS = " \t#*_=~-–—─━═|>•[](){}<>`!:.;"
_WORD = (
    r"(?:(?P<task>task)[ :_(*#-]{0,4}|(?:example|item|problem|exercise|question|prompt|entry|record|instruction|case"
    r"|sample|aufgabe|tarea|tâche|tarefa|compito|taak|zadanie|задача|задание|任务|任務|课题|課題|タスク|작업|과제|مهمة"
    r"|कार्य|görev|tugas) ?)"
)
_NUMBER = r"(?:(?:no|nr|number)\b[. ]*|[#№] ?)?(?P<number>\d{1,5}|(?-i:[IVXLC]{1,7}))(?: ?(?:/|of) ?\d{1,5})?"
_STRONG = re.compile(r"#|[-=*_]{2,}+ |[*_]*+\w[\w /]*+[.):]")  # a number written as a heading or a list's number
_JUST_NUMBER = re.compile(_NUMBER, re.IGNORECASE)
_TITLE = r"(?P<title>[*_\])}]{0,3} ?[:.)|\-–—][*_]{0,3}(?: .{0,100})?)?"
_TASK = re.compile(rf"{_WORD}{_NUMBER}{_TITLE}", re.IGNORECASE)
_BULLET = re.compile(r"[-*•>] ")
_DIGITS = re.compile(r"\d{1,5}")
_ENDS_CODE = re.compile(r"[\])};\"'`|]$|^(?:```|~~~)")
_HEADING = re.compile(rf"(?:[^\W\d_]{{1,20}} ?){{0,2}}{_NUMBER}{_TITLE}", re.IGNORECASE)
_END = re.compile(
    r"[\[(<=#-]+ ?(?:end|eof)(?: of (?:the )?(?:list|tasks?|output|response|answer|file|text))? ?[\])>=#-]+"
    r"|[\[(<*_=#-]* ?(?:the )?end of (?:the )?(?:list|tasks|output|response)[.\])>*_=# -]*",
    re.IGNORECASE,
)
_MET = r"(?:meet|met|satisf|follow|fulfil|adher|comply|compli|complete)"
_TALK = re.compile(
    rf"\W*+(?:(?:note|please note|remark)\b.*?\b(?:tasks\b|requirements?\b.*?\b{_MET})"
    rf"|(?:all|these|those|the above|each|i(?: hav|['’]v)e)\b[^.\n]*?\b(?:tasks?|requirements)\b.*?"
    rf"\b(?:{_MET}|cover|span|varied|diverse)"
    rf"|(?:all|these|those|the above)\b.*?\b{_MET}[^.\n]*?\brequirements\b"
    r"|(?:i hope|hope|(?:please )?let me know|feel free|if you (?:need|want|would|['’]d)|would you like|do you want"
    r"|shall i|should i)\b.*?\b(?:tasks?|requirements|examples|criteria)\b"
    r"|(?:that['’]?s|that is|this is|here (?:are|is|were)|(?:those|these) (?:are|were)|this (?:complete|conclude)s)"
    r"\b[^.\n]*?\b(?:tasks|the list|requested)\b"
    r"|(?:i )?hope (?:this|these|that|it)(?: all)? (?:helps?|(?:is|are|will be|meets?|works?)\b[^.!\n]{0,60})"
    r"[.!]*+\W*+$|(?:please )?let me know if (?:you|there)\b[^.\n]*?"
    r"\b(?:more|further|additional|changes?|adjust\w*|modif\w*|else)\b"
    r"[^.\n]*+[.!]*+\W*+$)",
    re.IGNORECASE | re.DOTALL,
)
LONGEST_TALK, MOST_PARAGRAPHS = 600, 8  # characters of a paragraph that may still be talk, and how many are looked at


@dataclass(frozen=True)
class Mark:
    """What a line says where it is no text.

    Attributes:
        number: as a number or heading gives it; 0 for a rule and a separator.
        plain: it could as well be text: nothing but the number or words themselves, or a line to write on.
    """

    kind: Literal["separator", "rule", "number", "task"]
    number: int = 0
    plain: bool = False


@dataclass(frozen=True)
class Usual:
    """What stands before most records of a list.

    Attributes:
        numbers: lines with just their numbers.
        rules: as they are written.
        headings: any other lines, with "{}" in place of the record's number.
    """

    numbers: bool = False
    rules: frozenset[str] = frozenset()
    headings: frozenset[str] = frozenset()

    def heading(self, line: str, number: int = 0) -> Mark | None:
        """The mark that `line` is as a usual heading of the record `number` (0: of any)."""
        forms = _forms(line, number) if self.headings else []
        return next((Mark("task", value) for form, value in forms if form in self.headings), None)


def mark_of(line: str) -> Mark | None:
    """The mark that `line` is, taken by itself; None for any other line, blank ones too."""
    if len(line) > 240 or not line.strip():
        return None
    if _SEPARATOR.fullmatch(line):
        return Mark("separator")
    if _RULE.fullmatch(line):
        return None if line.strip().startswith("~~~") else Mark("rule", plain="_" in line)
    text = line.strip() if line.isascii() else _simplified(line)
    bare = text.strip(_DRESS)
    headed = bool(re.match(r"#{1,6} ", text)) or (text[:2] == text[-2:] and text[:2] in ("**", "__", "==", "--"))
    if found := _JUST_NUMBER.fullmatch(bare):
        return Mark("number", value_of(found["number"]), plain=not _STRONG.match(text))
    if (found := _TASK.fullmatch(bare)) and (headed or found["task"] or not found["title"]):
        titled = bool(found["title"]) and not headed
        return Mark(
            "task", value_of(found["number"]), plain=text.rstrip(".") == bare or titled or bool(_BULLET.match(text))
        )
    if headed and (found := _HEADING.fullmatch(bare)) and found["number"].isdecimal():
        return Mark("number", value_of(found["number"]))
    return None


def opening_at(lines: Sequence[str], number: int, usual: Usual, *, outside: bool = False) -> int:
    """Where in `lines` the marks begin that belong to a record after them; `len(lines)` where there are none.

    Args:
        number: of that record, 0 where its label gives none.
        outside: `lines` are no text of a task, so none of them can be an answer.
    """
    place = start = len(lines)
    seen: list[str] = []
    while place > 0:
        line = lines[place - 1]
        if line.strip():
            mark = mark_of(line)
            if (
                "task" not in seen
                and usual.heading(line, number)
                and (outside or _DIGITS.search(line) or _any_text(lines, place - 1))
            ):
                seen.append("task")
            elif mark is not None and _belongs(mark, seen, lines, place - 1, number, usual, outside):
                seen.append(mark.kind)
            else:
                break
            start = place - 1
        place -= 1
    return start


def closing_at(lines: Sequence[str], number: int, usual: Usual) -> tuple[int, int]:
    """Where the text of the last record ends, and where behind it talk about the list begins, marks left out.

    Args:
        number: of that record, 0 where it has none.
    """
    end = talk = len(lines)
    for _ in range(MOST_PARAGRAPHS):
        before = end
        end = _without_end_marks(lines, end, number, usual)
        if (cut := _last_separator(lines, end)) >= 0:
            end = talk = cut
        elif (paragraph := _talk_at(lines, end)) >= 0:
            end = talk = paragraph
        if end == before:
            break
    return end, talk


def is_mark(line: str) -> bool:
    """Whether `line` is a mark or an end mark, and can be nothing else."""
    mark = mark_of(line)
    return (mark is not None and not mark.plain) or bool(_END.fullmatch(line.strip()))


def usual_marks(before: Sequence[tuple[Sequence[str], int]]) -> Usual:
    """What stands before most records of a list.

    Args:
        before: for each record the lines before it, and its number; where that is 0, numbers must go up by one.
    """
    apart: Counter[int] = Counter()
    rules: Counter[str] = Counter()
    headings: Counter[tuple[str, int]] = Counter()
    for place, (lines, number) in enumerate(before):
        texts = [line.strip() for line in lines if line.strip()]
        mark = mark_of(texts[-1]) if texts else None
        if mark is not None and mark.kind == "number" and (not number or number == mark.number):
            apart[0 if number else mark.number - place] += 1
        if place:
            rules.update({text for text in texts[-3:] if _RULE.fullmatch(text)})
        found = {(form, value and value - place) for text in texts[-2:] for form, value in _forms(text, number)}
        headings.update({(form, 0 if number else shift) for form, shift in found})
    most = max(apart.values(), default=0)
    least = max(1, (len(before) - 1) / 2)
    often = frozenset(rule for rule, count in rules.items() if count >= max(least, 1 + ("____" in rule)))
    half, nearly_all = max(2, len(before) // 2 + 1), max(3, len(before) - 1)
    headed = (form for (form, _), count in headings.items() if count >= (half if "{}" in form else nearly_all))
    return Usual(most >= 2 and 2 * most > len(before), often, frozenset(headed))


def _any_text(lines: Sequence[str], end: int) -> bool:
    return any(map(str.strip, islice(lines, end)))


def _forms(line: str, number: int) -> list[tuple[str, int]]:
    """The line with "{}" for the record's number (0: for any) and that number; as it is, and 0, where it has no digit.

    Not for lines that the other rules know, nor those that often end a text: brackets, quotes, fences.
    """
    text = line.strip()
    mark = mark_of(line)
    if not text or len(text) > 60 or (mark is not None and mark.kind != "task"):
        return []
    if not _DIGITS.search(text):
        return [] if _ENDS_CODE.search(text) else [(text, 0)]
    return [
        (f"{text[: found.start()]}{{}}{text[found.end() :]}", int(found[0]))
        for found in _DIGITS.finditer(text)
        if number in (0, int(found[0]))
    ]


def _belongs(
    mark: Mark, seen: Sequence[str], lines: Sequence[str], place: int, number: int, usual: Usual, outside: bool
) -> bool:
    """Whether the mark at `place`, with the kinds in `seen` after it, opens the next record, or else ends the text."""
    if mark.kind == "separator":
        return True
    if mark.kind == "rule":
        headed = "task" in seen or "number" in seen
        if "separator" in seen and lines[place].strip() not in usual.rules:
            return False  # what underlines a title
        return seen.count("rule") <= headed and not _of_text(mark, lines, place, usual.rules)
    if mark.kind in seen:
        return False
    same = number in (0, mark.number) or mark.number == 0
    alone = not (outside or _any_text(lines, place))
    if mark.kind == "task":
        return not mark.plain or (same and not alone)
    if not same or "separator" in seen:
        return False
    if usual.numbers:
        return True
    counted = _goes_on(lines, place, mark.number) and not lines[place].lstrip().startswith("#")
    return number > 0 and not alone and not counted


def _of_text(mark: Mark, lines: Sequence[str], place: int, rules: frozenset[str]) -> bool:
    """Whether the rule at `place` is rather one of the text: of a table or box, or a line to write on.

    A rule that the text has before is its own, unless such `rules` stand between the records; then it is only where it
    is the partner of the one that the text begins with.
    """
    rule = lines[place].strip()
    texts = [text for line in lines[:place] if (text := line.strip())]
    if rule not in rules:
        to_write_on = mark.plain and (len(rule) > 3 or (bool(texts) and texts[-1].endswith((",", ":"))))
        return to_write_on or rule in texts
    return bool(texts) and texts[0] == rule and texts.count(rule) % 2 == 1


def _goes_on(lines: Sequence[str], place: int, number: int) -> bool:
    """Whether the line before `place` has the number before: then this one is a line of a count."""
    before = next((line for line in reversed(lines[:place]) if line.strip()), "")
    mark = mark_of(before)
    return mark is not None and mark.kind == "number" and mark.number == number - 1


def _without_end_marks(lines: Sequence[str], end: int, number: int, usual: Usual) -> int:
    while end > 0:
        line = lines[end - 1]
        if line.strip() and not _END.fullmatch(line.strip()) and not (number and usual.heading(line, number + 1)):
            mark = mark_of(line)
            if mark is None or (mark.kind == "rule" and _of_text(mark, lines, end - 1, usual.rules)):
                break
            if mark.kind in ("number", "task") and (mark.plain or (number and mark.number != number + 1)):
                break
            if mark.kind == "number" and not _ends_list(lines, end - 1, mark.number, number):
                break
        end -= 1
    return end


def _ends_list(lines: Sequence[str], place: int, number: int, last: int) -> bool:
    """Whether the number at `place`, the last line, is that of a record that never came, not the answer or an item."""
    alone = not _any_text(lines, place)
    listed = bool(last) or re.fullmatch(r"\s*\d+[.)]\s*", lines[place]) is not None
    return listed and not alone and not _goes_on(lines, place, number)


def _last_separator(lines: Sequence[str], end: int) -> int:
    """Place of the last separator outside of code, or -1."""
    fenced, place = False, -1
    for number, line in enumerate(lines[:end]):
        fenced ^= bool(_FENCE.match(line))
        if not fenced and _SEPARATOR.fullmatch(line):
            place = number
    return place


def _talk_at(lines: Sequence[str], end: int) -> int:
    """Where the last paragraph begins, if it speaks of the list and there is text before it; else -1."""
    start = end
    while start > 0 and lines[start - 1].strip():
        start -= 1
    paragraph = "\n".join(lines[start:end]).strip()
    before = any(line.strip() for line in lines[:start])
    return start if before and len(paragraph) <= LONGEST_TALK and _TALK.match(paragraph) else -1


def _simplified(line: str) -> str:
    """Digits and marks as ASCII where Unicode has such forms: full width, circled, keycaps."""
    text = unicodedata.normalize("NFKC", line)
    text = "".join(one for one in text if unicodedata.category(one) not in ("Cf", "Mn", "Me")).strip()
    return text.lstrip("".join(one for one in text if unicodedata.category(one) == "So") + " ")
