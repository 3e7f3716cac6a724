"""A row: one `{instruction, input, output}` record, and what makes two rows the same task."""

import hashlib
import unicodedata
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a data source.

    Attributes:
        line: where it stands in its source, from 1: the line of a JSONL file, the position in a list.
        category: the source's own label, or "".
        source: which part of a mix it is from, or "".
    """

    instruction: str
    input: str
    output: str
    line: int = 0
    category: str = ""
    source: str = ""


def normalise(text: str) -> str:
    """Case, Unicode form and white space taken away: the form in which two texts count as the same."""
    if text.isascii():
        return " ".join(text.lower().split())  # the same, several times faster
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())


def example_id(row: Row) -> str:
    """Stable name of the task a row asks: 16 hexadecimal digits of its normalised instruction and input.

    Two rows with one id differ at most in their output; an id is never in both training and held-out rows.
    """
    key = f"{normalise(row.instruction)}\x1f{normalise(row.input)}"
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def task_text(row: Row) -> str:
    """What near-duplicates are decided on: the instruction, then the input."""
    return f"{row.instruction}\n{row.input}"
