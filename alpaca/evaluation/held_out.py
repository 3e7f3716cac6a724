"""The held-out rows of a run with their examples: what losses are measured on and short answers are made to."""

import hashlib
import json
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from alpaca.config import Config
from alpaca.data import sources
from alpaca.data.encoding import Examples
from alpaca.data.preparation import tokenised
from alpaca.data.rows import Row
from alpaca.data.split import split
from alpaca.data.templates import Template
from alpaca.modeling.tokenizer import text_encoder


@dataclass(frozen=True)
class HeldOut:
    """Held-out rows and their examples; `examples.rows` indexes `rows`."""

    rows: list[Row]
    examples: Examples
    template: Template
    tokenizer: PreTrainedTokenizerBase

    def content(self) -> str:
        """Hash of everything about the data that scores depend on."""
        parts = (self.examples.tokens.tobytes(), self.examples.offsets.tobytes(), self.template.hash().encode())
        texts = json.dumps([[row.instruction, row.input, row.output] for row in self.rows]).encode()
        return hashlib.sha256(b"\0".join((*parts, texts))).hexdigest()

    def response_bytes(self) -> np.ndarray:
        """(n,) UTF-8 bytes of each example's supervised text: the whole output, or what truncation left of it."""
        found = []
        for index in range(len(self.examples)):
            ids = self.examples.ids(index)
            text = self.rows[self.examples.rows[index]].output
            if ids[-1] != self.tokenizer.eos_token_id:
                text = str(self.tokenizer.decode(ids[self.examples.prompt_lengths[index] :].tolist()))
            found.append(len(text.encode("utf-8", "replace")))
        return np.array(found)


def load_held_out(
    config: Config, template: Template, tokenizer: PreTrainedTokenizerBase
) -> tuple[HeldOut | None, list[Row], str]:
    """The rows that a run with `config` holds out, None where it holds out none, and the source's content hash.

    Training rows are read, for the choice depends on them, but not tokenised.

    Raises:
        UserError: the data cannot be loaded.
    """
    source = sources.load(config.data_source)
    rows = split(source.rows, config.train.eval_rows).held_out
    examples = tokenised(rows, template, text_encoder(tokenizer), config.train) if rows else None
    found = HeldOut(rows, examples, template, tokenizer) if examples is not None and len(examples) else None
    return found, rows, source.content_hash
