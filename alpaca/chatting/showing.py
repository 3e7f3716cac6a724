"""Text of a model on a terminal."""

import re

_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def printable(text: str) -> str:
    """The same without characters that would command the terminal; lines and tabs stay."""
    return _CONTROL.sub("\ufffd", text)
