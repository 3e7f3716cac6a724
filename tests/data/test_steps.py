"""The step plan: every example exactly `epochs` times, whatever the hardware; loads even, budgets kept."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca.data.steps import StepPlan, divide

plans = st.builds(
    StepPlan,
    examples=st.integers(1, 200),
    seed=st.integers(0, 5),
    epochs=st.integers(1, 4),
    global_batch_size=st.integers(1, 64),
)
lengths_of_a_step = st.lists(st.integers(1, 512), min_size=1, max_size=128).map(np.array)


def test_52002_rows_over_3_epochs_in_batches_of_128_take_1219_steps():
    plan = StepPlan(52_002, seed=0, epochs=3, global_batch_size=128)
    assert plan.steps == 1219
    assert len(plan.step_examples(1218)) == 3 * 52_002 - 1218 * 128


@given(plans)
def test_every_example_is_seen_exactly_once_in_each_epoch(plan: StepPlan):
    order = np.concatenate([plan.step_examples(step) for step in range(plan.steps)])
    for epoch in range(int(plan.epochs)):
        of_epoch = order[epoch * plan.examples : (epoch + 1) * plan.examples]
        assert sorted(of_epoch.tolist()) == list(range(plan.examples))
    assert len(order) == plan.examples * plan.epochs


@given(plans)
def test_every_step_is_a_full_global_batch_but_the_last(plan: StepPlan):
    sizes = [len(plan.step_examples(step)) for step in range(plan.steps)]
    assert set(sizes[:-1]) <= {plan.global_batch_size}
    assert 1 <= sizes[-1] <= plan.global_batch_size


def test_an_epoch_and_a_half_ends_in_the_middle_of_the_second():
    plan = StepPlan(10, seed=0, epochs=1.5, global_batch_size=4)
    seen = Counter(int(example) for step in range(plan.steps) for example in plan.step_examples(step))
    assert (plan.steps, sum(seen.values())) == (4, 15)
    assert sorted(seen.values()) == [1] * 5 + [2] * 5
    assert plan.epoch_after(plan.steps) == 1.5


def test_max_steps_stops_early_and_keeps_the_first_steps():
    whole, short = StepPlan(50, 3, 2, 8), StepPlan(50, 3, 2, 8, max_steps=4)
    assert short.steps == 4
    for step in range(4):
        np.testing.assert_array_equal(short.step_examples(step), whole.step_examples(step))


def test_epochs_and_seeds_differ_in_order():
    def first(seed: int) -> list[int]:
        return StepPlan(64, seed, 2, 64).step_examples(0).tolist()

    plan = StepPlan(64, 0, 2, 64)
    assert plan.step_examples(0).tolist() != plan.step_examples(1).tolist()
    assert first(0) != first(1)
    assert first(0) == first(0)


@given(lengths_of_a_step, st.integers(1, 8), st.integers(512, 4096))
def test_dividing_a_step_loses_no_example_and_keeps_the_budget(lengths: np.ndarray, ranks: int, budget: int):
    divided = divide(lengths, ranks, budget)
    placed = [int(member) for rank in divided for batch in rank for member in batch]
    assert sorted(placed) == list(range(len(lengths)))
    assert all(lengths[batch].sum() <= budget for rank in divided for batch in rank)


@given(lengths_of_a_step, st.integers(1, 8), st.integers(512, 4096))
def test_all_ranks_run_the_same_number_of_micro_batches(lengths: np.ndarray, ranks: int, budget: int):
    divided = divide(lengths, ranks, budget)
    assert len(divided) == ranks
    assert len({len(batches) for batches in divided}) == 1


@given(lengths_of_a_step, st.integers(1, 4))
def test_the_loads_of_micro_batches_differ_by_at_most_one_example(lengths: np.ndarray, ranks: int):
    loads = [int(lengths[batch].sum()) for rank in divide(lengths, ranks, 2048) for batch in rank]
    assert max(loads) - min(loads) <= int(lengths.max())


@given(plans, st.integers(1, 4), st.integers(1, 4), st.integers(512, 2048), st.integers(512, 2048))
def test_ranks_and_budget_never_change_the_examples_of_a_step(plan: StepPlan, a: int, b: int, small: int, large: int):
    lengths = np.random.default_rng(0).integers(1, 512, plan.examples)
    chosen = plan.step_examples(plan.steps - 1)

    def examples(ranks: int, budget: int) -> list[int]:
        divided = divide(lengths[chosen], ranks, budget)
        return sorted(int(chosen[member]) for rank in divided for batch in rank for member in batch)

    assert examples(a, small) == examples(b, large) == sorted(chosen.tolist())


def test_a_rank_without_an_example_gets_an_empty_micro_batch():
    divided = divide(np.array([10, 20]), 4, 512)
    assert [[len(batch) for batch in rank] for rank in divided] == [[1], [1], [0], [0]]


def test_an_example_above_the_budget_is_refused():
    with pytest.raises(ValueError, match="600 tokens does not fit a budget of 512"):
        divide(np.array([600]), 1, 512)
