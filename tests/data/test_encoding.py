"""The boundary rule, the mask and the account of every row, for every template and four tokenizers."""

from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from spelling import spelt, writable
from test_templates import NAMES, composed
from transformers import PreTrainedTokenizerBase

from alpaca.config import TemplateConfig
from alpaca.data import encoding
from alpaca.data.encoding import NO_LABEL, PROMPT_FILLS_LENGTH, TOO_LONG, Examples, TextEncoder, encode
from alpaca.data.microbatch import pack
from alpaca.data.rows import Row
from alpaca.data.templates import Template
from alpaca.errors import UserError
from alpaca.modeling.tokenizer import template_for, text_encoder

CHAT = TemplateConfig("tokenizer", "{instruction}\n\n{input}", "{instruction}", [], True)
HARD = [
    Row("Add.", "", " 12 and 7"),
    Row("Say it.", "x", "\n\n  indented"),
    Row("Emoji?", "🦙", "🦙👩‍👩‍👧 é e\u0301"),
    Row("Nothing.", "", ""),
    Row("Digits", "", "1234567890"),
    Row("Ends in space ", " and so does this ", " "),
    Row("中文", "Ελληνικά", "עברית ქართული"),
    Row("tab\tnew\nline\r\n", "\x0b", "\x00\x7f\u2028"),
]


TEXT = st.text(max_size=60)
QUICK = settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)
ENCODERS: dict[int, TextEncoder] = {}  # session tokenizers live as long as the tests


def encoded(
    tokenizer: PreTrainedTokenizerBase, rows: list[Row], template: Template | None = None, **how: Any
) -> Examples:
    """`rows` under a template, by default plain, without a length limit unless given."""
    template = template or Template("t", "{instruction}\n{input}\n", "{instruction}\n")
    if id(tokenizer) not in ENCODERS:
        ENCODERS[id(tokenizer)] = text_encoder(tokenizer)
    encoder = ENCODERS[id(tokenizer)]
    return encode(rows, template, encoder, **{"max_length": 1 << 20, "over_length": "error", **how})


def asked(tokenizer: PreTrainedTokenizerBase, template: Template, rows: list[Row]) -> list[list[int]]:
    """What inference feeds: the tokenizer's ordinary call on the prompt, BOS by its habit."""
    bos = tokenizer.bos_token
    doubled = [bool(bos) and template.prompt(row).startswith(bos) for row in rows]
    called = tokenizer([template.prompt(row) for row in rows])["input_ids"]
    return [ids[1:] if twice and ids[:2] == [tokenizer.bos_token_id] * 2 else ids
            for ids, twice in zip(called, doubled, strict=True)]  # fmt: skip


def check_boundary(tokenizer: PreTrainedTokenizerBase, template: Template, rows: list[Row]) -> None:
    """Trained tokens spell the response and EOS; the prompt is what inference feeds; labels are just that."""
    examples = encoded(tokenizer, rows, template)
    assert len(examples) == len(rows)
    prompts = asked(tokenizer, template, rows)
    for index, row in enumerate(rows):
        ids, prompt = examples.ids(index).tolist(), examples.prompt(index).tolist()
        trained = ids[len(prompt) :]
        assert trained[-1] == tokenizer.eos_token_id
        assert spelt(tokenizer, trained[:-1]) == row.output
        assert prompt == prompts[index]
    batch = pack([examples.ids(index) for index in range(len(rows))], examples.prompt_lengths.tolist())
    starts = examples.offsets[:-1] + examples.prompt_lengths
    expected = [examples.tokens[start:end] for start, end in zip(starts, examples.offsets[1:], strict=True)]
    assert np.array_equal(batch.labels, np.concatenate(expected))
    assert np.array_equal(batch.labels, batch.input_ids[batch.label_positions + 1])


def template_of(name: str, tokenizer: PreTrainedTokenizerBase) -> Template:
    """Any template, the tokenizer's own included."""
    return template_for(tokenizer, CHAT) if name == "tokenizer" else composed(name)


@pytest.mark.parametrize("name", NAMES)
def test_every_part_of_hard_rows_is_exact(tokenizer: PreTrainedTokenizerBase, name: str) -> None:
    check_boundary(tokenizer, template_of(name, tokenizer), HARD)


@pytest.mark.parametrize("name", NAMES)
def test_every_part_of_real_rows_is_exact(tokenizer: PreTrainedTokenizerBase, sample: list[Row], name: str) -> None:
    check_boundary(tokenizer, template_of(name, tokenizer), sample[NAMES.index(name) :: 30])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_every_part_of_all_real_rows_is_exact(tokenizer: PreTrainedTokenizerBase, sample: list[Row], name: str) -> None:
    check_boundary(tokenizer, template_of(name, tokenizer), sample)


@QUICK
@given(rows=st.lists(st.builds(Row, TEXT, TEXT, TEXT), min_size=1, max_size=4))
def test_any_text_comes_back_from_its_tokens(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> None:
    rows = [replace(row, output=writable(tokenizer, row.output)) for row in rows]
    examples = encoded(tokenizer, rows)
    for index, row in enumerate(rows):
        assert spelt(tokenizer, examples.ids(index)[examples.prompt_lengths[index] : -1].tolist()) == row.output


def test_bos_comes_once_where_the_tokenizer_has_the_habit(sentence_piece, prepending, byte_level) -> None:
    for tokenizer in (sentence_piece, prepending):
        for template in (None, Template("bos", "<s>{instruction}{input}", "<s>{instruction}")):
            ids = encoded(tokenizer, HARD[:1], template).ids(0).tolist()
            assert ids[0] == tokenizer.bos_token_id
            assert ids.count(tokenizer.bos_token_id) == 1
    assert byte_level.bos_token_id not in encoded(byte_level, HARD[:1]).ids(0).tolist()


def test_special_tokens_spelt_in_a_row_stay_text(tokenizer: PreTrainedTokenizerBase) -> None:
    eos = tokenizer.eos_token
    marks = [token.content for token in tokenizer.added_tokens_decoder.values() if token.special]
    spelling = " ".join(marks)
    row = Row(f"Explain {spelling}", f"{spelling} here", f"{eos} ends it, {spelling} too")
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    for template in (composed("alpaca"), template_for(tokenizer, CHAT)):
        examples = encoded(tokenizer, [row, replace(row, instruction="Explain", input="")], template)
        in_template = [index for index in examples.prompt(1).tolist() if index in special]
        assert [index for index in examples.prompt(0).tolist() if index in special] == in_template
        response = examples.ids(0)[examples.prompt_lengths[0] :].tolist()
        assert [index for index in response if index in special] == [tokenizer.eos_token_id]
        assert spelt(tokenizer, response[:-1]) == row.output


def test_the_marks_of_a_chat_template_are_tokens(tokenizer: PreTrainedTokenizerBase) -> None:
    template = template_for(tokenizer, CHAT)
    special = {index for index, token in tokenizer.added_tokens_decoder.items() if token.special}
    prompt = encoded(tokenizer, HARD[:1], template).prompt(0).tolist()
    assert sum(index in special for index in prompt) >= 3


def test_a_truncated_row_has_no_eos_and_is_counted(byte_level: PreTrainedTokenizerBase) -> None:
    rows = [Row("Count.", "", "one two three four five six seven eight nine ten"), Row("Say.", "", "a")]
    whole = encoded(byte_level, rows)
    limit = int(whole.lengths[0]) - 3
    cut = encoded(byte_level, rows, max_length=limit, over_length="truncate")
    assert cut.ids(0).tolist() == whole.ids(0)[:limit].tolist()
    assert byte_level.eos_token_id not in cut.ids(0).tolist()
    assert cut.ids(1).tolist() == whole.ids(1).tolist()
    assert (cut.truncated, cut.dropped) == (1, Counter())


def test_a_row_that_just_fits_keeps_its_eos(byte_level: PreTrainedTokenizerBase) -> None:
    row = [Row("Count.", "", "one two three")]
    whole = encoded(byte_level, row)
    fits = encoded(byte_level, row, max_length=int(whole.lengths[0]), over_length="truncate")
    assert fits.ids(0)[-1] == byte_level.eos_token_id
    assert fits.truncated == 0
    without_eos = encoded(byte_level, row, max_length=int(whole.lengths[0]) - 1, over_length="truncate")
    assert without_eos.ids(0)[-1] != byte_level.eos_token_id
    assert without_eos.truncated == 1


def test_a_long_row_is_dropped_or_an_error_as_asked(byte_level: PreTrainedTokenizerBase) -> None:
    rows = [Row("Count.", "", "one two three four five six", 7), Row("x" * 400, "", "a", 8), Row("Say.", "", "a", 9)]
    limit = int(encoded(byte_level, rows).lengths[0]) - 1
    dropped = encoded(byte_level, rows, max_length=limit, over_length="drop")
    assert dropped.rows.tolist() == [2]
    assert dropped.dropped == Counter({TOO_LONG: 1, PROMPT_FILLS_LENGTH: 1})
    with pytest.raises(UserError, match=rf"row 7: {limit + 1} tokens, train.max_length={limit}"):
        encoded(byte_level, rows, max_length=limit, over_length="error")
    with pytest.raises(UserError, match="no row is left"):
        encoded(byte_level, rows[1:2], max_length=20, over_length="truncate")


def test_without_trained_eos_nothing_ends_with_it(byte_level: PreTrainedTokenizerBase) -> None:
    examples = encoded(byte_level, HARD, train_on_eos=False)
    assert examples.dropped == Counter({NO_LABEL: 1})
    assert byte_level.eos_token_id not in examples.tokens.tolist()
    assert (examples.supervised > 0).all()


def test_with_trained_prompts_every_token_but_the_first_is_a_label(sentence_piece: PreTrainedTokenizerBase) -> None:
    examples = encoded(sentence_piece, HARD, composed("alpaca"), train_on_prompt=True)
    batch = pack(
        [examples.ids(index) for index in range(len(HARD))],
        examples.prompt_lengths.tolist(),
        share_prefix=True,
        first_labels=examples.first_labels.tolist(),
    )
    expected = np.concatenate([examples.ids(index)[1:] for index in range(len(HARD))])
    assert np.array_equal(batch.labels, expected)
    assert len(batch.segments.lengths) == len(HARD), "prefixes with labels may not be shared"
    assert examples.supervised.sum() == len(expected)


def test_an_empty_prompt_gives_no_label_to_the_first_token(byte_level: PreTrainedTokenizerBase) -> None:
    examples = encoded(
        byte_level, [Row("", "", "ab"), Row("", "", "")], Template("bare", "{instruction}", "{instruction}")
    )
    assert examples.dropped == Counter({NO_LABEL: 1})
    assert examples.first_labels.tolist() == [1]


@QUICK
@given(
    rows=st.lists(st.builds(Row, st.text(max_size=30), st.text(max_size=30), st.text(max_size=60)), max_size=8),
    max_length=st.integers(8, 60),
    over_length=st.sampled_from(["truncate", "drop"]),
    train_on_prompt=st.booleans(),
    train_on_eos=st.booleans(),
)
def test_no_row_is_lost_and_every_example_has_a_label(
    byte_level, rows, max_length, over_length, train_on_prompt, train_on_eos
):
    how = {"max_length": max_length, "over_length": over_length}
    try:
        examples = encoded(byte_level, rows, train_on_prompt=train_on_prompt, train_on_eos=train_on_eos, **how)
    except UserError:
        assert rows, "no rows are no error"
        return
    assert len(examples) + sum(examples.dropped.values()) == len(rows)
    assert (examples.supervised > 0).all()
    assert (examples.lengths <= max_length).all()
    ends = examples.tokens[examples.offsets[1:] - 1] == byte_level.eos_token_id
    assert (~ends).sum() == (examples.truncated if train_on_eos else len(examples))
    whole = encoded(byte_level, rows, train_on_prompt=train_on_prompt, train_on_eos=train_on_eos) if rows else examples
    at = {row: place for place, row in enumerate(whole.rows.tolist())}
    for place, row in enumerate(examples.rows.tolist()):
        assert examples.ids(place).tolist() == whole.ids(at[row])[: examples.lengths[place]].tolist()


def test_the_rows_of_a_large_source_are_encoded_in_chunks(byte_level: PreTrainedTokenizerBase, monkeypatch) -> None:
    rows = [Row(f"Say {number}.", "", str(number)) for number in range(50)]
    whole = encoded(byte_level, rows)
    monkeypatch.setattr(encoding, "CHUNK", 7)
    parts = encoded(byte_level, rows)
    assert np.array_equal(whole.tokens, parts.tokens)
    assert np.array_equal(whole.offsets, parts.offsets)
