"""The learning rate of every step: never 0 at the first, and transformers' own after warm-up."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import get_scheduler

from alpaca.config import AdapterConfig, OptimizerConfig
from alpaca.training.optimizers import build_optimizer, learning_rate_factor, peak_learning_rate, warmup_steps

SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("warmup", [0, 0.03, 0.5, 10])
def test_the_rate_is_transformers_own_after_warm_up(schedule: str, warmup: float):
    total, warm = 100, warmup_steps(warmup, 100)
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    expected = get_scheduler(SCHEDULES[schedule], optimizer, num_warmup_steps=warm, num_training_steps=total)
    factor = learning_rate_factor(schedule, warmup, total)
    for step in range(total):
        if step >= warm:
            assert factor(step) == pytest.approx(expected.get_last_lr()[0], abs=1e-12)
        optimizer.step()
        expected.step()


@given(st.sampled_from(list(SCHEDULES)), st.floats(0, 0.99) | st.integers(1, 50).map(float), st.integers(1, 500))
def test_no_step_trains_at_rate_zero_or_above_the_peak(schedule: str, warmup: float, total: int):
    factor = learning_rate_factor(schedule, warmup, total)
    assert all(0 < factor(step) <= 1 for step in range(total))


def test_three_percent_of_1219_steps_are_37_steps_of_warm_up():
    assert warmup_steps(0.03, 1219) == 37
    assert warmup_steps(100, 1219) == 100


def test_the_peak_rate_is_the_adapters_unless_one_is_given():
    adapter = AdapterConfig(default_lr=3e-4)
    assert peak_learning_rate(OptimizerConfig(lr_factor=0.5), adapter) == 1.5e-4
    assert peak_learning_rate(OptimizerConfig(lr=1e-5, lr_factor=0.5), adapter) == 1e-5


def test_norms_and_biases_are_not_decayed_and_frozen_weights_are_left_out():
    model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.LayerNorm(4), torch.nn.Linear(4, 2))
    model[2].requires_grad_(False)
    decayed, plain = build_optimizer(model, OptimizerConfig(weight_decay=0.1), 1e-3).param_groups
    assert (decayed["weight_decay"], [tuple(p.shape) for p in decayed["params"]]) == (0.1, [(4, 3)])
    assert (plain["weight_decay"], [tuple(p.shape) for p in plain["params"]]) == (0.0, [(4,), (4,), (4,)])
