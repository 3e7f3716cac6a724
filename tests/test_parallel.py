"""One process or two, DDP or FSDP, one agent or two that meet: the same experiment.

The learning rate moves the loss by more than 5 %, so that a rank that takes no part would show.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from commands import SMALL, Outcome, alpaca_command, alpaca_run, command_environment, some_rows
from safetensors.torch import load_file

from alpaca.training.checkpoint import Reader

STEPS = (
    "train.max_steps=20",
    "train.epochs=10",
    "train.save_every_steps=1",
    "train.keep_checkpoints=30",
    "optimizer.eps=1e-4",  # with Adam's 1e-8 a gradient that is nothing but rounding moves a weight a whole step
)
LAYOUTS = {
    "ddp": ("parallelism=ddp", "parallelism.devices=2"),
    "fsdp": ("parallelism=fsdp", "parallelism.devices=2"),
    "fsdp_grad_op": ("parallelism=fsdp_grad_op", "parallelism.devices=2"),
}
MEETING = ("parallelism.devices=1", "parallelism.nodes=2")


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """The same experiment in one process: of every weight, and of LoRA that teaches a trained model one answer."""
    found = {}
    for adapter in ("full", "lora"):
        folder = tmp_path_factory.mktemp(f"single-{adapter}")
        rows = some_rows(48)
        if adapter == "lora":
            (folder / "base").symlink_to(found["full"].directory / "model")
            rows = [{**row, "output": "4 4 4 4"} for row in rows]
        (folder / "rows.json").write_text(json.dumps(rows))
        found[adapter] = alpaca_run(folder, *experiment(adapter))
        assert found[adapter].status == 0, found[adapter].err
    return found


@pytest.fixture
def place(tmp_path: Path, single: dict[str, Outcome]) -> Callable[[str], Path]:
    """A folder with the data and base of an adapter's experiment."""

    def prepare(adapter: str) -> Path:
        for name in ("rows.json", "base"):
            if (source := single[adapter].folder / name).exists():
                (tmp_path / name).symlink_to(source.resolve())
        return tmp_path

    return prepare


def experiment(adapter: str) -> tuple[str, ...]:
    return (*SMALL, *STEPS, *(("model.weights=./base", "adapter=lora") if adapter == "lora" else ()))


def assert_same(one: Outcome, other: Outcome) -> None:
    assert other.status == 0, other.err
    for name in ("train/loss", "train/grad_norm"):
        np.testing.assert_allclose(other.metrics(name), one.metrics(name), rtol=1e-4)
    losses = other.metrics("train/loss")
    assert np.mean(losses[-5:]) < 0.95 * np.mean(losses[:5])
    np.testing.assert_allclose(other.summary["eval/loss"], one.summary["eval/loss"], rtol=1e-4)
    first = [Reader(run.directory / "checkpoints" / "step-1") for run in (one, other)]
    moments = [name for name in first[0].shapes if name.endswith("/exp_avg")]
    expected, found = (torch.cat([reader.read(name).flatten() for name in moments]) for reader in first)
    assert float((found - expected).norm() / expected.norm()) < 1e-5  # after one step: the clipped gradient times 0.1
    weights = [load_file(next((run.directory / "model").glob("*model.safetensors"))) for run in (one, other)]
    assert weights[0].keys() == weights[1].keys()
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-4, rtol=0)


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("layout", ["ddp", "fsdp", pytest.param("fsdp_grad_op", marks=pytest.mark.slow)])
def test_two_processes_give_the_numbers_of_one(
    layout: str, adapter: str, single: dict[str, Outcome], place: Callable[[str], Path]
):
    outcome = alpaca_command(place(adapter), *experiment(adapter), *LAYOUTS[layout])
    assert_same(single[adapter], outcome)


@pytest.mark.parametrize(
    ("adapter", "parallelism"),
    [("lora", "fsdp"), pytest.param("full", "fsdp", marks=pytest.mark.slow),
     pytest.param("full", "hsdp", marks=pytest.mark.slow)],
)  # fmt: skip
def test_two_agents_that_meet_give_the_numbers_of_one_process(
    adapter: str, parallelism: str, single: dict[str, Outcome], place: Callable[[str], Path], free_port: int
):
    workplace = place(adapter)
    overrides = [*experiment(adapter), f"parallelism={parallelism}", *MEETING]
    command = [sys.executable, "-m", "alpaca.run", *overrides, f"parallelism.rendezvous=127.0.0.1:{free_port}"]
    both = [
        subprocess.Popen(
            command, cwd=workplace, env=command_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=240) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert_same(single[adapter], Outcome(0, said[0][0], said[0][1], workplace))  # one run directory: the host chose it


def test_ranks_of_an_outer_launcher_form_one_run(single: dict[str, Outcome], place: Callable[[str], Path]):
    workplace = place("lora")
    here = ("--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0", "--local-addr=127.0.0.1")  # whatever its own name
    launcher = [sys.executable, "-m", "torch.distributed.run", *here, "--nproc-per-node=2"]
    command = [*launcher, "-m", "alpaca.run", *experiment("lora"), "parallelism=ddp"]
    done = subprocess.run(
        command, cwd=workplace, env=command_environment(), capture_output=True, text=True, check=False, timeout=240
    )
    assert_same(single["lora"], Outcome(done.returncode, done.stdout, done.stderr, workplace))
