"""Weights & Biases is a view of the run: complete when it works, never asked for, never missed when it fails."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from commands import REFUSING, SMALL, Outcome, alpaca_command, alpaca_run
from wandb_files import items, records_of

from alpaca.tracking.wandb_run import artifact_name, chosen_mode


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
    best = {record.metric.name for record in found if record.HasField("metric") and record.metric.summary.min}
    assert {"eval/loss", "eval/bits_per_byte", "train/loss"} <= best


def test_the_run_of_wandb_ends_with_the_scores(finished_lora: Outcome):
    found = records(finished_lora.directory)
    summary: dict[str, Any] = {}
    for record in found:
        if record.HasField("summary"):
            summary |= items(record.summary.update)
    assert summary["status"] == "finished"
    assert summary["eval/loss"] == finished_lora.summary["eval/loss"]
    (ended,) = [record.exit.exit_code for record in found if record.HasField("exit")]
    assert ended == 0


def test_disabled_leaves_nothing_of_wandb(finished: Outcome):
    assert not (finished.directory / "wandb").exists()


@pytest.mark.parametrize(
    ("environment", "expected"),
    [({}, "offline"), ({"WANDB_API_KEY": "0" * 40}, "online")],
    ids=["without a key", "with a key"],
)
def test_auto_is_online_only_with_a_key(environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert chosen_mode("auto") == expected
    assert chosen_mode("disabled") == "disabled"


def test_a_key_in_netrc_counts_for_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "netrc").write_text("machine wandb.example.org\n  login user\n  password " + "0" * 40 + "\n")
    os.chmod(tmp_path / "netrc", 0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert chosen_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert chosen_mode("auto") == "online"


def test_a_server_that_cannot_be_reached_loses_no_run(workplace: Path):
    outcome = alpaca_command(
        workplace, *SMALL, "tracker=online", "train.max_steps=1",
        environment={"WANDB_BASE_URL": REFUSING, "WANDB_API_KEY": "0" * 40},
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert outcome.summary["status"] == "finished"
    assert "logged offline" in outcome.out


def test_a_wandb_folder_that_cannot_be_made_loses_no_run(workplace: Path):
    (workplace / "run").mkdir()
    (workplace / "run" / "wandb").write_text("a file where W&B wants a folder")
    outcome = alpaca_run(workplace, *SMALL, "tracker=offline", "train.max_steps=1", "output_dir=run")
    assert outcome.status == 0, outcome.err
    assert outcome.summary["status"] == "finished"


def test_what_tells_runs_apart_in_a_folders_name_is_allowed_in_an_artifacts():
    assert (
        artifact_name("model-adapter.rank=4,train.seed=0-0123456789") == "model-adapter.rank-4-train.seed-0-0123456789"
    )
    assert len(artifact_name("x" * 500)) == 128
