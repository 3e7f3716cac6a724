"""Text of a page: escaped, harmless whatever a model wrote, short where it must be; and the letters of variants."""

import re
import unicodedata
from html import escape

_LINE_END = re.compile(r"\r\n?")
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")  # turn text around


def shown(text: str) -> str:
    """Text for an element or a quoted attribute."""
    return escape(visible(text))


def visible(text: str) -> str:
    """The text, where characters that cannot be seen, command a terminal, or turn others around, are named."""
    plain = _LINE_END.sub("\n", text)
    if not plain.isprintable():
        plain = "".join(f"\\x{ord(c):02x}" if _hidden(c) else c for c in plain)
    return plain


def clipped(text: str, most: int) -> str:
    """Its beginning, with how much was left out."""
    return text if len(text) <= most else f"{text[:most]} … [{len(text) - most:,} more characters]"


def mark(index: int) -> str:
    """A, B, ... Z, AA, AB, ...: what a variant is called in drawings."""
    letters = ""
    number = index + 1
    while number:
        number, rest = divmod(number - 1, 26)
        letters = chr(ord("A") + rest) + letters
    return letters


def _hidden(character: str) -> bool:
    if character in "\n\t":
        return False
    return character in _BIDI or unicodedata.category(character) in ("Cc", "Cs")
