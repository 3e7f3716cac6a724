"""The rule on licence names, and what a run prints and records of them."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from alpaca import paths
from alpaca.licences import Licensed, non_commercial, warning


@pytest.mark.parametrize(
    ("name", "forbids"),
    [
        ("CC-BY-NC-4.0", True),
        ("cc-by-nc-sa", True),
        ("CC BY-NC 4.0", True),
        ("LLaMA-non-commercial", True),
        ("OPT-175B-license", True),
        ("research-only", True),
        ("CC-BY-4.0", False),
        ("CC-BY-SA-3.0", False),
        ("Apache-2.0", False),
        ("Llama-3-community", False),
        ("NCSA", False),
        ("SYNC-1.0", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_a_licence_is_non_commercial_by_its_name(name: str, forbids: bool) -> None:
    assert non_commercial(name) is forbids


def test_one_sentence_names_everything_that_taints() -> None:
    parts = [
        Licensed("data_source a", "CC-BY-NC-4.0"),
        Licensed("model b", "MIT"),
        Licensed("data_source c", "unknown"),
    ]
    assert warning(parts) == "the result is for non-commercial use only, because of data_source a (CC-BY-NC-4.0)"
    assert "data_source c is not stated" in (warning(parts[1:]) or "")
    assert warning(parts[1:2]) is None


@pytest.mark.parametrize("file", sorted((paths.conf_dir() / "model").glob("*.yaml")), ids=lambda file: file.stem)
def test_every_model_states_its_licence(file: Path) -> None:
    settings = yaml.safe_load(file.read_text())
    assert settings["license"]
    assert settings["license_note"]


def test_a_run_says_and_records_what_taints_it(
    command: Callable[..., str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from alpaca.tracking.terminal import Terminal

    said: list[str] = []
    monkeypatch.setattr(Terminal, "warn", lambda self, text: said.append(text))
    command(
        "data_source=seed_tasks", "data_source.license=CC-BY-NC-4.0", "data_source.limit=4", "train.eval_rows=2",
        "train.max_steps=1", "train.global_batch_size=2", "output_dir=run", status=0,
    )  # fmt: skip
    assert [line for line in said if "non-commercial" in line] == [
        "the result is for non-commercial use only, because of data_source seed_tasks (CC-BY-NC-4.0)"
    ]
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert facts["license"] == "CC-BY-NC-4.0"
    assert facts["non_commercial"] is True
    assert facts["lineage"]["data"][0]["license"] == "CC-BY-NC-4.0"
    assert facts["lineage"]["model"]["license"] == "Apache-2.0"
    assert facts["rows_in"] == facts["rows_trained"] + facts["rows_evaluated"] + sum(facts["rows_dropped"].values())
    assert facts["rows_dropped"] == {"beyond data_source.limit": 169}
