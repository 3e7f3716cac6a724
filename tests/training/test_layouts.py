"""A run's losses depend on no setting that is about speed; the plan of the whole recipe covers every example."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from commands import Outcome, alpaca_run

from alpaca.data.steps import StepPlan, divide

CURVE = (
    "model=tiny",
    "data_source=json",
    "data_source.path=rows.json",
    "tracker=disabled",
    "evaluation=none",
    "optimizer.lr=3e-3",
    "train.eval_rows=0",
    "train.global_batch_size=24",
    "train.epochs=20",
    "train.max_steps=20",
    "train.precision=fp32",
)
LAYOUTS = {
    "micro-batches of 2,048 tokens": ("train.micro_batch_tokens=2048",),
    "micro-batches of 512 tokens": ("train.micro_batch_tokens=512",),
    "padded": ("train.packing=off",),
    "nothing shared": ("train.share_prefix=off",),
    "checkpointed": ("train.activation_checkpointing=on", "train.micro_batch_tokens=1024"),
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """48 rows whose outputs are of very different lengths; two have the same prompt, one is cut at 512 tokens."""
    draw = np.random.default_rng(0)
    lengths = [*draw.integers(1, 40, 46).tolist(), 100, 600]
    records = [
        {
            "instruction": f"Count from {max(1, number)} on.",
            "input": "in words" if number % 3 == 0 else "",
            "output": " ".join(str((number + step) % 10) for step in range(length)),
        }
        for number, length in enumerate(lengths)
    ]
    folder = tmp_path_factory.mktemp("curves")
    (folder / "rows.json").write_text(json.dumps(records))
    return folder / "rows.json"


def curve(rows: Path, folder: Path, *settings: str) -> Outcome:
    shutil.copy(rows, folder / "rows.json")
    outcome = alpaca_run(folder, *CURVE, *settings)
    assert outcome.status == 0, outcome.err
    return outcome


@pytest.fixture(scope="module")
def reference(rows: Path, tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return curve(rows, tmp_path_factory.mktemp("reference"), "train.micro_batch_tokens=8192")


def test_the_reference_curve_is_one_that_moves(reference: Outcome):
    losses = reference.metrics("train/loss")
    assert len(losses) == 20
    assert losses[-1] < losses[0] - 2


@pytest.mark.parametrize("layout", LAYOUTS)
def test_losses_of_20_steps_are_the_same(layout: str, rows: Path, reference: Outcome, tmp_path: Path):
    outcome = curve(rows, tmp_path, *LAYOUTS[layout])
    np.testing.assert_allclose(outcome.metrics("train/loss"), reference.metrics("train/loss"), rtol=0, atol=1e-4)
    np.testing.assert_allclose(outcome.metrics("train/grad_norm"), reference.metrics("train/grad_norm"), rtol=1e-3)


def test_the_order_of_the_examples_does_change_the_losses(rows: Path, reference: Outcome, tmp_path: Path):
    outcome = curve(rows, tmp_path, "train.seed=1")
    assert np.abs(np.subtract(outcome.metrics("train/loss"), reference.metrics("train/loss"))).max() > 1e-2


@pytest.mark.slow
def test_compiled_layers_give_the_same_losses(rows: Path, reference: Outcome, tmp_path: Path):
    if not (shutil.which("g++") or shutil.which("clang++")):
        pytest.skip("torch.compile needs a C++ compiler on the PATH")
    outcome = curve(rows, tmp_path, "train.compile=true")
    np.testing.assert_allclose(outcome.metrics("train/loss"), reference.metrics("train/loss"), rtol=0, atol=1e-4)


def test_all_1219_steps_of_alpaca_cover_each_example_three_times_on_eight_ranks():
    draw = np.random.default_rng(0)
    lengths = np.clip(np.exp(draw.normal(np.log(111), 0.45, 52_002)), 40, 512).astype(np.int64)
    plan = StepPlan(52_002, seed=0, epochs=3, global_batch_size=128)
    seen, loads = np.zeros(52_002, np.int64), []
    for step in range(plan.steps):
        chosen = plan.step_examples(step)
        for rank in divide(lengths[chosen], 8, 4096):
            for members in rank:
                np.add.at(seen, chosen[members], 1)
                loads.append(int(lengths[chosen[members]].sum()))
    assert plan.steps == 1219
    assert (seen == 3).all()
    assert max(loads) <= 4096
    assert len(loads) == 1219 * 8  # 128 examples of 122 tokens are one micro-batch for each of eight ranks
