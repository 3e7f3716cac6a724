"""What an adapter or optimizer asks of the machine is looked at first, and said in one line."""

import json
import sys
from pathlib import Path

import pytest
import torch
from commands import SMALL, alpaca_run

from alpaca.config import AdapterConfig, Config, OptimizerConfig
from alpaca.devices import check_device

BARE = [part for part in SMALL if not part.startswith(("evaluation", "train.eval_rows"))]
BARE = [*BARE, "evaluation=none", "train.eval_rows=0", "train.max_steps=2"]


@pytest.mark.parametrize("needs", ["adapter=qlora", "adapter=qlora_8bit", "optimizer=adamw_8bit"])
def test_without_bitsandbytes_a_run_is_refused_before_anything_loads(
    workplace: Path, needs: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)  # what Python itself puts for a module that is not there
    outcome = alpaca_run(workplace, *BARE, needs)
    assert (outcome.status, outcome.err.count("\n"), outcome.directories) == (2, 1, [])
    assert "needs bitsandbytes, which is not installed; install it with: pip install bitsandbytes" in outcome.err


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU pages")
def test_a_paged_optimizer_on_a_cpu_runs_unpaged_and_says_so_in_one_line(workplace: Path):
    outcome = alpaca_run(workplace, *BARE, "optimizer=paged_adamw_8bit")
    assert outcome.status == 0, outcome.err
    assert outcome.out.count("a CPU has nothing to page to") == 1
    assert "Paged optimizers are not supported" not in outcome.out + outcome.err


def test_other_settings_ask_for_nothing():
    for optimizer in ("adamw", "lion", "muon", "schedule_free"):
        assert check_device(Config(optimizer=OptimizerConfig(kind=optimizer))) == []
    assert check_device(Config(adapter=AdapterConfig(kind="lora", bits=4))) == []


def test_a_schedule_free_run_scores_and_saves_the_average(workplace: Path):
    outcome = alpaca_run(workplace, *SMALL, "optimizer=schedule_free", "train.eval_every_steps=1")
    assert outcome.status == 0, outcome.err
    metrics = map(json.loads, (outcome.directory / "metrics.jsonl").read_text().splitlines())
    scored = [line["eval/loss"] for line in metrics if line["step"] == 5 and "eval/loss" in line]
    assert len(scored) == 2, "in between after the last step, and at the end"
    assert scored[0] == pytest.approx(scored[1], rel=1e-6)
    other = alpaca_run(workplace, *SMALL, "optimizer=schedule_free", "output_dir=again")
    assert other.status == 0
    summary = json.loads((workplace / "again" / "summary.json").read_text())
    assert summary["eval/loss"] == scored[1], "looking in between changes nothing"
