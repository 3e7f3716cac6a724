"""What a run saves is what it trained: adapters are no base, and a result that reloads differently is no result."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from commands import SMALL, Outcome, alpaca_run
from safetensors.torch import load_file, save_file

from alpaca.errors import RunFailed
from alpaca.modeling.base import load_tokenizer
from alpaca.modeling.finished import read_record
from alpaca.modeling.identity import adapter_refusal
from alpaca.tracking.terminal import Terminal
from alpaca.training import worker
from alpaca.training.reloading import check_reload


def damage(file: Path, tensor: str) -> None:
    """Turn the sign of one tensor of a safetensors file."""
    tensors = load_file(file)
    (name,) = [name for name in tensors if name.endswith(tensor)]
    save_file({**tensors, name: -tensors[name]}, file, metadata={"format": "pt"})


@pytest.mark.parametrize("adapter", ["full", "lora", "qlora"])
def test_a_run_on_the_adapter_of_another_run_is_refused_with_the_way_out(
    workplace: Path, finished_lora: Outcome, adapter: str
):
    base = finished_lora.directory / "model"
    outcome = alpaca_run(workplace, *SMALL, f"model.weights='{base}'", f"adapter={adapter}")
    assert (outcome.status, outcome.err.count("\n"), outcome.directories) == (2, 1, [])
    assert "holds an adapter" in outcome.err
    assert f"python -m alpaca.export {finished_lora.directory} and set model.weights=" in outcome.err


def test_a_run_directory_given_as_base_is_named_for_what_it_is(workplace: Path, finished_lora: Outcome):
    outcome = alpaca_run(workplace, *SMALL, f"model.weights='{finished_lora.directory}'")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert f"run directory; for its merged weights run python -m alpaca.export {finished_lora.directory}" in outcome.err


def test_the_way_out_of_a_foreign_adapter_depends_on_whether_it_can_be_merged(tmp_path: Path):
    file = tmp_path / "adapter_config.json"
    file.write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "some/base"}))
    assert "merge_and_unload()" in adapter_refusal("mine", file)
    file.write_text(json.dumps({"peft_type": "PROMPT_TUNING", "base_model_name_or_path": "some/base"}))
    assert adapter_refusal("mine", file).endswith("so set model.weights=some/base")


@pytest.mark.parametrize(
    ("kind", "tensor"), [("full", "layers.1.mlp.down_proj.weight"), ("lora", "0.self_attn.v_proj.lora_B.weight")]
)
def test_a_result_that_reloads_to_other_logits_is_noticed(
    request: pytest.FixtureRequest, tmp_path: Path, kind: str, tensor: str
):
    outcome: Outcome = request.getfixturevalue("finished" if kind == "full" else "finished_lora")
    run = shutil.copytree(outcome.directory, tmp_path / "run")
    record = read_record(run)

    tokenizer = load_tokenizer(record.config.model)
    tokens = np.array(tokenizer("Count from 17 to 2048.\n\n### Response:")["input_ids"])

    def check() -> None:
        used_up = torch.nn.Linear(2, 2)
        cpu, quiet = torch.device("cpu"), Terminal(silent=True)
        check_reload(record.config, run, record.data, used_up, tokenizer, tokens, cpu, quiet)
        assert used_up.weight.numel() == 0  # its memory was given back before the second model came

    check()
    if kind == "full":
        settings = run / "model" / "config.json"
        whole = settings.read_text()
        settings.write_text(whole.replace('"model_type": "llama"', '"model_type": "qwen2"'))
        with pytest.raises(RunFailed, match="its tokenizer splits text otherwise than in training"):
            check()
        settings.write_text(whole)
    damage(next((run / "model").glob("*model.safetensors")), tensor)
    with pytest.raises(RunFailed, match="loaded again it is not the trained model"):
        check()


def test_a_run_whose_result_reloads_differently_failed(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    save = worker.save_model

    def saved_wrongly(model: Any, tokenizer: Any, folder: Path, *rest: Any) -> None:
        save(model, tokenizer, folder, *rest)
        damage(folder / "model.safetensors", "model.norm.weight")

    monkeypatch.setattr(worker, "save_model", saved_wrongly)
    outcome = alpaca_run(workplace, *SMALL, "train.max_steps=2")
    assert (outcome.status, outcome.summary["status"]) == (1, "failed"), outcome.err
    assert "loaded again it is not the trained model" in outcome.summary["error"]
    assert (outcome.directory / "checkpoints").is_dir()  # what was trained is still there
