"""The rules a generated task must pass, one small function each: a task goes in, whether it breaks the rule comes out.

`FILTERS` maps a filter's name, which is its switch under `generation.filters`, to its function, in the
order in which they are asked; the first one broken is the reason the ledger gives. The first five are
the recipe's. Seeds break some of them by right and are never filtered.
"""

import re
import string
import unicodedata
from collections.abc import Callable

from alpaca.config import TaskFilterConfig
from alpaca.data import defects
from alpaca.data.rows import Row

_UNSUITABLE = re.compile(
    r"\b(?:images?|graphs?|pictures?|files?|maps?|draw|plot|go to|video|audio|music|flowchart|diagram)\b", re.I
)
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|\d+")
_LEAK = re.compile(
    r"\b(?:the )?(?:original|rewritten|created|above|previous|first|evolved) (?:task|prompt|instruction)s?\b"
    r"|\b(?:list of|varied|\d+|another) (?:varied |new )?tasks?\b.*\b(?:writing assistant|correct answer)\b"
    r"|\bnew (?:task|prompt|instruction) (?:of|for|from|made)\b",
    re.I,
)
_NUMBERED = re.compile(r"\d{1,3}[.)]\s")
_LIST_MARK = re.compile(r"^\s*\d{1,4}\.\s*(?:input|output)\s*:|<noinput>", re.I | re.M)
_REFUSAL = re.compile(
    r"\bas an? (?:ai|artificial intelligence|(?:large )?language model)\b|\bi am (?:just )?an? (?:ai|language model)\b"
    r"|\bi['’]m (?:just )?an? (?:ai|language model)\b"
    r"|^\W*(?:i['’]m |i am |we['’]re )?(?:very |so |really )?sorry\b[^.\n]{0,60}"
    r"\b(?:can(?:no|['’])t|unable|not able|don['’]t)\b"
    r"|^\W*i (?:can(?:no|['’])t|am unable to|am not able to|will not|won['’]t) "
    r"(?:assist|help|provide|fulfil|comply|answer|do)\b",
    re.I,
)
_UNSAFE = re.compile(
    r"\b(?:how (?:to|do i|can i|would one)|(?:steps|ways|instructions|guide|recipe|plan|tips) (?:to|for|on)"
    r"|(?:help|teach|show|tell) me|write|describe|explain|give|list)\b[^.?!\n]{0,60}?\b(?:"
    r"(?:mak|build|construct|assembl|detonat)\w* (?:an? |the )?(?:pipe |home-?made |dirty |nail )?"
    r"(?:bombs?|explosives?|grenades?)"
    r"|(?:mak|produc|synthesi[sz]|cook)\w* (?:meth(?:amphetamine)?|heroin|crack|cocaine|nerve gas|sarin|ricin|anthrax)"
    r"|(?:commit|committing) (?:suicide|murder|genocide|fraud|arson)|kill (?:yourself|myself|someone|somebody|people)"
    r"|(?:harm|cut|hurt) (?:yourself|myself)|poison (?:someone|somebody|my|a person)"
    r"|(?:steal|stealing) (?:a |someone|credit|identit|password|car)|launder\w* money|hack\w* into"
    r"|(?:write|writing|creat\w+|spread\w*) (?:a |an )?(?:ransomware|malware|computer virus|keylogger|phishing))",
    re.I,
)
_ABUSE = re.compile(
    r"\b(?:child porn\w*|sexual\w* (?:content|acts?) (?:with|about|of|involving) (?:a )?(?:child|minor)\w*)\b", re.I
)
_LICENCE = re.compile(
    r"\bcopyright\s*(?:\(c\)|©|\d{4})|©\s*\d{4}|\ball rights reserved\b|\bSPDX-License-Identifier\b"
    r"|\bGNU (?:Lesser |Affero )?General Public Licen[sc]e\b|\blicensed under the\b|\bMIT License\b",
    re.I,
)
_EMAIL = re.compile(r"\b[\w.+-]{1,64}@(?!example\.)[\w-]+(?:\.[\w-]+)*\.[a-z]{2,}\b", re.I)
_PHONE = re.compile(r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,4}\)[ .-]?|\d{3}[ .-])\d{3}[ .-]\d{4}(?!\w)")
_SOCIAL = re.compile(r"(?<![\w-])\d{3}-\d{2}-\d{4}(?![\w-])")
_CARD = re.compile(r"(?<![\w.-])(?:\d[ -]?){13,19}(?![\w-])")
_STOP_WORDS = frozenset(
    "a an the and or but if of to in on at by for from with as is are was were be been it its this that these those i "
    "you he she we they me him her us them my your his our their so then than there here do does did".split()
)
_TRIPLES_FROM = 30  # words: a shorter output cannot go round in circles for long


def length(row: Row, rules: TaskFilterConfig) -> bool:
    """The instruction has fewer words than `min_words` or more than `max_words`."""
    return not rules.min_words <= len(row.instruction.split()) <= rules.max_words


def unsuitable_words(row: Row, rules: TaskFilterConfig) -> bool:
    """The instruction names, as a whole word, what a text model cannot see or do."""
    return bool(_UNSUITABLE.search(row.instruction))


def write_a_program(row: Row, rules: TaskFilterConfig) -> bool:
    """The instruction opens with "Write a program": models overdo those, and it is unclear whether code is wanted."""
    return row.instruction.startswith("Write a program")


def punctuation_start(row: Row, rules: TaskFilterConfig) -> bool:
    """The instruction opens with ASCII punctuation."""
    return row.instruction[:1] in string.punctuation and bool(row.instruction)


def non_ascii_start(row: Row, rules: TaskFilterConfig) -> bool:
    """The instruction opens with a character outside ASCII."""
    return not row.instruction[:1].isascii()


def empty_output(row: Row, rules: TaskFilterConfig) -> bool:
    """There is no output."""
    return defects.empty_output(row)


def language(row: Row, rules: TaskFilterConfig) -> bool:
    """Fewer of the instruction's letters than `min_latin_letters` are Latin; outputs may be in any script."""
    letters = [character for character in row.instruction if character.isalpha()]
    if not letters:
        return False
    latin = sum(character.isascii() or "LATIN" in unicodedata.name(character, "") for character in letters)
    return latin < rules.min_latin_letters * len(letters)


def too_long(row: Row, rules: TaskFilterConfig) -> bool:
    """Instruction, input and output together have more words than `max_task_words`."""
    return sum(len(text.split()) for text in (row.instruction, row.input, row.output)) > rules.max_task_words


def leaked_numbering(row: Row, rules: TaskFilterConfig) -> bool:
    """A field carries on the list ("12. Instruction: ..."), or the instruction opens with a number of one."""
    return defects.leaked_numbering(row) or bool(_NUMBERED.match(row.instruction))


def merged_tasks(row: Row, rules: TaskFilterConfig) -> bool:
    """A line of a field opens another field or task, or a mark of the list stands in it."""
    return defects.merged_tasks(row) or any(
        _LIST_MARK.search(text) for text in (row.instruction, row.input, row.output)
    )


def prompt_leak(row: Row, rules: TaskFilterConfig) -> bool:
    """The instruction speaks of the request that made it ("the given task", "a list of 20 tasks ...")."""
    return bool(_LEAK.search(row.instruction))


def echo(row: Row, rules: TaskFilterConfig) -> bool:
    """The output repeats the instruction or the input and adds nothing."""
    output = row.output.split()  # case counts: capitalising a text is a task
    return bool(output) and output in (row.instruction.split(), row.input.split())


def repetition(row: Row, rules: TaskFilterConfig) -> bool:
    """More than `max_repetition` of the output's word triples occurred before: the model went round in circles."""
    words = row.output.lower().split()
    if len(words) < _TRIPLES_FROM:
        return False
    triples = list(zip(words, words[1:], words[2:]))
    return 1 - len(set(triples)) / len(triples) > rules.max_repetition


def refusal(row: Row, rules: TaskFilterConfig) -> bool:
    """The output declines the task or speaks of the model itself."""
    return bool(_REFUSAL.search(row.output))


def hollow_output(row: Row, rules: TaskFilterConfig) -> bool:
    """The output has nothing but stop words and punctuation; a single letter may be the answer to a choice."""
    words = _WORD.findall(row.output)
    if len(words) == 1 and len(words[0]) == 1:
        return False
    return bool(row.output.strip()) and all(word.lower() in _STOP_WORDS for word in words)


def unsafe(row: Row, rules: TaskFilterConfig) -> bool:
    """The instruction asks for help with serious harm, by key words; it knows no context and errs both ways."""
    return bool(_UNSAFE.search(row.instruction) or _ABUSE.search(f"{row.instruction}\n{row.input}\n{row.output}"))


def licence_text(row: Row, rules: TaskFilterConfig) -> bool:
    """A field holds a copyright or licence notice."""
    return any(_LICENCE.search(text) for text in (row.instruction, row.input, row.output))


def personal_data(row: Row, rules: TaskFilterConfig) -> bool:
    """A field holds an e-mail address, or a phone, social security or card number by its form."""
    texts = (row.instruction, row.input, row.output)
    return any(
        _EMAIL.search(text) or _PHONE.search(text) or _SOCIAL.search(text) or _card_number(text) for text in texts
    )


def _card_number(text: str) -> bool:
    """Whether 13 to 19 digits in a row pass the Luhn check."""
    for match in _CARD.finditer(text):
        digits = [int(character) for character in match[0] if character.isdigit()][::-1]
        doubled = [2 * digit - 9 * (digit > 4) for digit in digits[1::2]]
        if (sum(digits[::2]) + sum(doubled)) % 10 == 0:
            return True
    return False


Filter = Callable[[Row, TaskFilterConfig], bool]
FILTERS: dict[str, Filter] = {
    each.__name__: each
    for each in (
        length,
        unsuitable_words,
        write_a_program,
        punctuation_start,
        non_ascii_start,
        empty_output,
        language,
        too_long,
        leaked_numbering,
        merged_tasks,
        prompt_leak,
        echo,
        repetition,
        refusal,
        hollow_output,
        unsafe,
        licence_text,
        personal_data,
    )
}
ABOUT_OUTPUTS = (  # asked of new outputs to given instructions too: what they are about is no matter of the form
    "empty_output",
    "too_long",
    "leaked_numbering",
    "echo",
    "repetition",
    "refusal",
    "hollow_output",
    "unsafe",
    "licence_text",
    "personal_data",
)


def first_broken(row: Row, rules: TaskFilterConfig, *, only: tuple[str, ...] = ()) -> str:
    """Name of the first filter that is on and that `row` breaks, or ""; `only` names the ones to ask, none is all."""
    for name, breaks in FILTERS.items():
        if getattr(rules, name) and (not only or name in only) and breaks(row, rules):
            return name
    return ""
