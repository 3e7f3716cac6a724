"""The tokens a question is asked with: those of training, and how earlier turns stand before them.

A question alone is encoded as its row was in training. Earlier turns come as training examples one after
another, prompt, answer and EOS each, then the new prompt; the exported chat template repeats the same pattern.
A model with a chat template of its own gets all turns as messages in it instead. Text of a question or
an answer that spells a special token stays text in both.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from alpaca.chatting.opening import Speaker
from alpaca.data.encoding import encode_prompts
from alpaca.data.rows import Row
from alpaca.engines.protocol import sound
from alpaca.errors import UserError
from alpaca.modeling.tokenizer import opening_tokens, render_chat

Pieces = list[tuple[str, bool]]  # text, and whether it is the conversation's own


@dataclass(frozen=True)
class Turn:
    """A question that was answered."""

    row: Row
    answer: str


def question(text: str, given: str = "") -> Row:
    """The row that asks `text` with the input `given`; what is no text in them becomes a mark."""
    return Row(sound(text), sound(given), "")


def prompt_ids(speaker: Speaker, row: Row, earlier: Sequence[Turn] = (), *, system: str = "") -> list[int]:
    """Token ids to continue.

    Args:
        earlier: turns before it, oldest first.
        system: a system message, for a model with a chat template of its own.

    Raises:
        UserError: a system message for any other model, or a chat template that cannot hold these turns.
    """
    if speaker.prompting.message is not None and (earlier or system):
        (ids,) = speaker.encoder.marked_prompts([_messages(speaker, row, earlier, system)])
        return ids
    if system:
        raise UserError("this model was trained on user and assistant messages only; leave the system message out")
    rows = [*(turn.row for turn in earlier), row]
    first, *others = encode_prompts(rows, speaker.prompting.template, speaker.encoder)
    answers = speaker.encoder.responses([turn.answer for turn in earlier])
    opening = len(opening_tokens(speaker.tokenizer))
    ids = list(first)
    for answer, following in zip(answers, others, strict=True):
        ids += [*answer, speaker.encoder.eos, *following[opening:]]
    return ids


def prompt_text(speaker: Speaker, row: Row, earlier: Sequence[Turn] = ()) -> str:
    """The same as text, special tokens included."""
    if speaker.prompting.message is not None and earlier:
        return "".join(text for text, _ in _messages(speaker, row, earlier, ""))
    template, eos = speaker.prompting.template, str(speaker.tokenizer.eos_token)
    return "".join(template.prompt(turn.row) + turn.answer + eos for turn in earlier) + template.prompt(row)


def _messages(speaker: Speaker, row: Row, earlier: Sequence[Turn], system: str) -> Pieces:
    """All turns in the model's own chat template, which is rendered around marks and filled afterwards."""
    content, template = speaker.prompting.message, speaker.prompting.template
    assert content is not None
    texts: list[tuple[str, Pieces]] = [("system", [(system, True)])] if system else []
    for turn in earlier:
        texts += [("user", content.pieces(turn.row)), ("assistant", [(turn.answer, True)])]
    texts.append(("user", content.pieces(row)))
    marks = [f"\u2042{place}\u2042" for place in range(len(texts))]
    messages = [{"role": role, "content": mark} for (role, _), mark in zip(texts, marks, strict=True)]
    try:
        rendered = render_chat(speaker.tokenizer, messages)
    except Exception as error:
        reason = next(iter(str(error).splitlines()), "")[:160]
        raise UserError(f"template {template.name}: the model's chat template refuses these turns ({reason})") from None
    pieces, rest = [], rendered
    for mark, (_, filled) in zip(marks, texts, strict=True):
        before, found, rest = rest.partition(mark)
        if not found or mark in rest:
            raise UserError(f"template {template.name}: the model's chat template leaves out or repeats earlier turns")
        pieces += [(before, False), *filled]
    return [*pieces, (rest, False)]
