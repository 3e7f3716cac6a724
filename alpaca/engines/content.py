"""What a model meant as its answer, out of the text it generated: no thinking, no end tokens, no control characters.

Servers differ in how much of this they take away themselves. Pure functions on text; lists, JSON, plain answers
and verdicts all use them.
"""

import re

_THINKING = r"(?:think(?:ing)?|thoughts?|reason(?:ing)?|scratchpad)"
_TAG = rf"(?:\w{{1,20}}[:_])?{_THINKING}(?:_\w{{1,20}})?"  # think, seed:think, chain_of_thought, reasoning_content
_SPECIAL = r"<[|｜][\w▁/.:-]{1,40}[|｜]>"
# possessive quantifiers and bounded repeats: a text of any length is read in one pass
_START = re.compile(
    rf"(?:\s|\ufeff|<bos>|<start_of_turn>(?:model)?|(?!<\|(?:/?{_THINKING}|channel)){_SPECIAL}(?:assistant\b|model\b)?)*+",
    re.IGNORECASE,
)
_BEGIN_OF_TEXT = re.compile(r"<s>(?!.*</s>\s*\S)", re.IGNORECASE | re.DOTALL)  # else HTML
_OPENING = re.compile(
    rf"[<◁]{_TAG}(?:\s[^<>\n]{{0,80}})?[>▷]"
    rf"|\[(?-i:THINK(?:ING)?)\]"
    rf"|<\|{_THINKING}\|>|<\|?(?:begin|start)(?:_of)?_{_THINKING}\|?>|<unused94>"
    rf"|(?:<\|start\|>assistant)?<\|channel\|>(?!\s*final)[^<]{{0,60}}<\|message\|>|<\|channel>\s*{_THINKING}\b"
    r"|(?-i:(?:analysis|commentary)(?=[A-Z]))",  # the same channels, their special tokens left out in decoding
    re.IGNORECASE,
)
_CLOSING = re.compile(
    rf"(?<![`\"'])(?:[<◁]/{_TAG}[>▷]"
    rf"|\[/(?-i:THINK(?:ING)?)\]"
    rf"|<\|/{_THINKING}\|>|<\|?end(?:_of)?_{_THINKING}\|?>|<unused95>"
    rf"|<\|channel\|>\s*final[^<]{{0,60}}<\|message\|>|<channel\|>|(?-i:assistantfinal))",
    re.IGNORECASE,
)
_WRAPPED = re.compile(r"\s*<answer>(.*)</answer>\s*", re.IGNORECASE | re.DOTALL)
_END = re.compile(
    rf"{_SPECIAL}|\[\|\w{{6,20}}\|\]|</s>|</?eo[dstu]>|<pad>|<(?:start|end)_of_\w{{4,12}}>|<turn\|>|\[/INST\]"
    r"|\[(?:EO[ST]|end of text)\]|(?:<\|\w{2,40}\|?|</s|<unk>|\[SEP\])\s*\Z",  # the last of them maybe cut itself
    re.IGNORECASE,
)
_QUOTES = "`\"'“”‘’"
_STRUCK = re.compile(r"<s>", re.IGNORECASE)  # HTML, where </s> is no end token
_ESCAPE_SEQUENCE = re.compile(r"\x1b\[[0-9;]{0,20}[A-Za-z]")
_CONTROL = re.compile(
    r"[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f]|(?<!\w)\ufffd+|\ufffd+(?!\w)"
    r"|\ufeff|(?<!\S)[\u200b\u2060]+|[\u200b\u2060]+(?!\S)"  # zero-width ones inside a line may be of its script
)
_LINE_END = re.compile(r"\r\n|[\r\x0b\x0c\x85\u2028\u2029]")


def plain(text: str) -> str:
    """The text with line ends as `\\n`, without control characters and terminal colours.

    U+FFFD stands for bytes lost in decoding. It is left inside a word only, where the word is not known any more.
    """
    if text.isascii() and text.isprintable():
        return text
    return _CONTROL.sub("", _ESCAPE_SEQUENCE.sub("", _LINE_END.sub("\n", text)))


def without_thinking(text: str) -> tuple[str, bool]:
    """The text after a leading block of thinking, and whether that block never ends: then there is no answer.

    A block may lack its opening mark, since some chat templates write it into the prompt: a closing mark that has no
    opening one before it ends such a block.
    """
    first = position = _start(text, 0)
    while True:
        opening = _OPENING.match(text, position)
        closing = _CLOSING.search(text, opening.end() if opening else position)
        if opening and not closing:
            return "", True
        if closing is None or (not opening and _OPENING.search(text, position, closing.start())):
            break
        after = _start(text, closing.end())
        if position != first and not opening and after == len(text):
            text = text[: closing.start()].rstrip()  # closed once more, behind the answer
            break
        position = after
    if position == first:
        return (text if text[:first].isspace() else text[first:]), False
    wrapped = _WRAPPED.fullmatch(text, position)
    return (wrapped[1] if wrapped else text[position:]), False


def before_end_token(text: str) -> str:
    """The text up to the first end token that a model or server spelt out; tokens in quotes or code are content."""
    fences = position = 0
    for token in _END.finditer(text):
        fences += text.count("```", position, token.start())
        position = token.start()
        around = text[max(0, position - 1) : position], text[token.end() : token.end() + 1]
        quoted = all(one and one in _QUOTES for one in around)
        if quoted or fences % 2 or (token[0].lower() == "</s>" and _STRUCK.search(text, 0, position)):
            continue
        return text[:position].rstrip()
    return text


def _start(text: str, position: int) -> int:
    """Where the text begins after white space and the tokens that open a turn."""
    found = _START.match(text, position)
    assert found is not None
    opened = _BEGIN_OF_TEXT.match(text, found.end())
    return found.end() if opened is None else _START.match(text, opened.end()).end()  # type: ignore[union-attr]
