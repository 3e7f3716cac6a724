"""Operations, exchanges and dollars."""

from pathlib import Path

import pytest
from configs import composed, rows_file
from test_schedule import SETTINGS, real_steps

from alpaca.modeling.adapters import add_adapter
from alpaca.modeling.base import load_tokenizer, random_model
from alpaca.planning.devices import find
from alpaca.planning.estimate import Planner, estimate
from alpaca.planning.memory import Placement
from alpaca.planning.parameters import parameters
from alpaca.planning.work import exchange_s
from alpaca.training.flops import PEAK_TFLOPS, ModelFlops
from alpaca.training.precision import choose


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("model", ["tiny", "tiny_opt", "tiny_qwen3"])
def test_operations_are_those_the_run_counts(workplace: Path, model: str, adapter: str):
    config = composed(*SETTINGS, rows_file(workplace), f"model={model}", f"adapter={adapter}", "train.share_prefix=off")
    compute = choose("fp32")
    base = random_model(
        config.model.architecture,
        load_tokenizer(config.model),
        seed=0,
        dtype=compute.frozen_dtype,
        device=compute.device,
    )
    flops = ModelFlops.of(add_adapter(base, config.adapter, seed=0))
    (steps,) = real_steps(config, 1, 4096)
    config.train.share_prefix = "off"
    batches = [batch for number in range(len(steps)) for batch in steps[number].micro_batches]
    assert estimate(config).operations == pytest.approx(sum(map(flops.training_step, batches)), rel=1e-9)


def test_peaks_are_those_of_the_meter():
    for name in ("H200", "H100", "H100 PCIe", "L40S", "L4", "RTX 4090", "T4"):
        device = find(name)
        assert device is not None
        assert device.peak_tflops == PEAK_TFLOPS[name]
    for name in ("A100 80GB", "A100 40GB"):
        assert find(name).peak_tflops == PEAK_TFLOPS["A100"]  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("driver_says", "known_as"),
    [
        ("NVIDIA A100-SXM4-80GB", "A100 80GB"),
        ("NVIDIA A100 80GB PCIe", "A100 80GB"),
        ("NVIDIA A100-SXM4-40GB", "A100 40GB"),
        ("NVIDIA H100 80GB HBM3", "H100"),
        ("NVIDIA H100 PCIe", "H100 PCIe"),
        ("NVIDIA H200", "H200"),
        ("Tesla T4", "T4"),
        ("NVIDIA L4", "L4"),
        ("NVIDIA L40S", "L40S"),
        ("NVIDIA GeForce RTX 4090", "RTX 4090"),
        ("NVIDIA H100 NVL", None),
        ("cpu", None),
    ],
)
def test_devices_are_found_by_the_name_a_driver_gives(driver_says: str, known_as: str | None):
    found = find(driver_says)
    assert (found and found.name) == known_as
    assert found is None or found.dollars_per_hour is not None


def exchanged(*overrides: str, devices: int) -> float:
    """Seconds of exchange in a step of LLaMA 7B on A100s."""
    config, device = composed("model=llama7b", *overrides), find("A100 80GB")
    assert device is not None
    planner = Planner.of(config)
    counted = parameters(planner.shape, config.adapter)
    found = planner.estimate(device, devices)
    split = devices if config.parallelism.sharding in ("full", "grad_op") else 1
    place = Placement(devices, split, True, "bf16")
    return exchange_s(config, planner.shape, counted, found.schedule, device, place)


def test_what_devices_send_each_other_follows_what_they_hold():
    alone = exchanged("parallelism=single", devices=1)
    small = exchanged("parallelism=ddp", "adapter=lora", devices=4)
    copies = exchanged("parallelism=ddp", devices=4)
    split = exchanged("parallelism=fsdp", devices=4)
    kept = exchanged("parallelism=fsdp_grad_op", devices=4)
    host = exchanged("parallelism=fsdp_offload", devices=4)
    assert 0 == alone < small < copies < split < host
    assert kept < split
    assert copies == pytest.approx(2 * 4 * 6_738_415_616 * 3 / 4 / 200e9)


def test_dollars_are_hours_times_devices_times_the_price():
    device = find("A100 80GB")
    assert device is not None
    found = estimate(composed("model=llama7b", "parallelism=fsdp", "parallelism.devices=4"), device)
    assert device.dollars_per_hour is not None
    assert found.dollars == pytest.approx(found.hours * 4 * device.dollars_per_hour)
