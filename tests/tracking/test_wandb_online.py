"""Runs logged online, to a server on this machine: all of a run arrives, and what is refused is lost alone."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import wandb
from commands import SMALL, alpaca_run
from wandb_server import WandbServer, wandb_server

from alpaca.config import Config
from alpaca.tracking.wandb_run import WandbRun

Opened = Callable[..., WandbServer]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Opened]:
    """Starts a server and makes W&B, which reads its environment once in a process, use it."""
    with ExitStack() as stack:

        def opened(**faults: tuple[str, ...]) -> WandbServer:
            found = stack.enter_context(wandb_server(**faults))
            for name, value in found.environment().items():
                monkeypatch.setenv(name, value)
            wandb.teardown()
            return found

        yield opened
        wandb.teardown()


def test_an_online_run_arrives_whole_and_its_address_is_said_at_start_and_end(server: Opened, workplace: Path):
    found = server()
    overrides = [part for part in SMALL if not part.startswith("tracker")]
    outcome = alpaca_run(workplace, *overrides, "adapter=lora", "train.max_steps=3", "train.eval_every_steps=1")
    assert outcome.status == 0, outcome.err
    ((name, run),) = found.runs.items()
    assert outcome.out.count(f"{found.url}/someone/alpaca/runs/{name}") == 2
    assert (run["groupName"], run["displayName"]) == ("run", outcome.directory.name)
    assert found.values("train/loss") == pytest.approx(outcome.metrics("train/loss"))
    losses = outcome.metrics("eval/loss")
    assert found.summary["eval/loss"] == outcome.summary["eval/loss"]
    assert found.summary["eval/loss.min"] == min(losses)
    assert found.summary["train/loss"] == pytest.approx(outcome.metrics("train/loss")[-1])
    assert found.exit_codes == [0]
    assert {"data-json", f"model-{outcome.directory.name}"} <= set(found.artifacts)
    assert "warning: W&B" not in outcome.out


def test_a_refusal_at_the_first_table_costs_tables_and_artifacts_and_nothing_else(server: Opened, tmp_path: Path):
    found = server(malformed=("ArtifactType",))
    warnings: list[str] = []
    run = WandbRun(Config(), tmp_path, {}, warnings.append)
    for step in (1, 2, 3):
        run.log(step, {"eval/loss": 4.0 - step if step < 3 else 5.0})
        run.log_table("samples", ["answer"], [["a text"]])
        run.log_artifact("data", "dataset", tmp_path / ".wandb-open", {})
    run.finish(1, {"status": "failed", "eval/loss": 5.0})
    assert found.values("eval/loss") == [3.0, 2.0, 5.0]
    assert (found.summary["eval/loss"], found.summary["eval/loss.min"]) == (5.0, 2.0)
    assert (found.summary["status"], found.exit_codes) == ("failed", [1])
    assert len(warnings) == 2, warnings


def test_an_artifact_that_is_refused_while_it_is_uploaded_is_said(server: Opened, tmp_path: Path):
    found = server(refuse=("CreateArtifact",))
    warnings: list[str] = []
    run = WandbRun(Config(), tmp_path, {}, warnings.append)
    run.log_artifact("data", "dataset", tmp_path / ".wandb-open", {})
    run.finish(0, {})
    assert found.exit_codes == [0]
    assert len(warnings) == 1
    assert "CreateArtifact is refused here" in warnings[0]


def test_names_that_wandb_would_refuse_are_cut_to_its_limits(
    server: Opened, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    found = server()
    monkeypatch.setenv("WANDB_TAGS", "theirs," + "y" * 65)
    folder = tmp_path / ("z" * 140 + "-0123456789")
    folder.mkdir()
    config = Config(name="n" * 200, extra_tags=["x" * 70, "", "mine", "mine"])
    warnings: list[str] = []
    WandbRun(config, folder, {}, warnings.append).finish(0, {})
    (run,) = found.runs.values()
    assert {"mine", "theirs"} <= set(run["tags"])
    assert sorted(map(len, run["tags"]))[-2:] == [64, 64]
    assert run["tags"].count("mine") == 1
    assert len(run["groupName"]) == 128
    assert (len(run["displayName"]), run["displayName"][-11:]) == (128, "-0123456789")
    assert len(warnings) == 4, warnings
    assert found.exit_codes == [0]
