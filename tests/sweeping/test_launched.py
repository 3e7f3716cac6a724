"""Jobs that another launcher or sweeper of Hydra's runs: pickled, run elsewhere, and their objective told."""

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cloudpickle
import pytest
from commands import CHECKOUT, SMALL, Outcome, alpaca_command, some_rows
from omegaconf import OmegaConf

from alpaca.errors import RunFailed
from alpaca.sweeping.folder import SweepFolder
from alpaca.sweeping.launched import Task, objective
from alpaca.sweeping.ray_gpus import ray_gpus

PLACE = Path("outputs/sweeps/run")
PLUGINS = Path(__file__).parent / "plugins"
TRIALS = ("optimizer.lr=1e-2", "adapter.rank=0", "optimizer.lr=1e-2")
SEARCH = ("-m", "hydra/sweeper=trial", f"hydra.sweeper.trials=[{','.join(map(repr, TRIALS))}]", *SMALL)


@dataclass(frozen=True)
class Search:
    """What the sweeper was told, and what the only run says itself."""

    outcome: Outcome
    told: list[Any]
    summary: dict[str, Any]


@pytest.fixture(scope="module")
def search(tmp_path_factory: pytest.TempPathFactory) -> Search:
    folder = tmp_path_factory.mktemp("search")
    (folder / "rows.json").write_text(json.dumps(some_rows(48)))
    outcome = alpaca_command(
        folder, *SEARCH, "hydra/launcher=trial", "sweep.objective=eval/perplexity", "train.max_steps=2",
        environment={"PYTHONPATH": f"{CHECKOUT}:{PLUGINS}"}, timeout=300,
    )  # fmt: skip
    assert (folder / PLACE / "told.json").is_file(), outcome.err
    return Search(outcome, json.loads((folder / PLACE / "told.json").read_text()), outcome.summary)


def test_a_sweeper_gets_the_objective_of_a_job_that_was_pickled_twice_and_ran_elsewhere(search: Search):
    assert search.outcome.status == 0, search.outcome.err
    assert search.told[0] == search.summary["eval/perplexity"]


def test_a_trial_that_cannot_run_is_told_as_failed(search: Search):
    assert search.told[1].startswith("RunFailed: job 1 (adapter.rank=0) did not finish: adapter.rank=0")


def test_a_trial_that_was_run_before_is_told_again_and_not_trained_again(search: Search):
    assert search.told[2] == search.told[0]
    assert search.outcome.out.count("finished already, skipped") == 1
    assert search.outcome.out.count("\nmodel  tiny") == 1


def test_the_task_and_the_folder_travel_without_what_runs_in_the_first_process():
    """As after the first job: locks, processes and streams stay behind."""
    here = open(os.devnull, "w")  # noqa: SIM115
    folder = SweepFolder(lambda config, place: here.close())
    travelled = cloudpickle.loads(cloudpickle.dumps((Task(lambda config: here.close(), frozenset(), "now"), folder)))
    assert travelled[1](_root_=OmegaConf.create({"output_dir": None, "name": "a"})) == "outputs/sweeps/a"
    assert not here.closed
    here.close()


def test_an_objective_that_a_run_does_not_have_is_named_with_those_it_has(tmp_path: Path):
    (tmp_path / "summary.json").write_text('{"status": "finished", "eval/loss": 1.5, "steps": 3}')
    assert objective(tmp_path, "eval/loss", "job 0", needed=True) == 1.5
    assert objective(tmp_path, "eval/los", "job 0", needed=False) is None
    with pytest.raises(RunFailed, match=r"job 0: sweep.objective=eval/los: .* it has eval/loss$"):
        objective(tmp_path, "eval/los", "job 0", needed=True)


def test_several_jobs_at_once_are_left_to_the_sweeper(workplace: Path):
    before = sorted(workplace.iterdir())
    outcome = alpaca_command(
        workplace, *SEARCH, "sweep.parallel_jobs=2", environment={"PYTHONPATH": f"{CHECKOUT}:{PLUGINS}"}, timeout=120
    )
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "sweep.parallel_jobs=2: hydra/sweeper=trial decides how many trials run at once" in outcome.err
    assert sorted(workplace.iterdir()) == before


@pytest.mark.parametrize(
    ("said", "key"),
    [
        ("sbatch: error: Invalid generic resource (gres) specification", "hydra.launcher.gpus_per_node=8"),
        ("sbatch: error: invalid partition specified: big", "hydra.launcher.partition=null"),
    ],
)
def test_jobs_that_cannot_be_submitted_are_one_line_that_names_the_key(
    workplace: Path, tmp_path_factory: pytest.TempPathFactory, said: str, key: str
):
    """With programs of Slurm's names that refuse; `test_slurm.py` asks the real ones."""
    pytest.importorskip("hydra_plugins.hydra_submitit_launcher")
    before, programs = sorted(workplace.iterdir()), tmp_path_factory.mktemp("bin")
    for name in ("sbatch", "srun"):
        (programs / name).write_text(f"#!/bin/sh\necho '{said}' >&2\nexit 1\n")
        (programs / name).chmod(stat.S_IRWXU)
    outcome = alpaca_command(
        workplace, "-m", "hydra/launcher=submitit_slurm", *SMALL, "train.seed=0,1",
        environment={"PATH": f"{programs}:{os.environ['PATH']}"}, timeout=120,
    )  # fmt: skip
    assert outcome.status == 2
    assert outcome.err == f"alpaca: hydra/launcher=submitit_slurm: {said}; change {key}\n"
    assert "may go on" not in outcome.out
    assert sorted(workplace.iterdir()) == before


@pytest.mark.parametrize(
    ("visible", "sharding", "devices", "gpus"),
    [("", "none", 1, 0), ("", "full", None, 0), ("0,1,2,3", "none", 1, 1), ("0,1,2,3", "full", None, 4),
     ("0,1,2,3", "replicate", 2, 2), ("0,1", "full", 4, 2)],
)  # fmt: skip
def test_ray_is_asked_for_the_gpus_that_a_run_can_use_and_never_for_more_than_there_are(
    monkeypatch: pytest.MonkeyPatch, visible: str, sharding: str, devices: int | None, gpus: int
):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    launcher = {"ray": {"init": {"address": None}}}
    config = {"hydra": {"launcher": launcher}, "parallelism": {"sharding": sharding, "devices": devices}}
    assert ray_gpus(_root_=OmegaConf.create(config)) == gpus
