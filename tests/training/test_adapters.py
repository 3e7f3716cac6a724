"""Every adapter, from the command to plain peft and to a merged model: it learns, and reloads with the run's logits."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from commands import CHECKOUT, SMALL, Outcome, alpaca_run, some_rows
from safetensors import safe_open
from safetensors.torch import load_file
from tiny_models import CPU, FP32, LORA, build, family, some_examples

from alpaca.config import AdapterConfig
from alpaca.errors import RunFailed, UserError
from alpaca.export import main as export
from alpaca.modeling.adapters import add_adapter
from alpaca.modeling.finished import load_finished
from alpaca.training.batches import Layout
from alpaca.training.saving import save_model
from alpaca.training.self_check import self_check

ADAPTERS = sorted(file.stem for file in (CHECKOUT / "conf/adapter").glob("*.yaml"))
LORAS = [name for name in ADAPTERS if name != "full"]
BOUND = 1e-4

# In a process that knows nothing of this project: each result by peft on its base, each export by transformers.
RELOAD = """
import json, sys, torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig
from peft import AutoPeftModelForCausalLM
found = {}
for run in sys.argv[1:]:
    probe = load_file(f"{run}/probe.safetensors")
    name = run.rsplit("/", 1)[-1]
    settings = {"dtype": torch.float32}
    if name in ("qlora", "qdora"):
        settings["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32)
    if name == "qlora_8bit":
        settings["quantization_config"] = BitsAndBytesConfig(load_in_8bit=True)
    kind = AutoModelForCausalLM if name == "full" else AutoPeftModelForCausalLM
    models = {"result": kind.from_pretrained(f"{run}/model", **settings),
              "export": AutoModelForCausalLM.from_pretrained(f"{run}/export", dtype=torch.float32)}
    for what, model in models.items():
        # In evaluation mode bitsandbytes computes otherwise on a CPU: 8-bit activations, scales in bf16.
        model.train("quantization_config" in settings and what == "result")
        with torch.no_grad():
            logits = model(input_ids=probe["input_ids"]).logits[0, -1].float()
        found[f"{name} {what}"] = float((logits - probe["logits"]).abs().max())
assert "alpaca" not in sys.modules
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Outcome]:
    """A run of the tiny model with every adapter, without dropout, and its export."""
    folder = tmp_path_factory.mktemp("adapters")
    (folder / "rows.json").write_text(json.dumps(some_rows(48)))
    bare = [part for part in SMALL if not part.startswith(("evaluation", "train.eval_rows"))]
    runs = {}
    for name in ADAPTERS:
        (folder / name).mkdir()
        (folder / name / "rows.json").symlink_to(folder / "rows.json")
        dropout = [] if name == "full" else ["adapter.dropout=0"]
        runs[name] = alpaca_run(
            folder / name, *bare, *dropout, "evaluation=none", "train.eval_rows=0", "train.epochs=2",
            f"adapter={name}", f"output_dir={name}",
        )  # fmt: skip
        assert runs[name].status == 0, runs[name].err
    return runs


@pytest.fixture(scope="module")
def exported(tuned: dict[str, Outcome]) -> dict[str, Path]:
    """The export of every run."""
    for outcome in tuned.values():
        assert export([str(outcome.directory)]) == 0
    return {name: outcome.directory / "export" for name, outcome in tuned.items()}


@pytest.fixture(scope="module")
def differences(tuned: dict[str, Outcome], exported: dict[str, Path]) -> dict[str, float]:
    """Largest difference of a logit from the run's own, of results and exports loaded in a fresh process."""
    folders = [str(outcome.directory) for outcome in tuned.values()]
    done = subprocess.run(
        [sys.executable, "-c", RELOAD, *folders], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", ADAPTERS)
def test_every_adapter_lowers_the_loss(tuned: dict[str, Outcome], name: str):
    losses = tuned[name].metrics("train/loss")
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.15


@pytest.mark.parametrize("name", ADAPTERS)
def test_packing_is_exact_with_every_adapter(tuned: dict[str, Outcome], name: str):
    (checked,) = re.findall(r"loss differs by (\S+), gradient by (\S+) ", tuned[name].out)
    assert all(float(difference) < 1e-5 for difference in checked)


@pytest.mark.parametrize("name", LORAS)
def test_results_load_with_plain_peft_in_a_fresh_process(differences: dict[str, float], name: str):
    assert differences[f"{name} result"] < BOUND


@pytest.mark.parametrize("name", ADAPTERS)
def test_exports_load_with_plain_transformers_in_a_fresh_process(differences: dict[str, float], name: str):
    assert differences[f"{name} export"] < BOUND


@pytest.mark.parametrize("name", LORAS)
def test_a_run_loads_with_its_own_quantisation_and_finds_a_base_that_moved(
    tuned: dict[str, Outcome], name: str, tmp_path: Path
):
    moved = tmp_path / "elsewhere"
    shutil.copytree(tuned[name].directory, moved, ignore=shutil.ignore_patterns("export", ".*"))
    config = json.loads((moved / "model" / "adapter_config.json").read_text())
    (moved / "model" / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "/nowhere"}))
    loaded, probe = load_finished(moved, device=CPU), load_file(moved / "probe.safetensors")
    with torch.no_grad():
        logits = loaded.model(input_ids=probe["input_ids"]).logits[0, -1]
    assert float((logits - probe["logits"]).abs().max()) < BOUND
    assert bool(getattr(loaded.model.get_base_model(), "is_loaded_in_4bit", False)) == (name in ("qlora", "qdora"))
    assert loaded.template.name == "alpaca"


@pytest.mark.parametrize("name", LORAS)
def test_the_trained_share_is_printed_and_only_the_adapter_is_saved(tuned: dict[str, Outcome], name: str):
    summary, folder = tuned[name].summary, tuned[name].directory / "model"
    share = f"{summary['trained_parameters']:,} of {summary['parameters']:,} parameters trained"
    assert share in tuned[name].out
    with safe_open(str(folder / "adapter_model.safetensors"), framework="pt") as tensors:
        saved = {key: tensors.get_slice(key).get_shape() for key in tensors.keys()}  # noqa: SIM118 - not a mapping
    size = sum(torch.Size(shape).numel() for shape in saved.values())
    assert size == summary["trained_parameters"] * (2 if name == "pissa" else 1)
    assert any("lora_magnitude_vector" in key for key in saved) == ("dora" in name)


def test_a_quantised_base_counts_its_weights_not_its_bytes(tuned: dict[str, Outcome]):
    plain = tuned["rslora"].summary
    for name in ("qlora", "qlora_8bit"):  # the same rank on the same layers
        assert tuned[name].summary["parameters"] == plain["parameters"]


def test_pissa_starts_where_the_base_is_and_is_saved_as_a_lora_of_it(tuned: dict[str, Outcome]):
    first = tuned["lora"].metrics("train/loss")[0]
    assert tuned["pissa"].metrics("train/loss")[0] == pytest.approx(first, rel=1e-5)
    config = json.loads((tuned["pissa"].directory / "model" / "adapter_config.json").read_text())
    assert (config["r"], config["lora_alpha"], config["init_lora_weights"]) == (32, 32, True)


@pytest.mark.parametrize("rslora", [False, True])
def test_a_saved_pissa_adapter_is_what_was_trained(rslora: bool, tmp_path: Path):
    from peft import PeftModel

    architecture = family("llama")
    model = build(architecture, AdapterConfig(kind="lora", rank=4, alpha=6, init="pissa", use_rslora=rslora))
    ids = some_examples().ids(0)[None]
    with torch.no_grad():
        expected = model.eval().base_model.model.set_attn_implementation("sdpa") or model(torch.tensor(ids)).logits
    save_model(model, _Tokenizer(), tmp_path / "model", {}, lambda path, content: None)
    untouched = build(architecture, implementation="sdpa")
    plain = PeftModel.from_pretrained(untouched, tmp_path / "model").eval()
    with torch.no_grad():
        torch.testing.assert_close(plain(torch.tensor(ids)).logits, expected, atol=1e-5, rtol=1e-4)


class _Tokenizer:
    bos_token_id, eos_token_id, pad_token_id = 1, 2, 0

    def save_pretrained(self, folder: Path) -> None:
        """No tokenizer is needed here."""


def test_a_pissa_adapter_that_did_not_move_is_no_result(tmp_path: Path):
    model = add_adapter(build(family("llama")), AdapterConfig(kind="lora", rank=4, init="pissa"), seed=0)
    with pytest.raises(RunFailed, match="did not learn: every B matrix is still where it started"):
        save_model(model, _Tokenizer(), tmp_path / "model", {}, lambda path, content: None)
    assert not (tmp_path / "model").exists()


def test_pissa_of_more_vectors_than_a_layer_has_is_refused():
    with pytest.raises(UserError, match=r"adapter.rank=64 with adapter.init=pissa: .* only 16 singular vectors"):
        build(family("llama"), AdapterConfig(kind="lora", rank=64, init="pissa"))


def test_gaussian_start_differs_from_the_default_and_leaves_the_model_as_it_was():
    default, gaussian = (
        add_adapter(build(family("llama")), AdapterConfig(kind="lora", rank=4, init=init), seed=0)
        for init in ("default", "gaussian")
    )
    for name, value in gaussian.state_dict().items():
        if "lora_A" in name:
            assert not torch.equal(value, default.state_dict()[name])
        if "lora_B" in name:
            assert not bool(value.any())


@pytest.mark.parametrize("changes", [{"use_dora": True}, {"use_rslora": True}, {"init": "pissa"}], ids=str)
@pytest.mark.parametrize("architecture", ["qwen3", "opt", "gpt_neox"])
def test_packing_is_exact_with_variants_of_lora_on_other_models(architecture: str, changes: dict):
    extra = {"ffn_dim": 48, "word_embed_proj_dim": 32, "dropout": 0.0} if architecture == "opt" else {}
    model = build(family(architecture, **extra), AdapterConfig(**{**vars(LORA), **changes}))
    result = self_check(model, some_examples(), Layout(2048, share_prefix=True), FP32)
    assert result.gradient < 1e-5


@pytest.mark.slow
def test_qlora_lowers_the_held_out_loss_of_the_embedded_model_and_merges(tmp_path: Path, capsys: pytest.CaptureFixture):
    outcome = alpaca_run(
        tmp_path, "model=smollm2_135m", "data_source=seed_tasks", "adapter=qlora", "tracker=disabled",
        "train.max_length=160", "train.eval_rows=16", "train.global_batch_size=8", "train.max_steps=6",
        "evaluation.quick.generate_rows=0",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert outcome.summary["eval/loss"] < outcome.summary["eval/loss_before"] - 0.02
    assert export([str(outcome.directory), "--output", str(tmp_path / "merged")]) == 0
    said = capsys.readouterr().out
    difference, allowed = re.findall(r"dequantised base by at most (\S+) \(allowed (\S+)\)", said)[0]
    assert 0 < float(difference) < float(allowed)
    assert (tmp_path / "merged" / "model.safetensors").is_file()
