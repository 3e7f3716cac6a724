"""Defects known from generated instruction data, one small function each: a row goes in, yes or no comes out.

`DEFECTS` maps a defect's name to its function. `data_source.clean` drops rows that have one and
`alpaca.inspect` counts them. The rules look at one row alone; near-duplicates are in `novelty.py`.
"""

import html
import re
import unicodedata
from collections.abc import Callable

from alpaca.data.rows import Row

_NOTHING = re.compile(
    r"(?:there is )?(?:no|zero)(?: (?:additional|further|specific|other))? ?[_‐-]?inputs?"
    r"(?: is)?(?: (?:required|needed|necessary|provided|given|available|here|data|text))?(?: for this(?: task)?)?"
    r"|(?:input:? (?:is )?)?(?:not? (?:required|needed|necessary|applicable)|none(?: (?:required|needed|provided))?)"
    r"|null|nil|empty|blank|n ?[/.] ?a"
    r"|keine? (?:eingabe|input)|sin entrada|sem entrada|(?:sans|pas d'|aucune) ?entrée|nessun(?:a entrata| input)"
    r"|geen invoer|brak (?:danych|wejścia)|нет (?:ввода|входных данных)|без ввода|girdi yok|tidak ada (?:input|masukan)"
    r"|[无無](?: ?[输輸]入)?|なし|없음"
    r"|[没沒]有[输輸]入|入力(?:なし|は?ありません)|입력 ?없음|لا يوجد (?:إدخال|مدخلات)|कोई इनपुट नहीं",
    re.IGNORECASE,
)
_NOINPUT_MARK = re.compile(r"<\s*no[\s_-]?inputs?\s*/?>", re.IGNORECASE)
_LEAKED = re.compile(r"(?:^|\s)\d{1,3}\s*[.)]\s*Instruction\s*:", re.IGNORECASE)
_FIELD_MARK = re.compile(r"^\s*(?:#{2,}\s*(?:Instruction|Input|Output|Response)\b|Instruction\s*:)", re.I | re.M)
_URL = re.compile(r"\b(?:https?://|ftp://|www\.)\S+|\b[\w-]+\.(?:com|org|net|edu|gov)/\S+", re.IGNORECASE)
_PICTURE = r"(?:images?|pictures?|photos?|photographs?|paintings?|drawings?|illustrations?|screenshots?)"
_GIVEN = r"(?:this|these|the|following|given|attached|provided|accompanying|above|below|a given)"
_IMAGE_REQUEST = re.compile(
    rf"\b{_GIVEN}(?: \w+)? {_PICTURE}\b|\bgiven an? (?:\w+ )?{_PICTURE}\b"
    rf"|\b{_PICTURE} (?:below|above|provided|attached)\b"
    rf"|\b(?:describe|caption|label|identify|classify)\b[^.?!]{{0,20}}\b(?:an?|in an?) {_PICTURE}\b"
    rf"|^\s*(?:please )?(?:draw|sketch|paint)\b"
    rf"|\b(?:draw|sketch|paint|create|generate|find|insert) an? (?:\w+ )?{_PICTURE}\b",
    re.IGNORECASE,
)
_IMAGE_INPUT = re.compile(
    rf"^\W*(?:an? )?{_PICTURE}(?:\W*$| of\b)|!\[[^\]]*\]\(|\.(?:jpe?g|png|gif|bmp|webp|svg)\b", re.I
)
_OPEN_ENDING = re.compile(
    r"(?:,|\b(?:a|an|the|and|or|but|of|to|in|on|at|by|for|from|with|that|which|who|because|as|is|are|was|were|its|their))\s*$"
)
_SENTENCE_END = re.compile(r"[a-z]{2}[.!?][\"')]?\s+(?=[A-Z])")
_LIST_LINE = re.compile(r"^\s*(?:[-*•#>|]|\d{1,3}[.):]|[A-Za-z][.)])\s*")


def empty_output(row: Row) -> bool:
    """The output is nothing but white space: the example would only teach to stop at once."""
    return not row.output.strip()


def noinput_like(row: Row) -> bool:
    """The input says in words that there is none: `<noinput>`, "No input required.", "N/A", "none", in any dress."""
    text = row.input.strip()
    if not text or len(text) > 60:
        return False
    if not text.isascii():  # full-width and invisible characters
        plain = unicodedata.normalize("NFKC", text)
        text = "".join(character for character in plain if unicodedata.category(character) != "Cf")
    text = html.unescape(text).replace("\\", "")
    dress = "".join(character for character in text if unicodedata.category(character)[0] in "PSZC")
    bare = " ".join(text.strip(dress).split())
    return bool(_NOTHING.fullmatch(bare)) or bare == "NA" or bool(_NOINPUT_MARK.search(text))


def leaked_numbering(row: Row) -> bool:
    """A field carries on the numbered list of the generation prompt: "12. Instruction: ..."."""
    return any(_LEAKED.search(text) for text in (row.instruction, row.input, row.output))


def merged_tasks(row: Row) -> bool:
    """A line opens another task inside this one: "### Input", "### Response", "Instruction:"."""
    return any(_FIELD_MARK.search(text) for text in (row.instruction, row.input, row.output))


def url_in_input(row: Row) -> bool:
    """The input points to a page the model cannot read."""
    return bool(_URL.search(row.input))


def image_request(row: Row) -> bool:
    """The task needs a picture, as what it is given or as what it asks for; a text model can do neither."""
    return bool(_IMAGE_REQUEST.search(row.instruction)) or bool(_IMAGE_INPUT.search(row.input))


def control_characters(row: Row) -> bool:
    """A control character other than tab and line ends, or U+FFFD, which stands for bytes lost in decoding."""
    for text in (row.instruction, row.input, row.output):
        if text.isprintable() and "\ufffd" not in text:
            continue
        if any(_is_control(character) for character in set(text)):
            return True
    return False


def _is_control(character: str) -> bool:
    return character == "\ufffd" or (unicodedata.category(character) in ("Cc", "Cs") and character not in "\t\n\r")


def output_equals_input(row: Row) -> bool:
    """The output repeats the input and nothing else."""
    return bool(row.input.strip()) and row.output.split() == row.input.split()


def cut_answer(row: Row) -> bool:
    """The output stops in the middle of a sentence.

    Either its last line ends in a comma or a word that opens something ("of the"), or the line holds
    a whole sentence and then four words or more without a closing mark. List lines and outputs below
    eight words are left alone: titles, names and bullet points end without a mark by right.
    """
    text = row.output.rstrip()
    if len(text.split()) < 8 or not text or not (text[-1].isalpha() or text[-1] == ","):
        return False
    line = text.rsplit("\n", 1)[-1]
    if _LIST_LINE.match(line) or "#" in line or "```" in text or "/" in line.rsplit(None, 1)[-1]:
        return False
    if _OPEN_ENDING.search(line):
        return len(line.split()) >= 6  # a shorter line may be verse
    sentences = _SENTENCE_END.split(line)
    return len(sentences) > 1 and len(sentences[-1].split()) >= 4 and sentences[-1][-1].islower()


DEFECTS: dict[str, Callable[[Row], bool]] = {
    "empty output": empty_output,
    "noinput-like input": noinput_like,
    "leaked numbering": leaked_numbering,
    "merged tasks": merged_tasks,
    "URL in input": url_in_input,
    "image request": image_request,
    "control characters": control_characters,
    "output equal to input": output_equals_input,
    "answer cut mid-sentence": cut_answer,
}


def found(row: Row) -> list[str]:
    """Names of the defects `row` has, in the order of `DEFECTS`."""
    return [name for name, has in DEFECTS.items() if has(row)]
