"""A micro-batch holds its examples and nothing else: each can be read back from the flat sequence."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca.data.microbatch import MicroBatch, pack


@st.composite
def examples(draw: st.DrawFn) -> tuple[list[np.ndarray], list[int]]:
    """Up to eight examples over few tokens, whose prompts open alike in several ways."""
    openings = draw(st.lists(st.lists(st.integers(3, 6), max_size=40), min_size=1, max_size=3))
    ids, prompt_lengths = [], []
    for _ in range(draw(st.integers(1, 8))):
        opening = draw(st.sampled_from(openings))
        prompt = [*opening, *draw(st.lists(st.integers(3, 5), max_size=6)), 7]
        ids.append(np.array([*prompt, *draw(st.lists(st.integers(3, 9), max_size=6)), 2], dtype=np.int32))
        prompt_lengths.append(len(prompt))
    return ids, prompt_lengths


def read_back(batch: MicroBatch, example: int) -> tuple[list[int], list[int], list[int]]:
    """Tokens that the segment chain of one example sees, their positions, and its labels."""
    ends = np.cumsum(batch.segments.lengths)
    starts = ends - batch.segments.lengths
    labelled = batch.label_positions[batch.owners == example]
    leaf = int(np.searchsorted(ends, labelled[0], side="right"))
    seen = np.concatenate([np.arange(starts[part], ends[part]) for part in batch.segments.chain(leaf)])
    assert np.isin(labelled, np.arange(starts[leaf], ends[leaf])).all()
    labels = batch.labels[batch.owners == example].tolist()
    return batch.input_ids[seen].tolist(), batch.position_ids[seen].tolist(), labels


@pytest.mark.parametrize("share_prefix", [False, True])
@given(packed=examples())
def test_every_example_can_be_read_back_with_its_positions_and_labels(
    share_prefix: bool, packed: tuple[list[np.ndarray], list[int]]
):
    ids, prompt_lengths = packed
    batch = pack(ids, prompt_lengths, share_prefix=share_prefix)
    for example, (tokens, prompt) in enumerate(zip(ids, prompt_lengths, strict=True)):
        found, positions, labels = read_back(batch, example)
        assert found == tokens.tolist()
        assert positions == list(range(len(tokens)))
        assert labels == tokens[prompt:].tolist()


@pytest.mark.parametrize("share_prefix", [False, True])
@given(packed=examples())
def test_a_label_is_predicted_one_position_after_its_predecessor(
    share_prefix: bool, packed: tuple[list[np.ndarray], list[int]]
):
    ids, prompt_lengths = packed
    batch = pack(ids, prompt_lengths, share_prefix=share_prefix)
    for example, prompt in enumerate(prompt_lengths):
        at = batch.label_positions[batch.owners == example]
        assert batch.position_ids[at].tolist() == list(range(prompt - 1, len(ids[example]) - 1))
        assert batch.input_ids[at].tolist() == ids[example][prompt - 1 : -1].tolist()


@given(packed=examples())
def test_sharing_runs_fewer_tokens_and_counts_the_same_logical_ones(packed: tuple[list[np.ndarray], list[int]]):
    plain, shared = pack(*packed), pack(*packed, share_prefix=True)
    assert plain.logical == shared.logical == plain.executed == sum(map(len, packed[0]))
    assert shared.executed <= plain.executed
    assert sum(shared.segments.lengths) == shared.executed
    assert sorted(shared.labels.tolist()) == sorted(plain.labels.tolist())


@given(packed=examples())
def test_parents_come_before_their_children(packed: tuple[list[np.ndarray], list[int]]):
    segments = pack(*packed, share_prefix=True).segments
    assert all(parent < index for index, parent in enumerate(segments.parents))


def test_a_prefix_of_100_tokens_of_4_prompts_is_run_once():
    opening = list(range(10, 110))
    ids = [np.array([*opening, 200 + number, 201, 5, 2]) for number in range(4)]
    batch = pack(ids, [102] * 4, share_prefix=True)
    assert batch.executed == 100 + 4 * 4
    assert batch.segments.parents == (-1, 0, 0, 0, 0)


def test_equal_prompts_share_all_but_the_token_that_predicts_the_response():
    prompt = list(range(10, 50))
    batch = pack([np.array([*prompt, 7, 2]), np.array([*prompt, 8, 2])], [40, 40], share_prefix=True)
    assert batch.segments.lengths == (39, 3, 3)
    assert batch.labels.tolist() == [7, 2, 8, 2]


def test_an_empty_micro_batch_has_no_labels_and_one_token_to_run():
    batch = pack([], [])
    assert (batch.executed, batch.logical, len(batch.labels)) == (1, 0, 0)


def test_two_equal_prompts_share_also_among_rows_that_agree_on_their_first_token_only():
    prompt = np.concatenate([[1], np.arange(100, 200)])
    rows = [np.concatenate([prompt, [7, 8]]), np.concatenate([prompt, [9, 8]])]
    rows += [np.array([1, first, 50, 51, 8]) for first in range(300, 304)]
    batch = pack(rows, [101, 101, 4, 4, 4, 4], share_prefix=True)
    assert batch.executed == sum(map(len, rows)) - 100
