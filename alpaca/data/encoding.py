"""Rows to tokens with a mask: what is trained is exactly what inference asks for.

The boundary rule: prompt and response are tokenised apart. The prompt is encoded as at inference, with
the tokenizer's own opening token (BOS) if it adds one by habit. The response is encoded without
special tokens and without the space some tokenizers put before a text, so leading white space is the
response's own, and ends with EOS. No label sits on a prompt token, unless prompts are trained too.
Text of a row that spells a special token stays text, in the prompt and in the response; special tokens
come from the template alone.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import chain

import numpy as np

from alpaca.data.rows import Row
from alpaca.data.templates import Template
from alpaca.errors import UserError

PROMPT_FILLS_LENGTH = "prompt alone reaches train.max_length"
TOO_LONG = "longer than train.max_length"
NO_LABEL = "empty output with train.train_on_eos=false"

CHUNK = 4096  # texts tokenised at once: keeps the tokenizer's own objects to some tens of MB

Encode = Callable[[list[str]], list[list[int]]]
Pieces = Sequence[tuple[str, bool]]


@dataclass(frozen=True)
class TextEncoder:
    """What this room needs of a tokenizer; `modeling/tokenizer.py` makes one.

    Attributes:
        prompts: texts to token ids, BOS included where the tokenizer has the habit; text is only text.
        responses: texts to token ids, no special token and no dummy space added.
        eos: id that ends a response.
        marked_prompts: the same as `prompts` for prompts in pieces (text, is it the row's own), where
            special tokens spelt in pieces that are not the row's own are tokens.
        spells_special: whether a text holds a special token.
        fingerprint: hash of everything that decides the tokens.
    """

    prompts: Encode
    responses: Encode
    eos: int
    marked_prompts: Callable[[list[Pieces]], list[list[int]]]
    spells_special: Callable[[str], bool]
    fingerprint: str


@dataclass(frozen=True)
class Examples:
    """Tokenised rows in flat arrays.

    Attributes:
        tokens: (total,) int32, all examples one after another.
        offsets: (n + 1,) int64, example i is `tokens[offsets[i]:offsets[i + 1]]`.
        prompt_lengths: (n,) int32, tokens of the prompt; the rest is response.
        rows: (n,) int32, index of the row each example came from.
        truncated: number of examples whose response was cut (they end without EOS).
        dropped: reason to number of rows that became no example.
        prompts_trained: labels sit on the tokens of prompts too, from the second token on.
    """

    tokens: np.ndarray
    offsets: np.ndarray
    prompt_lengths: np.ndarray
    rows: np.ndarray
    truncated: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    prompts_trained: bool = False

    def __len__(self) -> int:
        return len(self.prompt_lengths)

    @property
    def lengths(self) -> np.ndarray:
        """(n,) int64, tokens of each example."""
        return np.diff(self.offsets)

    @property
    def first_labels(self) -> np.ndarray:
        """(n,) int32, the first token of each example that is a label; all after it are. Token 0 never is."""
        return np.ones_like(self.prompt_lengths) if self.prompts_trained else np.maximum(self.prompt_lengths, 1)

    @property
    def supervised(self) -> np.ndarray:
        """(n,) int64, tokens with a label of each example."""
        return self.lengths - self.first_labels

    def ids(self, index: int) -> np.ndarray:
        """Token ids of one example."""
        return self.tokens[self.offsets[index] : self.offsets[index + 1]]

    def prompt(self, index: int) -> np.ndarray:
        """Token ids of one example's prompt."""
        return self.ids(index)[: self.prompt_lengths[index]]


@dataclass(frozen=True)
class _Texts:
    """Encoded texts: `tokens` (total,) int32 one after another, `lengths` (n,) int64."""

    tokens: np.ndarray
    lengths: np.ndarray


def encode(
    rows: Sequence[Row],
    template: Template,
    encoder: TextEncoder,
    *,
    max_length: int,
    over_length: str,
    train_on_prompt: bool = False,
    train_on_eos: bool = True,
) -> Examples:
    """Tokenise `rows`; a longer one is truncated at the end of its response, dropped or an error.

    A truncated response carries no EOS, so that nothing is taught to stop where it does not. A row
    whose prompt alone fills `max_length` has no response to train and is dropped by `truncate` and
    `drop`. Without `train_on_eos` no example ends with EOS, and a row with an empty output has no label.

    Raises:
        UserError: `over_length` is `error` and a row is longer; or no row is left.
    """
    prompts = _flat(rows, lambda part: encode_prompts(part, template, encoder))
    responses = _flat(rows, lambda part: encoder.responses([row.output for row in part]))
    answer = responses.lengths + int(train_on_eos)
    longer = prompts.lengths + answer > max_length
    if over_length == "error" and longer.any():
        first = int(np.flatnonzero(longer)[0])
        raise UserError(
            f"row {rows[first].line}: {prompts.lengths[first] + answer[first]} tokens, train.max_length={max_length}; "
            "raise it, or set train.over_length=truncate or drop"
        )
    filled = longer & (prompts.lengths >= max_length)
    too_long = longer & ~filled if over_length == "drop" else np.zeros_like(longer)
    unlabelled = (np.maximum(prompts.lengths, 1) >= prompts.lengths + answer) & ~filled & ~too_long
    kept = ~(filled | too_long | unlabelled)
    reasons = {PROMPT_FILLS_LENGTH: filled, TOO_LONG: too_long, NO_LABEL: unlabelled}
    dropped = Counter({reason: int(chosen.sum()) for reason, chosen in reasons.items() if chosen.any()})
    if len(rows) and not kept.any():
        raise UserError(
            f"train.max_length={max_length}: no row is left "
            f"({', '.join(f'{count} {reason}' for reason, count in dropped.items())}); the shortest prompt has "
            f"{int(prompts.lengths.min())} tokens, raise train.max_length above that"
        )
    return _laid_out(
        prompts, responses, kept, max_length, encoder.eos if train_on_eos else None, dropped, train_on_prompt
    )


def encode_prompts(rows: Sequence[Row], template: Template, encoder: TextEncoder) -> list[list[int]]:
    """Token ids of each row's prompt: what inference feeds, in training, evaluation and chat alike."""
    if any(encoder.spells_special(text) for text in template.literals()):
        return encoder.marked_prompts([template.pieces(row) for row in rows])
    return encoder.prompts([template.prompt(row) for row in rows])


def _flat(rows: Sequence[Row], encoded: Callable[[Sequence[Row]], list[list[int]]]) -> _Texts:
    tokens, lengths = [np.zeros(0, np.int32)], [np.zeros(0, np.int64)]
    for start in range(0, len(rows), CHUNK):
        ids = encoded(rows[start : start + CHUNK])
        sizes = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        lengths.append(sizes)
        tokens.append(np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(sizes.sum())))
    return _Texts(np.concatenate(tokens), np.concatenate(lengths))


def _laid_out(
    prompts: _Texts,
    responses: _Texts,
    kept: np.ndarray,
    max_length: int,
    eos: int | None,
    dropped: Counter[str],
    train_on_prompt: bool,
) -> Examples:
    """The kept examples one after another: prompt, response, EOS, cut at `max_length`."""
    chosen = np.flatnonzero(kept)
    prompt_lengths, whole = prompts.lengths[chosen], responses.lengths[chosen]
    lengths = np.minimum(prompt_lengths + whole + (eos is not None), max_length)
    taken = np.minimum(whole, lengths - prompt_lengths)
    offsets = np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])
    tokens = np.empty(int(offsets[-1]), np.int32)
    for texts, sizes, target in (
        (prompts, prompt_lengths, offsets[:-1]),
        (responses, taken, offsets[:-1] + prompt_lengths),
    ):
        source = (np.cumsum(texts.lengths) - texts.lengths)[chosen]
        within = np.arange(int(sizes.sum())) - np.repeat(np.cumsum(sizes) - sizes, sizes)
        tokens[np.repeat(target, sizes) + within] = texts.tokens[np.repeat(source, sizes) + within]
    if eos is not None:
        tokens[(offsets[1:] - 1)[prompt_lengths + whole + 1 == lengths]] = eos
    return Examples(
        tokens=tokens,
        offsets=offsets,
        prompt_lengths=prompt_lengths.astype(np.int32),
        rows=chosen.astype(np.int32),
        truncated=int((prompt_lengths + whole + (eos is not None) > lengths).sum()),
        dropped=dropped,
        prompts_trained=train_on_prompt,
    )
