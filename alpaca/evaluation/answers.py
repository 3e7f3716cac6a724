"""What an evaluation hands on to be judged: one answer to one task."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """An answer of the model that is evaluated.

    Attributes:
        id: the task's stable id (`alpaca.data.rows.example_id`), by which answers of several models are paired.
        dataset: the part of the instruction set the task is from, or "".
        generator: name of the model or run that answered, or "".
    """

    id: str
    instruction: str
    input: str
    output: str
    dataset: str = ""
    generator: str = ""
