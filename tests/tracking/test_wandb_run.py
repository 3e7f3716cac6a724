"""Weights & Biases is a view of the run: complete when it works, never asked for, never missed when it fails."""

import json
from pathlib import Path
from typing import Any

import pytest
import wandb
from commands import REFUSING, SMALL, Outcome, alpaca_command, alpaca_run
from wandb_files import items, records_of

from alpaca.config import Config
from alpaca.tracking.wandb_run import WandbRun


def records(folder: Path) -> list[Any]:
    """All records of the only offline run under `folder`."""
    (file,) = folder.glob("wandb/offline-run-*/*.wandb")
    return records_of(file)


def test_without_a_key_the_run_is_logged_offline_without_a_question(finished_lora: Outcome):
    assert list(finished_lora.directory.glob("wandb/offline-run-*/*.wandb"))
    assert "warning: W&B" not in finished_lora.out


def test_the_offline_run_holds_config_tags_metrics_table_and_artifacts(finished_lora: Outcome):
    found = records(finished_lora.directory)
    (run,) = [record.run for record in found if record.HasField("run")]
    config = items(run.config.update)
    assert config["adapter"]["rank"] == 8
    assert config["signature"] == finished_lora.summary["signature"]
    assert {"model=tiny", "adapter=lora", "data_source=json", "first", "second"} <= set(run.tags)
    history = [items(record.history.item) for record in found if record.HasField("history")]
    losses = [line["train/loss"] for line in history if "train/loss" in line]
    assert losses == pytest.approx(finished_lora.metrics("train/loss"))
    assert [line["eval/loss"] for line in history if "eval/loss" in line] == finished_lora.metrics("eval/loss")
    assert any(key.startswith("predictions") for line in history for key in line)
    (table,) = finished_lora.directory.glob("wandb/offline-run-*/files/media/table/predictions*.json")
    content = json.loads(table.read_text())
    assert {"prompt", "reference", "output_before", "output", "rougeL"} <= set(content["columns"])
    assert len(content["data"]) == 8, "every held-out row, answered or not"
    assert len({row[content["columns"].index("id")] for row in content["data"]}) == 8
    kinds = {record.request.log_artifact.artifact.type for record in found if record.HasField("request")}
    kinds |= {record.artifact.type for record in found if record.HasField("artifact")}
    assert {"dataset", "model", "predictions"} <= kinds
    assert config["variant"]


def test_the_run_of_wandb_ends_with_the_scores(finished_lora: Outcome):
    found = records(finished_lora.directory)
    summary: dict[str, Any] = {}
    for record in found:
        if record.HasField("summary"):
            summary |= items(record.summary.update)
    assert summary["status"] == "finished"
    assert summary["eval/loss"] == finished_lora.summary["eval/loss"]
    assert summary["eval/loss.min"] == min(finished_lora.metrics("eval/loss"))
    assert summary["train/loss.min"] == min(finished_lora.metrics("train/loss"))
    assert summary["eval/token_accuracy.max"] == max(finished_lora.metrics("eval/token_accuracy"))
    (ended,) = [record.exit.exit_code for record in found if record.HasField("exit")]
    assert ended == 0


def test_disabled_leaves_nothing_of_wandb(finished: Outcome):
    assert not (finished.directory / "wandb").exists()


def test_a_server_that_cannot_be_reached_loses_no_run(workplace: Path):
    outcome = alpaca_command(
        workplace, *SMALL, "tracker=online", "train.max_steps=1",
        environment={"WANDB_BASE_URL": REFUSING, "WANDB_API_KEY": "0" * 40},
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert outcome.summary["status"] == "finished"
    assert "logged offline" in outcome.out
    assert outcome.out.count("warning: W&B") == 1
    (run,) = outcome.directory.glob("wandb/offline-run-*")
    assert outcome.out.count(f"wandb sync {run.relative_to(workplace)}") == 1


def test_a_wandb_folder_that_cannot_be_made_loses_no_run(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    (workplace / "taken").write_text("a file where W&B wants a folder")
    monkeypatch.setenv("WANDB_DIR", str(workplace / "taken"))
    outcome = alpaca_run(workplace, *SMALL, "tracker=offline", "train.max_steps=1", "output_dir=run")
    assert outcome.status == 0, outcome.err
    assert outcome.summary["status"] == "finished"


def logged(config: Config, folder: Path) -> tuple[WandbRun, list[str]]:
    """A W&B run of `folder`, and the warnings it will give."""
    warnings: list[str] = []
    return WandbRun(config, folder, {}, warnings.append), warnings


def test_a_table_that_wandb_refuses_loses_itself_alone(tmp_path: Path):
    config = Config()
    config.tracker.mode = "offline"
    run, warnings = logged(config, tmp_path)
    run.log(1, {"train/loss": 2.0})
    for _ in range(2):
        run.log_table("samples", ["answer"], [["a text"], [{"no": "text"}]])
    run.log_artifact("data", "dataset", tmp_path / "nowhere.json", {})
    run.log(2, {"train/loss": 3.0})
    run.log_table("samples", ["answer"], [["a text"]])
    run.finish(1, {"status": "failed"})
    wandb.teardown()  # W&B's own process writes its file to the end after `finish` has returned
    assert [warning.partition(" (")[0] for warning in warnings] == [
        "W&B did not take a table",
        "W&B did not take an artifact",
    ]
    found = records(tmp_path)
    history = [items(record.history.item) for record in found if record.HasField("history")]
    assert [line["train/loss"] for line in history if "train/loss" in line] == [2.0, 3.0]
    assert sum(any(key.startswith("samples") for key in line) for line in history) == 1
    assert [record.exit.exit_code for record in found if record.HasField("exit")] == [1]


def test_wandb_dir_is_where_an_offline_run_goes_and_the_command_that_sends_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    config = Config()
    config.tracker.mode = "offline"
    run, _ = logged(config, tmp_path / "run")
    run.finish(0, {})
    (written,) = tmp_path.glob("elsewhere/wandb/offline-run-*")
    assert run.where.endswith(f"wandb sync elsewhere/wandb/{written.name}")
