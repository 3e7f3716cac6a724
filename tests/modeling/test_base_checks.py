"""A base that cannot be trained, or that does not know a token of the rows, is refused in one line before it loads."""

import json
import shutil
from pathlib import Path

import pytest
from commands import SMALL, Outcome, alpaca_run, some_rows
from transformers import AutoTokenizer

STORED = {
    "bitsandbytes, 4 bits": {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"},
    "bitsandbytes, 8 bits": {"quant_method": "bitsandbytes", "load_in_8bit": True},
    "gptq": {"quant_method": "gptq", "bits": 4, "group_size": 128},
    "awq": {"quant_method": "awq", "bits": 4, "group_size": 128},
    "fp8": {"quant_method": "fp8", "activation_scheme": "dynamic"},
    "mxfp4": {"quant_method": "mxfp4"},
}


def copied(finished: Outcome, folder: Path, **settings: object) -> Path:
    """The finished run's model as a base of its own, with other settings in its config.json."""
    base = folder / "base"
    shutil.copytree(finished.directory / "model", base)
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, **settings}))
    return base


def refused(folder: Path, base: Path, *more: str) -> str:
    (folder / "rows.json").write_text(json.dumps(some_rows(16)))
    outcome = alpaca_run(folder, *SMALL, f"model.weights='{base}'", "train.eval_rows=2", *more)
    assert (outcome.status, len(outcome.err.strip().splitlines())) == (2, 1), outcome.err
    assert "training" not in outcome.out
    return outcome.err


@pytest.mark.parametrize("kind", STORED)
def test_a_base_that_is_already_quantised_is_refused_in_one_line(kind: str, finished: Outcome, tmp_path: Path):
    base = copied(finished, tmp_path, quantization_config=STORED[kind])
    adapter = "adapter=full" if kind == "gptq" else "adapter=qlora" if kind == "awq" else "adapter=lora"
    error = refused(tmp_path, base, adapter)
    assert f"model.weights={base}: its weights are already quantised ({kind})" in error
    assert "give the original weights, with adapter=qlora" in error


def test_a_template_with_tokens_beyond_the_embedding_is_refused_in_one_line(finished: Outcome, tmp_path: Path):
    base = copied(finished, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
    tokenizer.save_pretrained(base)
    error = refused(tmp_path, base, "template=chatml")
    assert "the tokenizer has token 2049 (<|im_end|>), but the model's embedding has 2048 rows" in error
    assert "template=alpaca" in error


def test_an_eos_beyond_the_embedding_is_refused_in_one_line(finished: Outcome, tmp_path: Path):
    base = copied(finished, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_special_tokens({"eos_token": "<|endoftext|>"})
    tokenizer.save_pretrained(base)
    assert "the tokenizer has token 2048 (<|endoftext|>), but the model's embedding has 2048 rows" in refused(
        tmp_path, base
    )


def test_a_config_with_a_value_of_the_wrong_type_is_refused_in_one_line(finished: Outcome, tmp_path: Path):
    base = copied(finished, tmp_path, hidden_size="64")
    assert f"model.weights={base}: its config.json is wrong (Validation error for field 'hidden_size'" in refused(
        tmp_path, base
    )
