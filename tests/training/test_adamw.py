"""Moments in bf16: half the memory, the update of AdamW on average, and no other random number touched."""

import torch

from alpaca.config import OptimizerConfig
from alpaca.training.adamw import Bf16AdamW, rounded_by_chance
from alpaca.training.optimizers import build_optimizer

SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.1}


def train(kind: type[torch.optim.Optimizer], steps: int, *, resume_at: int | None = None) -> torch.Tensor:
    """Weights after `steps` on noisy gradients of a quadratic; optionally through a saved state."""
    draw = torch.Generator().manual_seed(0)
    weights = torch.linspace(-2, 2, 500).requires_grad_()
    optimizer = kind([weights], **SETTINGS)
    for step in range(steps):
        if step == resume_at:
            saved = optimizer.state_dict()
            optimizer = kind([weights], **SETTINGS)
            optimizer.load_state_dict(saved)
        weights.grad = weights.detach() + 0.1 * torch.randn(500, generator=draw)
        optimizer.step()
    return weights.detach()


def test_updates_stay_near_those_of_adamw_with_fp32_moments():
    expected, found = train(torch.optim.AdamW, 200), train(Bf16AdamW, 200)
    assert 0 < float((found - expected).norm() / (torch.linspace(-2, 2, 500) - expected).norm()) < 0.01


def test_a_second_moment_moves_though_each_change_is_below_half_a_bf16_step():
    weights = torch.zeros(2000, requires_grad=True)
    optimizer = Bf16AdamW([weights], **SETTINGS)
    for size in [1.0] * 50 + [0.5] * 200:
        weights.grad = torch.full((2000,), size)
        optimizer.step()
    expected = (1 - 0.999**50) * 0.999**200 + 0.25 * (1 - 0.999**200)
    second = optimizer.state[weights]["exp_avg_sq"]
    assert second.dtype == torch.bfloat16
    assert abs(float(second.float().mean()) / expected - 1) < 0.01


def test_rounding_by_chance_is_right_on_average_and_keeps_what_bf16_holds():
    chance = torch.Generator().manual_seed(0)
    value = torch.tensor(1 + 2**-9)  # a quarter of the way to the next bf16 number, 1 + 2^-7
    rounded = rounded_by_chance(value.expand(100_000), chance).float()
    assert set(rounded.unique().tolist()) == {1.0, 1 + 2**-7}
    assert abs(float(rounded.mean()) - float(value)) < 1e-4
    exact = torch.randn(1000).to(torch.bfloat16)
    assert torch.equal(rounded_by_chance(exact.float(), chance), exact)


def test_a_saved_state_goes_on_bit_for_bit():
    assert torch.equal(train(Bf16AdamW, 40, resume_at=17), train(Bf16AdamW, 40))


def test_no_other_random_number_changes():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    train(Bf16AdamW, 3)
    assert torch.equal(torch.rand(3), expected)


def test_the_setting_chooses_the_storage_of_the_moments():
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        model = torch.nn.Linear(3, 4)
        optimizer = build_optimizer(model, OptimizerConfig(state_precision=precision), 1e-3)
        model(torch.ones(1, 3)).sum().backward()
        optimizer.step()
        assert {state["exp_avg_sq"].dtype for state in optimizer.state.values()} == {dtype}
