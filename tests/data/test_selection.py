"""Held-out rows, the knobs, and the account of every row."""

import unicodedata
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca.config import DataSourceConfig, FilterConfig
from alpaca.data.mix import rows_of_parts
from alpaca.data.preparation import near_duplicates
from alpaca.data.rows import Row, example_id, normalise
from alpaca.data.selection import select
from alpaca.data.split import DUPLICATE_OF_HELD_OUT, split
from alpaca.errors import UserError

ROWS = [Row(f"Do thing {number}.", f"{number}" if number % 3 else "", f"Done {number}.") for number in range(200)]


def chosen(rows: list[Row], **knobs: object) -> tuple[list[Row], Counter[str]]:
    """The rows the knobs leave."""
    return select(rows, DataSourceConfig(**knobs), near_duplicates)


def test_held_out_rows_share_no_task_with_training_rows_also_among_duplicates() -> None:
    twice = [*ROWS, *(replace(row, instruction=f"  {row.instruction.upper()} ", output="again") for row in ROWS)]
    halves = split(twice, 20)
    held_out = {example_id(row) for row in halves.held_out}
    assert len(held_out) == len(halves.held_out) == 20
    assert not held_out & {example_id(row) for row in halves.train}
    assert halves.dropped == Counter({DUPLICATE_OF_HELD_OUT: 20})
    assert len(halves.train) + len(halves.held_out) + halves.dropped.total() == len(twice)


def test_held_out_rows_depend_on_their_text_alone() -> None:
    assert split(ROWS, 20).held_out == split(ROWS[::-1], 20).held_out
    assert set(split(ROWS, 10).held_out) < set(split(ROWS, 20).held_out)


def test_a_smaller_fraction_is_part_of_a_larger_one() -> None:
    tenth, quarter = chosen(ROWS, fraction=0.1)[0], chosen(ROWS, fraction=0.25)[0]
    assert (len(tenth), len(quarter)) == (20, 50)
    assert set(tenth) < set(quarter)
    assert chosen(ROWS, limit=20)[0] == tenth
    assert chosen(ROWS, fraction=0.25, limit=20)[0] == tenth


def test_the_shuffle_seed_draws_other_rows_in_the_order_of_the_source() -> None:
    zero, one = chosen(ROWS, limit=50)[0], chosen(ROWS, limit=50, shuffle_seed=1)[0]
    assert zero != one
    assert zero == sorted(zero, key=ROWS.index)


def test_rows_keep_their_place_when_others_are_filtered_away() -> None:
    half = set(chosen(ROWS, fraction=0.5)[0])
    kept = [row for row in ROWS if row not in half or row.input]
    assert set(chosen(kept, limit=50)[0]) <= half


def test_rows_are_chosen_by_their_input() -> None:
    with_input, dropped = chosen(ROWS, with_input="only")
    assert all(row.input for row in with_input)
    assert dropped.total() == 67
    assert [row for row in ROWS if not row.input] == chosen(ROWS, with_input="without")[0]


@pytest.mark.parametrize(
    ("bounds", "left"),
    [
        (FilterConfig(min_output=3), "abc"),
        (FilterConfig(max_output=2), ""),
        (FilterConfig(unit="characters", max_output=8), "a"),
        (FilterConfig(min_input=1), "b"),
        (FilterConfig(max_input=0), "ac"),
        (FilterConfig(min_instruction=2, max_instruction=2), "b"),
        (FilterConfig(unit="characters", min_instruction=4), "bc"),
    ],
)
def test_lengths_are_filtered_by_words_or_characters_ends_included(bounds: FilterConfig, left: str) -> None:
    rows = [Row("one", "", "a b c", 1), Row("one two", "x", "a b c ddd", 2), Row("four", " ", "a b c ddddd", 3)]
    if not left:
        with pytest.raises(UserError, match="none of 3 rows is left"):
            chosen(rows, filter=bounds)
        return
    kept, dropped = chosen(rows, filter=bounds)
    assert "".join("abc"[row.line - 1] for row in kept) == left
    assert dropped.total() == 3 - len(left)


def test_exact_duplicates_agree_in_all_normalised_texts() -> None:
    rows = [Row("Add 1 and 2.", "", "3"), Row(" add 1  and 2.", "", "３"), Row("Add 1 and 2.", "", "Three")]
    kept, dropped = chosen(rows, deduplicate="exact")
    assert kept == [rows[0], rows[2]]
    assert dropped == Counter({"equal to an earlier row (data_source.deduplicate)": 1})


def test_near_duplicate_prompts_are_dropped_above_the_threshold() -> None:
    rows = [
        Row("Name three large cities in the north of France", "", "a"),
        Row("Name four large cities in the north of France", "", "b"),
        Row("Rewrite the sentence.", "The cat sat.", "c"),
        Row("Rewrite the sentence.", "Nobody expected rain on that day.", "d"),
    ]
    kept, dropped = chosen(rows, deduplicate="rouge")
    assert kept == [rows[0], rows[2], rows[3]]
    assert list(dropped.values()) == [1]
    assert chosen(rows, deduplicate="rouge", rouge_threshold=0.95)[0] == rows


def test_clean_drops_a_row_by_its_first_defect() -> None:
    rows = [Row("Say a.", "", "a"), Row("Say nothing.", "<noinput>", ""), Row("Draw a cat.", "", "Here it is.")]
    kept, dropped = chosen(rows, clean=True)
    assert kept == rows[:1]
    assert dropped == Counter(
        {"defect: empty output (data_source.clean)": 1, "defect: image request (data_source.clean)": 1}
    )


def test_a_mix_keeps_its_shares_and_repeats_no_row() -> None:
    rows = [replace(row, source="a" if index < 50 else "b") for index, row in enumerate(ROWS)]
    kept, dropped = chosen(rows, mix={"a": 1.0, "b": 2.0})
    assert Counter(row.source for row in kept) == {"a": 50, "b": 100}
    assert dropped == Counter({"beyond its share (data_source.mix)": 50})
    assert Counter(row.source for row in chosen(rows, mix={"a": 2, "b": 1})[0]) == {"a": 50, "b": 25}
    assert chosen(rows, mix={"a": 1, "b": 2}, shuffle_seed=1)[0] != kept


@given(st.dictionaries(st.sampled_from("abc"), st.tuples(st.integers(1, 999), st.floats(0.01, 100)), min_size=1))
def test_shares_never_ask_for_more_rows_than_there_are(parts: dict[str, tuple[int, float]]) -> None:
    taken = rows_of_parts(
        {name: rows for name, (rows, _) in parts.items()}, {name: w for name, (_, w) in parts.items()}
    )
    assert all(1 <= taken[name] <= parts[name][0] for name in parts)
    assert any(taken[name] == parts[name][0] for name in parts)


TEXT = st.text(max_size=12)


@settings(deadline=None, max_examples=80)
@given(
    rows=st.lists(st.builds(Row, TEXT, TEXT, TEXT), min_size=1, max_size=30),
    eval_rows=st.integers(0, 5),
    fraction=st.none() | st.floats(0.01, 1),
    limit=st.none() | st.integers(1, 10),
    clean=st.booleans(),
    with_input=st.sampled_from(["any", "only", "without"]),
    deduplicate=st.sampled_from(["none", "exact", "rouge"]),
)
def test_rows_in_are_trained_evaluated_or_dropped_with_a_reason(rows, eval_rows, **knobs) -> None:
    try:
        halves = split(rows, eval_rows)
        kept, dropped = chosen(halves.train, **knobs)
    except UserError:  # too few tasks to hold out, or knobs that leave nothing
        few = eval_rows >= len({example_id(row) for row in rows})
        assert few or knobs["clean"] or knobs["with_input"] != "any"
        return
    assert len(rows) == len(kept) + len(halves.held_out) + (halves.dropped + dropped).total()
    assert all(count > 0 and reason for reason, count in (halves.dropped + dropped).items())


@given(st.text(st.characters(max_codepoint=127)))
def test_the_fast_way_to_normalise_ascii_agrees_with_the_rule(text: str) -> None:
    assert normalise(text) == " ".join(unicodedata.normalize("NFKC", text).casefold().split())
