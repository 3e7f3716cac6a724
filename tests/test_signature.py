"""The signature changes with what can change a result and with nothing else."""

import json
from pathlib import Path

import pytest
from commands import some_rows

from alpaca.config import Config
from alpaca.signature import signature, variant


@pytest.fixture
def config(tmp_path: Path) -> Config:
    (tmp_path / "rows.json").write_text(json.dumps(some_rows(4)))
    config = Config()
    config.model.weights, config.data_source.path = "random", str(tmp_path / "rows.json")
    return config


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("train", "seed", 1),
        ("train", "global_batch_size", 64),
        ("train", "max_length", 256),
        ("optimizer", "lr", 1e-5),
        ("adapter", "rank", 16),
        ("template", "prompt_with_input", "other"),
        ("data_source", "limit", 3),
    ],
)
def test_what_changes_the_result_changes_the_signature(config: Config, section: str, name: str, value: object):
    before = signature(config)
    setattr(getattr(config, section), name, value)
    assert signature(config) != before


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("train", "micro_batch_tokens", 2048),
        ("train", "log_every_steps", 10),
        ("parallelism", "devices", 8),
        ("tracker", "mode", "disabled"),
        ("model", "attention", "segment"),
        ("data_source", "name", "other"),
    ],
)
def test_hardware_names_and_logging_do_not(config: Config, section: str, name: str, value: object):
    before = signature(config)
    setattr(getattr(config, section), name, value)
    config.output_dir, config.notes, config.extra_tags = "elsewhere", "a note", ["tag"]
    assert signature(config) == before


def test_data_counts_by_content_and_not_by_place(config: Config, tmp_path: Path):
    before = signature(config)
    (tmp_path / "moved.json").write_bytes(Path(config.data_source.path).read_bytes())
    config.data_source.path = str(tmp_path / "moved.json")
    assert signature(config) == before
    (tmp_path / "moved.json").write_text(json.dumps(some_rows(5)))
    assert signature(config) != before


def test_the_variant_is_the_signature_without_the_seed(config: Config):
    first = variant(config), signature(config)
    config.train.seed = 5
    assert variant(config) == first[0]
    assert signature(config) != first[1]
    config.train.epochs = 5
    assert variant(config) != first[0]


def test_every_file_of_a_local_model_counts_its_chat_template_too(config: Config, tmp_path: Path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    config.model.weights = str(folder)
    seen = {signature(config)}
    for name in ("tokenizer.json", "chat_template.jinja", "model.safetensors"):
        (folder / name).write_text(name)
        seen.add(signature(config))
    assert len(seen) == 4
