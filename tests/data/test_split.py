"""Held-out rows never overlap the training rows, by normalised text, and depend on nothing but the source."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca.data.rows import Row, example_id
from alpaca.data.split import DUPLICATE_OF_HELD_OUT, split
from alpaca.errors import UserError

words = st.sampled_from(["Name it", "name  IT", "Say so", "ＳＡＹ so", "count", "draw", "list", "tell"])
sources = st.lists(st.builds(Row, words, st.sampled_from(["", " ", "x", "X"]), st.text(max_size=3)), max_size=40)


@given(sources, st.integers(0, 6))
def test_no_training_row_asks_what_a_held_out_row_asks(rows: list[Row], eval_rows: int):
    if eval_rows >= len({example_id(row) for row in rows}):
        with pytest.raises(UserError, match=r"train\.eval_rows"):
            split(rows, eval_rows)
        return
    result = split(rows, eval_rows)
    held_out = {example_id(row) for row in result.held_out}
    assert held_out.isdisjoint(example_id(row) for row in result.train)
    assert len(result.held_out) == len(held_out) == eval_rows


@given(sources, st.integers(0, 3))
def test_every_row_is_trained_held_out_or_counted(rows: list[Row], eval_rows: int):
    if eval_rows >= len({example_id(row) for row in rows}):
        return
    result = split(rows, eval_rows)
    assert len(result.train) + len(result.held_out) + sum(result.dropped.values()) == len(rows)


def test_held_out_rows_depend_on_the_rows_and_not_on_their_order():
    rows = [Row(f"Question {number}", "", "answer") for number in range(50)]
    shuffled = random.Random(0).sample(rows, len(rows))
    expected = split(rows, 10).held_out
    assert split(shuffled, 10).held_out == expected
    assert split(rows, 4).held_out == expected[:4]


def test_case_unicode_form_and_white_space_do_not_make_another_task():
    assert example_id(Row("Ｎame  a\tFRUIT ", "", "apple")) == example_id(Row("name a fruit", " ", "pear"))
    assert example_id(Row("name a fruit", "red", "x")) != example_id(Row("name a fruit red", "", "x"))


def test_rows_of_a_held_out_task_are_counted_as_left_out():
    rows = [Row("one", "", "a"), Row("ONE", "", "b"), Row("two", "", "c"), Row("Two ", "", "d")]
    result = split(rows, 1)
    assert result.dropped == {DUPLICATE_OF_HELD_OUT: 1}
    assert len(result.train) == 2
