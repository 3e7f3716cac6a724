"""Every optimizer learns, goes on bit for bit from its saved state, decays what it should; the rate of each step."""

from pathlib import Path
from typing import Any

import pytest
import torch
from commands import CHECKOUT
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf
from tiny_models import CPU, FULL, LORA, build, family
from transformers import get_scheduler

from alpaca.config import AdapterConfig, Config, OptimizerConfig
from alpaca.planning.memory import state_bytes
from alpaca.training.checkpoint import Checkpoints, Reader
from alpaca.training.lion import Lion
from alpaca.training.loop import LossScale, Progress
from alpaca.training.metering import Meter
from alpaca.training.muon import MUON
from alpaca.training.optimizers import (
    build_optimizer,
    learning_rate_factor,
    peak_learning_rate,
    warmup_steps,
)
from alpaca.training.parameter_groups import parameter_groups
from alpaca.training.schedule_free import ScheduleFreeAdamW, averaged, settle
from alpaca.training.state import facts_of, restore, tensors_of
from alpaca.training.world import World

SHIPPED = {
    file.stem: OptimizerConfig(**OmegaConf.to_object(OmegaConf.load(file)))
    for file in sorted((CHECKOUT / "conf/optimizer").glob("*.yaml"))
}
SHIPPED["adamw, state in bf16"] = OptimizerConfig(name="adamw", state_precision="bf16")
SCHEDULES = {"cosine": "cosine", "linear": "linear", "constant": "constant_with_warmup"}
IDS = torch.arange(3, 83).view(2, 40)
LEARNER = family("llama", hidden_size=64, vocab_size=128)  # an embedding above the 4,096 weights that 8 bits begin at
every_optimizer = pytest.mark.parametrize("optimizer", SHIPPED.values(), ids=SHIPPED)


def learn(model: Any, optimizer: torch.optim.Optimizer, steps: int) -> list[float]:
    """Losses before each of `steps` steps on the same two sequences."""
    losses = []
    for _ in range(steps):
        loss = model(input_ids=IDS, labels=IDS).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def started(config: OptimizerConfig, adapter: AdapterConfig = FULL) -> tuple[Any, torch.optim.Optimizer]:
    model = build(LEARNER, adapter, implementation="sdpa")
    optimizer = build_optimizer(model, config, peak_learning_rate(config, AdapterConfig(default_lr=1e-3)))
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    return model, optimizer


@every_optimizer
def test_every_optimizer_lowers_the_loss_in_ten_steps(optimizer: OptimizerConfig):
    losses = learn(*started(optimizer), 10)
    assert losses[-1] < 0.95 * losses[0]


@pytest.mark.parametrize("name", ["adamw", "adamw_8bit", "adafactor", "lion", "muon", "schedule_free"])
def test_optimizers_train_adapters_and_leave_the_base_alone(name: str):
    model, optimizer = started(SHIPPED[name], LORA)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    losses = learn(model, optimizer, 10)
    assert losses[-1] < losses[0]
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {key for key in before if ".lora_" in key}


@every_optimizer
def test_a_checkpoint_goes_on_bit_for_bit(optimizer: OptimizerConfig, tmp_path: Path):
    model, whole = started(optimizer)
    learn(model, whole, 8)

    world, meter = World(), Meter(CPU, None, None)
    first, half = started(optimizer)
    learn(first, half, 4)
    facts = facts_of(first, Progress(4, half, LossScale()), meter, {"settings": {}, "signature": "mark"}, world)
    checkpoints = Checkpoints(tmp_path, world, CPU)
    checkpoints.save(4, tensors_of(first, half, world, CPU), facts, keep=1)
    resumed, rest = started(optimizer)
    learn(resumed, rest, 2)  # a state that must not survive
    restore(Reader(checkpoints.newest()), resumed, Progress(0, rest, LossScale()), meter, world, CPU)
    learn(resumed, rest, 4)

    for optimizer_of in (whole, rest):
        settle(optimizer_of)
    for name, expected in model.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], expected), name


@every_optimizer
def test_a_state_dict_goes_on_bit_for_bit(optimizer: OptimizerConfig):
    model, one = started(optimizer)
    learn(model, one, 3)
    saved = one.state_dict()
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    kept = {index: {key: _copied(value) for key, value in state.items()} for index, state in saved["state"].items()}
    other, two = started(optimizer)
    other.load_state_dict(weights)
    two.load_state_dict({"state": kept, "param_groups": saved["param_groups"]})
    assert learn(model, one, 3) == learn(other, two, 3)


def _copied(value: Any) -> Any:
    return value.clone() if isinstance(value, torch.Tensor) else value


def test_eight_bit_states_are_eight_bit():
    for name in ("adamw_8bit", "paged_adamw_8bit"):
        model, optimizer = started(SHIPPED[name])
        learn(model, optimizer, 1)
        assert optimizer.state[model.model.embed_tokens.weight]["state1"].dtype == torch.uint8


@every_optimizer
def test_states_take_the_memory_that_micro_batches_are_planned_with(optimizer: OptimizerConfig):
    model = build(family("llama", hidden_size=128, intermediate_size=256, vocab_size=256), implementation="sdpa")
    made = build_optimizer(model, optimizer, 1e-4)
    learn(model, made, 1)
    tensors = [one for state in made.state.values() for one in state.values() if isinstance(one, torch.Tensor)]
    weights = sum(parameter.numel() for parameter in model.parameters())
    measured = sum({one.data_ptr(): one.nbytes for one in tensors}.values()) / weights
    planned = state_bytes(Config(optimizer=optimizer))
    assert 0.5 * planned < measured < 1.2 * planned


def test_moments_made_before_the_first_step_change_none():
    model, ours = started(SHIPPED["adamw"])
    assert {float(state["step"]) for state in ours.state.values()} == {0.0}
    assert all(not state["exp_avg"].any() and not state["exp_avg_sq"].any() for state in ours.state.values())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(group["lr"] == group["peak_lr"] > 0 for group in ours.param_groups)
    other, _ = started(SHIPPED["adamw"])
    settings = {key: ours.defaults[key] for key in ("betas", "eps")}
    groups = parameter_groups(other, ours.param_groups[0]["peak_lr"], weight_decay=SHIPPED["adamw"].weight_decay)
    theirs = torch.optim.AdamW(groups, fused=True, **settings)
    assert learn(model, ours, 3) == learn(other, theirs, 3)


def test_lion_moves_every_weight_by_the_rate_in_the_direction_of_its_momentum():
    draw = torch.Generator().manual_seed(0)
    weights, rate, decay = torch.randn(50, generator=draw).requires_grad_(), 0.01, 0.1
    optimizer = Lion([weights], lr=rate, betas=(0.9, 0.99), weight_decay=decay)
    expected, momentum = weights.detach().clone(), torch.zeros(50)
    for _ in range(5):
        gradient = torch.randn(50, generator=draw)
        direction = torch.sign(0.9 * momentum + 0.1 * gradient)
        expected = expected - rate * (direction + decay * expected)
        momentum = 0.99 * momentum + 0.01 * gradient
        weights.grad = gradient.clone()
        optimizer.step()
        torch.testing.assert_close(weights.detach(), expected)


def test_muon_takes_the_matrices_of_the_layers_and_adamw_the_rest():
    model = build(family("llama", tie_word_embeddings=False), implementation="sdpa")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    rules: dict[str, set[str]] = {}
    for group in parameter_groups(model, 1e-3, weight_decay=0.1, by_rule=True):
        rules.setdefault(group["rule"], set()).update(names[id(one)].split(".")[-2] for one in group["params"])
    assert rules == {
        MUON: {f"{name}_proj" for name in ("q", "k", "v", "o", "gate", "up", "down")},
        "adamw": {"embed_tokens", "lm_head", "norm", "input_layernorm", "post_attention_layernorm"},
    }


def test_muon_takes_the_steps_of_torchs_muon_and_adamw():
    model, optimizer = started(SHIPPED["muon"])
    other, _ = started(SHIPPED["muon"])
    rate = optimizer.param_groups[0]["lr"]
    inside = [one for name, one in other.named_parameters() if "proj" in name]
    rest = [one for name, one in other.named_parameters() if "proj" not in name]
    muon = torch.optim.Muon(inside, lr=rate, weight_decay=0.0, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    adamw = torch.optim.AdamW(rest, lr=rate, weight_decay=0.0, fused=True)
    for _ in range(3):
        learn(model, optimizer, 1)
        other(input_ids=IDS, labels=IDS).loss.backward()
        for each in (muon, adamw):
            each.step()
            each.zero_grad()
    for name, weights in model.named_parameters():
        assert torch.equal(weights, other.get_parameter(name)), name


def test_schedule_free_gives_the_sequences_of_its_paper():
    draw = torch.Generator().manual_seed(0)
    y, rates = torch.randn(30, generator=draw).requires_grad_(), [0.01, 0.02, 0.05, 0.05, 0.05]
    optimizer = ScheduleFreeAdamW([y], lr=0.05, betas=(0.9, 0.95), weight_decay=0.1)
    x = z = y.detach().clone()
    square, weight_sum = torch.zeros(30), 0.0
    for step, rate in enumerate(rates, 1):
        gradient = torch.randn(30, generator=draw)
        at = 0.1 * z + 0.9 * x
        torch.testing.assert_close(y.detach(), at)
        square = 0.95 * square + 0.05 * gradient**2
        z = z - rate * (gradient / ((square / (1 - 0.95**step)).sqrt() + 1e-8) + 0.1 * at)
        weight_sum += rate**2
        x = (1 - rate**2 / weight_sum) * x + rate**2 / weight_sum * z
        optimizer.param_groups[0]["lr"] = rate
        y.grad = gradient
        optimizer.step()
    settle(optimizer)
    torch.testing.assert_close(y.detach(), x)


def test_scores_in_between_are_those_of_the_average_and_change_nothing():
    model, optimizer = started(SHIPPED["schedule_free"])
    learn(model, optimizer, 5)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with averaged(optimizer):
        inside = {name: one.clone() for name, one in model.state_dict().items()}
    assert all(torch.equal(one, before[name]) for name, one in model.state_dict().items())
    settle(optimizer)
    assert all(torch.equal(one, inside[name]) for name, one in model.state_dict().items())
    assert not torch.equal(inside["model.embed_tokens.weight"], before["model.embed_tokens.weight"])


@pytest.mark.parametrize("model_type", ["llama", "qwen3", "gemma", "gpt_neox", "phi"])
def test_norms_and_biases_of_any_model_are_not_decayed(model_type: str):
    model = build(family(model_type), implementation="sdpa")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for group in parameter_groups(model, 1e-3, weight_decay=0.1):
        for parameter in group["params"]:
            undecayed = "norm" in names[id(parameter)] or names[id(parameter)].endswith("bias")
            assert (group["weight_decay"] == 0) == undecayed, names[id(parameter)]


def test_magnitudes_are_not_decayed_and_b_matrices_learn_faster_with_lora_plus():
    model = build(LEARNER, AdapterConfig(kind="lora", rank=4, use_dora=True), implementation="sdpa")
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = parameter_groups(model, 1e-4, weight_decay=0.1, b_lr_ratio=16)
    assert groups[0]["lr"] == 1e-4, "the logged rate is that of A"
    found = {
        (names[id(one)].split(".")[-3], group["lr"], group["weight_decay"])
        for group in groups
        for one in group["params"]
    }
    assert found == {
        ("lora_A", 1e-4, 0.1),
        ("lora_B", 1.6e-3, 0.1),
        ("lora_magnitude_vector", 1e-4, 0.0),
    }


@pytest.mark.parametrize("warmup", [0.1, 10])
def test_warm_up_stable_decay_holds_the_rate_until_the_last_share_of_steps(warmup: float):
    factor = learning_rate_factor("wsd", warmup, 100, 0.2)
    rates = [factor(step) for step in range(100)]
    assert rates[:10] == [(step + 1) / 11 for step in range(10)]
    assert set(rates[10:80]) == {1.0}
    assert rates[80:] == pytest.approx([(100 - step) / 21 for step in range(80, 100)])


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


@given(st.sampled_from([*SCHEDULES, "wsd"]), st.floats(0, 0.99) | st.integers(1, 50).map(float), st.integers(1, 500))
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
