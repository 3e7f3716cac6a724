"""The result loads with plain transformers or peft in a fresh process and gives the logits the run ended with."""

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from commands import Outcome, alpaca_run
from safetensors.torch import save_file

from alpaca.paths import give_usual_mode, umask

RELOAD = """
import sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer
run, kind = sys.argv[1:]
probe = load_file(f"{run}/probe.safetensors")
if kind == "lora":
    from peft import AutoPeftModelForCausalLM as AutoModelForCausalLM
model = AutoModelForCausalLM.from_pretrained(f"{run}/model", dtype=torch.float32).eval()
tokenizer = AutoTokenizer.from_pretrained(f"{run}/model")
with torch.no_grad():
    logits = model(input_ids=probe["input_ids"]).logits[0, -1]
assert "alpaca" not in sys.modules
print("difference", float((logits - probe["logits"]).abs().max()))
print("prompt", repr(tokenizer.decode(probe["input_ids"][0]))[-14:])
"""


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_saved_model_gives_the_runs_logits_in_a_fresh_process(request: pytest.FixtureRequest, kind: str):
    outcome: Outcome = request.getfixturevalue("finished" if kind == "full" else "finished_lora")
    done = subprocess.run(
        [sys.executable, "-c", RELOAD, str(outcome.directory), kind],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.split("difference")[1].split()[0]) < 1e-5
    assert "### Response:" in done.stdout


@pytest.mark.parametrize("kind", ["full", "lora"])
def test_the_card_in_the_result_is_the_runs_own_and_its_code_works(request: pytest.FixtureRequest, kind: str):
    outcome: Outcome = request.getfixturevalue("finished" if kind == "full" else "finished_lora")
    card = (outcome.directory / "model" / "README.md").read_text()
    header = yaml.safe_load(card.split("---")[1])
    assert header["library_name"] == ("transformers" if kind == "full" else "peft")
    data = json.loads((outcome.directory / "data.json").read_text())
    scores = f"| {outcome.summary['eval/loss_before']:.4f} | {outcome.summary['eval/loss']:.4f} |"
    for part in (
        scores,
        data["lineage"]["data"][0]["content_hash"],
        "template `alpaca`",
        "licence of",
        "More Information",
    ):
        assert (part in card) == (part != "More Information")
    code = card.split("```python\n")[1].split("```")[0]
    shown = io.StringIO()
    with contextlib.chdir(outcome.directory / "model"), contextlib.redirect_stdout(shown):
        exec(compile(code.replace("max_new_tokens=256", "max_new_tokens=2"), "card", "exec"), {})
    assert shown.getvalue()


def test_the_template_lies_beside_the_weights(finished: Outcome):
    template = json.loads((finished.directory / "model" / "template.json").read_text())
    assert template["name"] == "alpaca"
    assert "{instruction}" in template["prompt_with_input"]
    assert len(template["hash"]) == 64


def test_an_adapter_run_saves_the_adapter_alone(finished_lora: Outcome):
    names = {file.name for file in (finished_lora.directory / "model").iterdir()}
    assert "adapter_model.safetensors" in names
    assert "model.safetensors" not in names
    assert finished_lora.summary["trained_parameters"] < finished_lora.summary["parameters"] / 5


def test_an_adapter_that_learned_nothing_is_no_result(workplace: Path):
    outcome = alpaca_run(
        workplace,
        "model=tiny",
        "data_source=json",
        "data_source.path=rows.json",
        "tracker=disabled",
        "evaluation=none",
        "adapter=lora",
        "optimizer.lr=1e-45",
        "train.eval_rows=0",
        "train.max_steps=1",
    )
    assert (outcome.status, outcome.summary["status"]) == (1, "failed")
    assert "did not learn" in outcome.err
    assert not (outcome.directory / "model").exists()


def test_what_a_run_saves_can_be_read_by_whoever_the_umask_allows(tmp_path: Path):
    before = os.umask(0o027)
    try:
        (tmp_path / "model" / "base").mkdir(parents=True)
        save_file({"weight": torch.zeros(1)}, str(tmp_path / "model" / "base" / "model.safetensors"))
        (tmp_path / "model" / "base").chmod(0o2700)  # as in a folder that hands its group on
        give_usual_mode(tmp_path / "model")
    finally:
        os.umask(before)
    modes = {each.name: each.stat().st_mode & 0o7777 for each in tmp_path.rglob("*")}
    assert modes == {"model": 0o750, "base": 0o2750, "model.safetensors": 0o640}


def test_every_file_of_a_finished_run_has_the_usual_mode(finished: Outcome):
    usual = 0o666 & ~umask()
    files = [each for each in finished.directory.rglob("*") if each.is_file()]
    assert {each.name for each in files} >= {"model.safetensors", "probe.safetensors"}
    assert {each.name: oct(each.stat().st_mode & 0o777) for each in files} == {each.name: oct(usual) for each in files}
