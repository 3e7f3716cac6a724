"""A few examples token by token, as the model sees them: text, special or not, trained or not."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from alpaca.data.encoding import Examples
from alpaca.data.rows import Row

SHOWN_TOKENS = 768  # of one example; the middle of a longer one is left out
CONTEXT = 16  # tokens decoded before a token to see what it adds
LONGEST_CHARACTER = 4  # bytes of a UTF-8 character, so the most tokens it can take
_INCOMPLETE = "\ufffd"  # how a tokenizer shows bytes that are no whole character yet
Decode = Callable[[list[int]], str]


@dataclass(frozen=True)
class Piece:
    """One token, or the few that make one character together.

    Attributes:
        text: what it stands for; a special token by its name.
        ids: its token ids.
        special: it is a special token (BOS, EOS) and not text.
        trained: it carries a label.
    """

    text: str
    ids: tuple[int, ...]
    special: bool
    trained: bool


@dataclass(frozen=True)
class ShownExample:
    """An example and why it was chosen.

    Attributes:
        place: where its row stands in its source: a line, after the name of the part in a mix.
        pieces: its tokens in order; the response begins at `pieces[response_start]`.
        left_out: tokens in the middle that are not shown; they were before `pieces[cut_at]`.
    """

    why: str
    place: str
    tokens: int
    supervised: int
    pieces: list[Piece]
    response_start: int
    left_out: int = 0
    cut_at: int = -1


def choose(
    rows: Sequence[Row], examples: Examples, count: int, *, eos: int | None, max_length: int
) -> list[tuple[int, str]]:
    """(index of an example, why): lengths from short to long, with and without input in turn, a truncated one last.

    `eos` is what a whole example ends with; None where none does, and then no truncated one can be told.
    """
    lengths = examples.lengths
    chosen: dict[int, str] = {}
    last: dict[int, str] = {}
    if count > 1 and examples.truncated and eos is not None:
        full = [index for index in np.flatnonzero(lengths == max_length).tolist() if examples.ids(index)[-1] != eos]
        last = dict.fromkeys(full[:1], "truncated: its response was cut, so it ends without EOS")
    has_input = np.array([bool(rows[row].input.strip()) for row in examples.rows])
    groups = [
        (name, members[np.argsort(lengths[members], kind="stable")])
        for name, members in (("with input", np.flatnonzero(has_input)), ("without input", np.flatnonzero(~has_input)))
        if len(members)
    ]
    wanted = count - len(last)
    for turn in range(wanted):
        name, members = groups[turn % len(groups)]
        quantile = (turn + 0.5) / wanted
        index = int(members[min(len(members) - 1, int(quantile * len(members)))])
        if index not in last:
            chosen.setdefault(index, f"{name}, longer than {quantile:.0%} of such examples")
    return [*chosen.items(), *last.items()]


def shown(
    index: int, why: str, rows: Sequence[Row], examples: Examples, decode: Decode, special: set[int]
) -> ShownExample:
    """Example `index` in pieces, with the labels training would give it."""
    ids = examples.ids(index).tolist()
    labels = np.arange(len(ids)) >= examples.first_labels[index]
    prompt = int(examples.prompt_lengths[index])
    half = SHOWN_TOKENS // 2
    left_out = max(0, len(ids) - SHOWN_TOKENS)
    spans = [(0, len(ids))] if not left_out else [(0, half), (len(ids) - half, len(ids))]
    found: list[Piece] = []
    response_start = cut_at = -1
    for start, end in spans:
        border = max(start, min(prompt, end))
        for first, last in ((start, border), (border, end)):
            if first >= prompt and response_start < 0:
                response_start = len(found)
            context = ids[max(0, first - CONTEXT) : first]
            found += pieces(ids[first:last], labels[first:last], decode, special, context)
        cut_at = len(found) if left_out and cut_at < 0 else cut_at
    row = rows[examples.rows[index]]
    place = f"{row.source}:{row.line}" if row.source else str(row.line)
    return ShownExample(why, place, len(ids), int(labels.sum()), found, response_start, left_out, cut_at)


def pieces(
    ids: Sequence[int],
    labels: Sequence[bool] | np.ndarray,
    decode: Decode,
    special: set[int],
    context: Sequence[int] = (),
) -> list[Piece]:
    """Token ids as text, token by token.

    A token's text is what it adds to the decoded text of the tokens before it (`context` comes before
    `ids`): decoded alone it would lose its leading space in some tokenizers. A character of several
    bytes may take several tokens, which then form one piece.
    """
    found: list[Piece] = []
    before = [token for token in context if token not in special]
    waiting: list[int] = []

    def flush(trained: bool) -> None:
        text = decode([*before, *waiting])[len(decode(before)) :] if before else decode(waiting)
        found.append(Piece(text, tuple(waiting), False, trained))
        before.extend(waiting)
        del before[:-CONTEXT], waiting[:]

    for place, token in enumerate(ids):
        if token in special:
            if waiting:
                flush(bool(labels[place - 1]))
            found.append(Piece(decode([token]), (token,), True, bool(labels[place])))
            before.clear()
            continue
        waiting.append(token)
        whole = not decode([*before, *waiting]).endswith(_INCOMPLETE)
        if whole or len(waiting) == LONGEST_CHARACTER or place + 1 == len(ids):
            flush(bool(labels[place]))
    return found
