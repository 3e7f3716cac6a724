"""The prompt around a row. The same object renders for training, evaluation, chat and export.

Rendering replaces `{instruction}` and `{input}` once, in one pass: braces, percent signs and template
marks inside the data come through untouched.
"""

import hashlib
import json
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

from alpaca.config import TemplateConfig
from alpaca.data.rows import Row

_PLACES = re.compile(r"\{(instruction|input)\}")


@dataclass(frozen=True)
class Template:
    """Two prompts and the strings that end an answer."""

    name: str
    prompt_with_input: str
    prompt_without_input: str
    stop: tuple[str, ...] = ()

    @classmethod
    def from_config(cls, config: TemplateConfig) -> "Template":
        """The template of a composed config; `modeling.tokenizer.template_for` adds a model's own chat marks."""
        return cls(config.name, config.prompt_with_input, config.prompt_without_input, tuple(config.stop))

    def prompt(self, row: Row) -> str:
        """The text the model is given for `row`; an input of white space alone counts as none."""
        values = {"instruction": row.instruction, "input": row.input}
        return _PLACES.sub(lambda place: values[place[1]], self._text(row))

    def pieces(self, row: Row) -> list[tuple[str, bool]]:
        """The prompt as (text, is it the row's own); joined they are `prompt(row)`."""
        values = {"instruction": row.instruction, "input": row.input}
        parts = _PLACES.split(self._text(row))
        return [(values[part] if place % 2 else part, bool(place % 2)) for place, part in enumerate(parts)]

    def literals(self) -> list[str]:
        """Every text of the template itself."""
        texts = (self.prompt_with_input, self.prompt_without_input)
        return [part for text in texts for part in _PLACES.split(text)[::2]]

    def wrapped(self, before: str, after: str) -> "Template":
        """The same prompts between two more literal texts."""
        with_input, without_input = self.prompt_with_input, self.prompt_without_input
        return replace(
            self,
            prompt_with_input=f"{before}{with_input}{after}",
            prompt_without_input=f"{before}{without_input}{after}",
        )

    def _text(self, row: Row) -> str:
        return self.prompt_with_input if row.input.strip() else self.prompt_without_input

    def hash(self) -> str:
        """SHA-256 of everything that changes a prompt or where an answer ends; stored with the model."""
        parts = [self.prompt_with_input, self.prompt_without_input, list(self.stop)]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    def settings(self) -> dict[str, Any]:
        """What `model/template.json` holds: enough to render the same prompts without the config."""
        return {**asdict(self), "stop": list(self.stop), "hash": self.hash()}
