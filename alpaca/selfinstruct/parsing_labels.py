"""Labels of fields in the dress and language a model gives them: "4. Instruction:", "#### Output", "4. 输出：".

A line is taken by itself here; whether a label opens a field or is text of one is for the list's reader to say.
"""

import re
from dataclasses import dataclass

_NAMES = {
    "instruction": "instruction 指令 指示 说明 說明 命令 명령 지시 지시사항 지침 anweisung aufgabe instrucción "
    "instruccion consigne istruzione instrução instructie opdracht polecenie instrukcja инструкция задание інструкція "
    "завдання talimat تعليمات التعليمات निर्देश คำสั่ง instruksi perintah οδηγία",
    "input": "input 输入 輸入 入力 입력 eingabe entrada entrée invoer wejście ввод вход girdi المدخلات مدخلات "
    "इनपुट อินพุต вхід masukan είσοδος",
    "output": "output response 输出 輸出 出力 출력 ausgabe salida sortie uscita saída uitvoer wyjście вывод выход "
    "ответ çıktı المخرجات مخرجات आउटपुट เอาต์พุต вихід keluaran έξοδος antwort respuesta réponse risposta resposta "
    "antwoord 回答 答案 응답",
}
_FIELD_OF = {word: name for name, words in _NAMES.items() for word in words.split()} | {"answer": "output"}
_WORDS = "|".join(sorted(map(re.escape, _FIELD_OF), key=len, reverse=True))
_BLANK = r"[ \t\u00a0\u202f\u3000\u200b\u2060\ufeff]*+"
_MARK = r"\*{1,3}|_{1,3}"
# possessive quantifiers: a model may write thousands of blanks, and backtracking over them would not end
_OPENING = (
    rf"{_BLANK}(?:[-*•>][ \t]++)?(?P<heading>#{{1,6}}[ \t]*+)?(?P<mark>{_MARK})?{_BLANK}"
    rf"(?:task[ \t]++)?(?:(?P<number>\d{{1,5}}|(?-i:[IVXLC]{{1,7}}))[ \t]*+[.):．、）：]+)?{_BLANK}(?P<inner>{_MARK})?"
)
_CLOSING_MARK = rf"(?(mark)(?:{_MARK})?|(?(inner)(?:{_MARK})?))"
_LABEL = re.compile(
    rf"{_OPENING}(?P<name>{_WORDS})(?:[ \t]?[#(（]?(?P<part>\d{{1,5}}|[A-D](?=[)）]?[ \t]*+[:：]))[)）]?)?"
    rf"{_BLANK}{_CLOSING_MARK}{_BLANK}"
    rf"[:：]{_CLOSING_MARK}",
    re.IGNORECASE,
)
_BARE = re.compile(
    rf"{_OPENING}(?P<name>instruction|input|output|response)[ \t]*+{_CLOSING_MARK}[ \t]*+", re.IGNORECASE
)
_LETTERS = r"[^\s\d\u200b\u2060:：.,;!?\"'`()\[\]{}<>*_/\\=+|-]{1,20}"  # with the vowel signs of any script
_OTHER_WORDS = re.compile(
    rf"{_BLANK}(?:#{{1,6}}[ \t]*+)?(?:{_MARK})?(?P<number>\d{{1,5}})[ \t]*+[.):．、）]+{_BLANK}(?:{_MARK})?"
    rf"(?P<label>{_LETTERS}(?:[ \t]{_LETTERS}){{0,2}}){_BLANK}(?:{_MARK})?[:：]"
)
_DIGITS = {ord(wide): str(digit) for digit, wide in enumerate("０１２３４５６７８９")}
_ROMAN = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}


@dataclass(frozen=True)
class Label:
    """A label at the beginning of a line.

    Attributes:
        name: instruction, input or output.
        number: of its record, 0 where it has none.
        part: of several inputs, which one this is: "1", "B"; "" for none.
        end: where the text after it begins; `start` is where its name does.
    """

    name: str
    number: int
    part: str
    start: int
    end: int


def label_of(line: str) -> Label | None:
    """The label that `line` begins with; without a colon where the whole line is a numbered or highlighted label."""
    if not line.isascii():
        line = line.translate(_DIGITS)  # of equal length
    found = _LABEL.match(line)
    if found is None:
        found = _BARE.fullmatch(line)
        if found is None or not (found["number"] or found["heading"] or found["mark"] or found["inner"]):
            return None
    name, number = _FIELD_OF[found["name"].lower()], value_of(found["number"])
    if found["name"].lower() == "answer" and not number:
        return None
    part = found.groupdict().get("part") or ""
    if part.isdecimal() and not number and name != "input":
        number, part = int(part), ""
    return Label(name, number, part, found.start("name"), found.end())


def field_in_other_words(line: str) -> tuple[int, str] | None:
    """Number and label of a line that looks like a field and has no label known here."""
    found = _OTHER_WORDS.match(line)
    return None if found is None or label_of(line) else (int(found["number"]), found["label"].lower())


def value_of(number: str | None) -> int:
    """The value of a number in digits or Roman capitals; 0 for none."""
    if not number:
        return 0
    if number.isdecimal():
        return int(number)
    values = [_ROMAN[letter] for letter in number]
    return sum(-one if one < after else one for one, after in zip(values, [*values[1:], 0], strict=True))
