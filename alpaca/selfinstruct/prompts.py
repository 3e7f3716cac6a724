"""What a model is asked: new tasks from examples, a harder variant of a task, or another answer to one.

All wording is this project's. The requirements are those of the recipe (varied verbs and forms, text
only, English, short, concrete inputs, no input where none is needed). A list stops at its record
separator followed by the number after the last wanted one, never at a bare number such as "20.":
that stop cut outputs that count to twenty in the original data.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from alpaca.config import GenerationConfig
from alpaca.data.rows import Row
from alpaca.engines.exchange import Request

SEPARATOR = "###"
NO_INPUT = "<noinput>"
REQUIREMENTS = (
    "Vary the verbs: no two tasks of the list open in the same way.",
    "Vary the form: commands, plain questions, requests that give their reason.",
    "Vary the kind: free writing, classification, rewriting, extraction, explanation, planning, comparison, "
    "reasoning in steps, calculation, code, and whatever else people ask.",
    "A model that only reads and writes text must be able to do each task: nothing to see, hear or show, nothing to "
    "look up, nothing to book or to remember for later.",
    "Write in English.",
    "An instruction takes one or two sentences and stands on its own.",
    "Give an input where the task works on something: specific, realistic, written out, no placeholder, at most 100 "
    f"words. A task that needs none gets {NO_INPUT} as its input.",
    "The output does exactly what instruction and input ask, correctly, in at most 100 words where that is enough.",
)
TASKS_SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "tasks": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {name: {"type": "string"} for name in ("instruction", "input", "output")},
                "required": ["instruction", "input", "output"],
                "additionalProperties": False,
            },
        }
    },
    "required": ["tasks"],
    "additionalProperties": False,
}
OPERATIONS = {
    "constrain": "add one more condition or requirement that a good answer must meet",
    "deepen": "ask for more depth: the causes, limits or consequences of what it touches on",
    "specify": "replace what is general in it by something specific and concrete",
    "reason": "change it so that the answer needs several steps of reasoning",
    "branch": "write a new task of the same field that is rarer, and of about the same length",
}
_EVOLVE = (
    "Here is a task for a writing assistant, between the lines of dashes.\n\n-----\n{task}\n-----\n\n"
    "Make another task from it: {operation}. Keep it answerable by a model that only reads and writes text, in at "
    "most two or three sentences. Then do the task you made. Do not speak of the task above.\n\n"
    "Write exactly this, with nothing before or after:\n\n"
    f"1. Instruction: the task you made\n1. Input:\nwhat it works on, or {NO_INPUT}\n1. Output:\nthe full answer"
)


@dataclass(frozen=True)
class Sampling:
    """How a model is made to answer; the part of the settings that goes into every request."""

    max_tokens: int
    temperature: float
    top_p: float

    @classmethod
    def of(cls, filled: GenerationConfig) -> "Sampling":
        """From a resolved section."""
        assert filled.max_tokens is not None
        assert filled.temperature is not None
        assert filled.top_p is not None
        return cls(filled.max_tokens, filled.temperature, filled.top_p)

    def values(self) -> dict[str, Any]:
        """Keyword arguments of a `Request`."""
        return {"max_tokens": self.max_tokens, "temperature": self.temperature, "top_p": self.top_p}


def new_tasks(
    form: str, id: str, examples: Sequence[Row], tasks_per_request: int, sampling: Sampling, seed: int
) -> Request:
    """A request for the tasks `len(examples) + 1` to `tasks_per_request` of a list that opens with the examples."""
    common = {"id": id, "seed": seed, **sampling.values()}
    first, last = len(examples) + 1, tasks_per_request
    stop = (f"\n{SEPARATOR}\n{last + 1}.",)
    if form == "json":
        return Request(messages=_json_messages(examples, last - len(examples)), schema=TASKS_SCHEMA, **common)
    shown = "\n".join(f"{SEPARATOR}\n{as_record(number, row)}" for number, row in enumerate(examples, 1))
    if form == "compact":
        opening = "A list of varied tasks, each with its correct answer."
        stop = (f"\n{SEPARATOR}",) if first == last else stop
        return Request(prompt=f"{opening}\n\n{shown}\n{SEPARATOR}\n{first}. Instruction:", stop=stop, **common)
    wanted = f"Make a list of {last} varied tasks for a writing assistant, each with a correct answer."
    rules = "\n".join(f"{number}. {rule}" for number, rule in enumerate(REQUIREMENTS, 1))
    opening = f"{wanted}\n\nWhat every task must meet:\n{rules}"
    if form == "alpaca":
        text = f"{opening}\n\nThe list of {last} tasks:\n\n{shown}\n{SEPARATOR}\n{first}. Instruction:"
        return Request(prompt=text, stop=stop, **common)
    asked = (
        f"{opening}\n\nThe first {len(examples)} are done:\n\n{shown}\n\nGo on with the tasks {first} to {last} in the "
        f"same form: a line {SEPARATOR}, then number and label of each field as above. Write nothing else."
    )
    return Request(messages=({"role": "user", "content": asked},), stop=stop, **common)


def evolved(id: str, row: Row, operation: str, sampling: Sampling, seed: int, api: str) -> Request:
    """A request for a variant of `row` by one of `OPERATIONS`, with its answer."""
    task = row.instruction + (f"\n\nInput:\n{row.input}" if row.input.strip() else "")
    text = _EVOLVE.replace("{operation}", OPERATIONS[operation], 1).replace("{task}", task, 1)
    common = {"id": id, "seed": seed, **sampling.values()}
    if api == "completions":
        return Request(prompt=f"{text}\n\n1. Instruction:", stop=(f"\n{SEPARATOR}",), **common)
    return Request(messages=({"role": "user", "content": text},), **common)


def answer(id: str, row: Row, choices: int, sampling: Sampling, seed: int, api: str) -> Request:
    """A request for `choices` answers to the instruction and input of `row`."""
    common = {"id": id, "seed": seed, "choices": choices, **sampling.values()}
    if api == "completions":
        given = f"Input:\n{row.input}\n\n" if row.input.strip() else ""
        text = f"Do what the instruction says.\n\nInstruction:\n{row.instruction}\n\n{given}Answer:\n"
        return Request(prompt=text, stop=("\n\nInstruction:\n",), **common)
    text = row.instruction + (f"\n\n{row.input}" if row.input.strip() else "")
    return Request(messages=({"role": "user", "content": text},), **common)


def as_record(number: int, row: Row) -> str:
    """A task as the list writes it; `parsing.parse_list` reads it back."""
    given = row.input if row.input.strip() else NO_INPUT
    return f"{number}. Instruction: {row.instruction}\n{number}. Input:\n{given}\n{number}. Output:\n{row.output}"


def _json_messages(examples: Sequence[Row], wanted: int) -> tuple[dict[str, str], ...]:
    rules = "\n".join(f"{number}. {rule}" for number, rule in enumerate(REQUIREMENTS, 1)).replace(
        f"gets {NO_INPUT} as its input", "gets an empty text as its input"
    )
    tasks = [{"instruction": row.instruction, "input": row.input, "output": row.output} for row in examples]
    shown = json.dumps({"tasks": tasks}, ensure_ascii=False, indent=1)
    text = (
        f"Make {wanted} varied tasks for a writing assistant, each with a correct answer.\n\n"
        f"What every task must meet:\n{rules}\n\nExamples, not to be repeated:\n{shown}\n\n"
        f'Answer with one JSON object {{"tasks": [...]}} of {wanted} new tasks in the form of the examples.'
    )
    return ({"role": "user", "content": text},)
