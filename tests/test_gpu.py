"""The promises on a real accelerator, run by `scripts/gpu_check.sh`. Each skips with a reason where there is none."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from commands import SMALL, alpaca_command, command_environment

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU here"),
]
ON_GPU = tuple(part for part in SMALL if not part.startswith("train.precision"))
BIG = (
    "model=llama7b",
    "model.weights=random",
    "data_source=seed_tasks",
    "tracker=disabled",
    "evaluation=none",
    "train.eval_rows=0",
    "train.global_batch_size=32",
    "train.max_steps=3",
    "train.rehearse_save=false",
)


@pytest.mark.parametrize("adapter", ["full", "lora", "qlora"])
def test_a_run_in_this_cards_own_precision_passes_its_self_check_and_learns(adapter: str, workplace: Path):
    outcome = alpaca_command(workplace, *ON_GPU, f"adapter={adapter}")
    assert outcome.status == 0, outcome.err
    assert "together and one at a time" in outcome.out
    assert outcome.metrics("train/loss")[-1] < outcome.metrics("train/loss")[0]
    assert outcome.metrics("perf/peak_memory_gib")[-1] > 0


def test_the_size_of_micro_batches_changes_no_loss(workplace: Path):
    losses = []
    for tokens in (512, 8192):
        outcome = alpaca_command(workplace, *SMALL, f"train.micro_batch_tokens={tokens}", f"name=tokens{tokens}")
        assert outcome.status == 0, outcome.err
        found = next((workplace / "outputs" / f"tokens{tokens}").glob("*/metrics.jsonl"))
        losses.append([line for line in found.read_text().splitlines() if "train/loss" in line])
    values = [[float(line.split('"train/loss": ')[1].split(",")[0]) for line in each] for each in losses]
    assert values[0] == pytest.approx(values[1], rel=1e-4)


def test_a_signal_saves_and_the_same_command_goes_on(workplace: Path):
    slow = (*ON_GPU, "train.max_steps=4000", "train.epochs=1000", "train.save_every_epoch=false")
    for turn in range(2):
        process = subprocess.Popen(
            [sys.executable, "-m", "alpaca.run", *slow], cwd=workplace, env=command_environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        time.sleep(60)
        process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 130, said
        assert ("resume" in said) == bool(turn)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
@pytest.mark.parametrize("parallelism", ["ddp", "fsdp", "fsdp_grad_op", "fsdp_offload"])
def test_all_devices_give_the_losses_of_one(parallelism: str, workplace: Path):
    one = alpaca_command(workplace, *SMALL, "name=one")
    several = alpaca_command(workplace, *SMALL, f"parallelism={parallelism}", "name=several")
    assert one.status == several.status == 0, several.err
    values = []
    for name in ("one", "several"):
        text = next((workplace / "outputs" / name).glob("*/metrics.jsonl")).read_text()
        lines = [line for line in text.splitlines() if "train/loss" in line]
        values.append([float(line.split('"train/loss": ')[1].split(",")[0]) for line in lines])
    assert values[0] == pytest.approx(values[1], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["full", "lora", "qlora"])
def test_seven_billion_weights_take_three_steps(adapter: str, workplace: Path):
    if adapter == "full" and torch.cuda.get_device_properties(0).total_memory < 120 * 2**30:
        pytest.skip("full fine-tuning of 7B in fp32 needs 112 GB for weights, gradients and moments")
    outcome = alpaca_command(workplace, *BIG, f"adapter={adapter}")
    assert outcome.status == 0, outcome.err
    assert len(outcome.metrics("train/loss")) == 3
