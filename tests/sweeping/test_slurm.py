"""Multiruns as jobs of a real Slurm: a job that is warned, or preempted, is requeued and goes on."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import SMALL, alpaca_command, command_environment, eventually
from slurm_cluster import cluster, missing

pytest.importorskip("hydra_plugins.hydra_submitit_launcher")

pytestmark = [pytest.mark.slow, pytest.mark.timeout(500), pytest.mark.skipif(bool(missing()), reason=missing())]

SLURM = (
    "-m", "hydra/launcher=submitit_slurm", "hydra.launcher.gpus_per_node=null", "hydra.launcher.cpus_per_task=2",
    "hydra.launcher.partition=usual", *SMALL,
)  # fmt: skip
LONG = ("train.epochs=60", "train.save_every_epoch=false", "train.save_every_steps=5")
PLACE = Path("outputs/sweeps/run")


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with cluster(tmp_path_factory.mktemp("slurm"), grace_s=20) as variables:
        yield variables


@pytest.fixture
def start(workplace: Path, slurm: dict[str, str]) -> Iterator[Callable[..., subprocess.Popen]]:
    """Starts a multirun, whose output goes to `said` in its folder."""
    started: list[subprocess.Popen] = []

    def start(*overrides: str) -> subprocess.Popen:
        with (workplace / "said").open("wb") as said:
            started.append(
                subprocess.Popen(
                    [sys.executable, "-m", "alpaca.run", *SLURM, *overrides], cwd=workplace,
                    env=command_environment(**slurm), stdout=said, stderr=subprocess.STDOUT,
                )
            )  # fmt: skip
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait(timeout=30)
    of_slurm(slurm, "scancel", "--user=root")


def of_slurm(slurm: dict[str, str], *command: str) -> str:
    return subprocess.run(
        command, env=command_environment(**slurm), capture_output=True, text=True, check=True, timeout=60
    ).stdout


def steps(workplace: Path) -> int:
    """Training steps that the only run has logged."""
    return sum(file.read_text().count("train/loss") for file in workplace.glob(f"{PLACE}/*/metrics.jsonl"))


def is_requeued(slurm: dict[str, str], job: str) -> bool:
    said = of_slurm(slurm, "scontrol", "show", "job", job)
    return "JobState=PENDING" in said and "Restarts=1" in said


def finish(process: subprocess.Popen, workplace: Path, slurm: dict[str, str], job: str) -> dict:
    """Slurm holds a requeued job for two minutes; here until its daemon has forgotten the first start."""
    of_slurm(slurm, "scontrol", "update", f"JobId={job}", "StartTime=now+5")
    eventually(lambda: process.poll() is not None, "the requeued job does not finish")
    assert process.returncode == 0, (workplace / "said").read_text()
    (run,) = workplace.glob(f"{PLACE}/defaults-*")
    assert "resume" in (run / "run.log").read_text()
    return json.loads((run / "summary.json").read_text())


def job_of(workplace: Path) -> str:
    """The id that the command prints while the job waits."""
    said = (workplace / "said").read_text()
    return said.partition("submitted: ")[2].partition(";")[0]


def test_a_job_that_slurm_warns_before_its_time_limit_saves_is_requeued_and_finishes(
    workplace: Path, slurm: dict[str, str], start: Callable[..., subprocess.Popen]
):
    process = start(*LONG, "train.seed=0")
    eventually(lambda: steps(workplace) > 12, "the job does not train")
    job = job_of(workplace)
    of_slurm(slurm, "scancel", "--signal=USR2", job)  # what Slurm sends signal_delay_s before the end
    eventually(lambda: is_requeued(slurm, job), "the job is not requeued")
    (run,) = workplace.glob(f"{PLACE}/defaults-*")
    assert json.loads((run / "summary.json").read_text())["status"] == "interrupted"
    assert list(run.glob("checkpoints/step-*"))
    assert finish(process, workplace, slurm, job)["steps"] == 300


def test_a_preempted_job_saves_within_its_grace_time_and_goes_on_when_slurm_requeues_it(
    workplace: Path, slurm: dict[str, str], start: Callable[..., subprocess.Popen]
):
    process = start(*LONG, "train.seed=0")
    eventually(lambda: steps(workplace) > 12, "the job does not train")
    job = job_of(workplace)
    urgent = of_slurm(
        slurm, "sbatch", "--parsable", "--partition=urgent", "--ntasks=1", "--cpus-per-task=2", "--output=/dev/null",
        "--wrap=sleep 1",
    ).strip()  # fmt: skip
    eventually(lambda: is_requeued(slurm, job), "the job is not requeued")
    eventually(
        lambda: "JobState=COMPLETED" in of_slurm(slurm, "scontrol", "show", "job", urgent), "the other job does not run"
    )
    assert finish(process, workplace, slurm, job)["steps"] == 300


def test_what_slurm_refuses_is_one_line_that_names_the_key(workplace: Path, slurm: dict[str, str]):
    before = sorted(workplace.iterdir())
    outcome = alpaca_command(
        workplace, *SLURM, "hydra.launcher.gpus_per_node=8", "train.seed=0,1", environment=slurm, timeout=120
    )
    assert (outcome.status, outcome.err.count("\n")) == (2, 1), outcome.err
    assert "Invalid generic resource (gres) specification; change hydra.launcher.gpus_per_node=8" in outcome.err
    assert "may go on" not in outcome.out
    assert sorted(workplace.iterdir()) == before
