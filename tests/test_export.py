"""An exported run is a plain model: right dtype, right prompt, a card that says all, there as a whole or not at all."""

import base64
import contextlib
import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
from commands import CHECKOUT, Outcome, command_environment
from omegaconf import OmegaConf
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer

from alpaca.config import ModelConfig, TemplateConfig
from alpaca.data.encoding import encode, encode_prompts
from alpaca.data.rows import Row
from alpaca.data.templates import Template
from alpaca.export import main
from alpaca.modeling.base import load_tokenizer
from alpaca.modeling.chat_template import chat_template, differing_prompt
from alpaca.modeling.tokenizer import text_encoder

TEMPLATES = {
    file.stem: OmegaConf.to_object(OmegaConf.load(file)) for file in sorted((CHECKOUT / "conf/template").glob("*.yaml"))
}
CONVERTER = """
import sys, pathlib
folder, _, target, _, kind = sys.argv[1:]
assert (pathlib.Path(folder) / "model.safetensors").is_file()
pathlib.Path(target).write_text("GGUF " + kind)
"""


def tokenizer_of(*, bos: bool) -> Any:
    """The tiny model's tokenizer; with `bos` it opens every text with its BOS token, as Llama's does."""
    made = load_tokenizer(
        ModelConfig(name="tiny", weights="random", architecture={"model_type": "llama", "vocab_size": 2048})
    )
    if bos:
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", made.bos_token_id)]
        )
    return made


def exported(run: Path, *options: str) -> tuple[int, str, str]:
    """Status, output and errors of the command in this process."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = main([str(run), *options])
    return status, out.getvalue(), err.getvalue()


@pytest.fixture(scope="module")
def folder(finished_lora: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of a LoRA run in bf16, in two files."""
    place = tmp_path_factory.mktemp("exported") / "model"
    status, out, err = exported(
        finished_lora.directory, "--output", str(place), "--dtype", "bf16", "--max-shard-size", "300KB"
    )
    assert (status, err) == (0, "")
    assert "logits     differ from those of the run by at most" in out
    return place


@pytest.mark.parametrize("bos", [False, True], ids=["no opening token", "BOS"])
@pytest.mark.parametrize("name", TEMPLATES)
def test_the_chat_template_asks_exactly_as_training_did(name: str, bos: bool):
    tokenizer, template = tokenizer_of(bos=bos), Template.from_config(TemplateConfig(**TEMPLATES[name]))
    tokenizer.chat_template = chat_template(template, tokenizer)
    assert differing_prompt(template, tokenizer) is None
    encoder = text_encoder(tokenizer)
    for text in ("Say 'hi'.\n\n{{ braces }} {% if %} \\n", "ünïcode ⁂ \U0001f999", "  spaces around  "):
        (expected,) = encode_prompts([Row(text, "", "")], template, encoder)
        found = tokenizer.apply_chat_template([{"role": "user", "content": text}], add_generation_prompt=True)
        assert found["input_ids"] == expected


def test_a_conversation_with_its_answer_is_a_training_example():
    tokenizer, template = tokenizer_of(bos=True), Template.from_config(TemplateConfig(**TEMPLATES["alpaca_lora"]))
    tokenizer.chat_template = chat_template(template, tokenizer)
    examples = encode(
        [Row("Count.", "", "1 2 3")], template, text_encoder(tokenizer), max_length=512, over_length="error"
    )
    turns = [{"role": "user", "content": "Count."}, {"role": "assistant", "content": "1 2 3"}]
    assert tokenizer.apply_chat_template(turns)["input_ids"] == examples.ids(0).tolist()


def test_a_system_message_is_refused_since_none_was_trained():
    tokenizer, template = tokenizer_of(bos=False), Template.from_config(TemplateConfig(**TEMPLATES["alpaca"]))
    tokenizer.chat_template = chat_template(template, tokenizer)
    with pytest.raises(Exception, match="user and assistant messages only, not on system"):
        tokenizer.apply_chat_template([{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}])


def test_dtype_and_shard_size_are_as_asked(folder: Path):
    files = sorted(folder.glob("model-*.safetensors"))
    assert len(files) > 1
    assert all(file.stat().st_size < 400_000 for file in files)
    for file in files:
        with safe_open(str(file), framework="pt") as tensors:
            assert {tensors.get_slice(name).get_dtype() for name in tensors.keys()} == {"BF16"}  # noqa: SIM118
    assert json.loads((folder / "config.json").read_text())["dtype"] == "bfloat16"


def test_an_export_generates_with_nothing_else_said_and_stops_at_eos(folder: Path):
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.generation_config.eos_token_id == tokenizer.eos_token_id
    inputs = tokenizer.apply_chat_template(
        [{"role": "user", "content": "Count from 1 to 4."}], add_generation_prompt=True, return_tensors="pt"
    )
    assert model.generate(**inputs, max_new_tokens=3).shape[1] > inputs["input_ids"].shape[1]


def test_the_card_says_what_the_model_was_made_from(folder: Path, finished_lora: Outcome):
    card = (folder / "README.md").read_text()
    header = OmegaConf.create(card.split("---")[1])
    assert header.library_name == "transformers"
    assert header.license == "other"
    data = json.loads((finished_lora.directory / "data.json").read_text())
    for part in (
        "adapter `lora`",
        f"| eval/loss | {finished_lora.summary['eval/loss_before']:.4f} | {finished_lora.summary['eval/loss']:.4f} |",
        data["lineage"]["data"][0]["content_hash"],
        "licence of",
        "### Response:",
        "global_batch_size: 8",
    ):
        assert part in card
    code = card.split("```python\n")[1].split("```")[0]
    shown = io.StringIO()
    with contextlib.chdir(folder), contextlib.redirect_stdout(shown):
        exec(compile(code.replace("max_new_tokens=256", "max_new_tokens=2"), "card", "exec"), {})
    assert shown.getvalue()


def test_what_is_already_there_is_not_touched(folder: Path, finished_lora: Outcome):
    before = {file.name: file.stat().st_mtime_ns for file in folder.iterdir()}
    status, _, err = exported(finished_lora.directory, "--output", str(folder))
    assert (status, err.count("\n")) == (2, 1)
    assert "already there" in err
    assert {file.name: file.stat().st_mtime_ns for file in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--gguf"], "convert_hf_to_gguf.py is not installed; clone llama.cpp and set LLAMA_CPP"),
        (["--push-to-hub", "me/mine"], "no token of the Hugging Face hub"),
    ],
)
def test_what_cannot_be_done_is_refused_before_anything_is_merged(
    finished_lora: Outcome, tmp_path: Path, options: list[str], says: str, monkeypatch: pytest.MonkeyPatch
):
    for name in ("LLAMA_CPP", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))
    status, out, err = exported(finished_lora.directory, "--output", str(tmp_path / "x"), *options)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert says in err
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("size", ["2", "GB", "-1GB", "1.5 GB"])
def test_a_size_that_is_none_is_refused(finished_lora: Outcome, size: str, capsys: pytest.CaptureFixture[str]):
    assert main([str(finished_lora.directory), f"--max-shard-size={size}"]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"alpaca: --max-shard-size: '{size}' is no size")
    assert "such as 2GB" in said
    assert said.count("\n") == 1


def test_a_folder_that_is_no_finished_run_is_refused(finished_lora: Outcome, tmp_path: Path):
    status, _, err = exported(tmp_path)
    assert (status, "no run directory" in err) == (2, True)
    (tmp_path / "config.yaml").write_bytes((finished_lora.directory / "config.yaml").read_bytes())
    (tmp_path / "summary.json").write_text(json.dumps({"status": "interrupted"}))
    status, _, err = exported(tmp_path)
    assert (status, "not finished (status interrupted)" in err) == (2, True)


def test_a_base_that_is_not_the_runs_fails_and_leaves_nothing(
    finished_lora: Outcome, finished: Outcome, tmp_path: Path
):
    run, base = tmp_path / "run", tmp_path / "base"
    for source, target in ((finished_lora.directory, run), (finished.directory / "model", base)):
        target.mkdir()
        subprocess.run(["cp", "-r", f"{source}/.", str(target)], check=True, timeout=300)
    weights = load_file(base / "model.safetensors")
    draw = torch.Generator().manual_seed(1)
    save_file(
        {name: torch.randn(one.shape, generator=draw) * 0.02 for name, one in weights.items()},
        base / "model.safetensors",
        metadata={"format": "pt"},
    )
    settings = OmegaConf.load(run / "config.yaml")
    settings.model.weights = str(base)
    OmegaConf.save(settings, run / "config.yaml")
    data = json.loads((run / "data.json").read_text())
    del data["lineage"]["model"]["content_hash"]  # as of a run that did not record its base
    (run / "data.json").write_text(json.dumps(data))
    status, _, err = exported(run, "--output", str(tmp_path / "out"))
    assert (status, err.count("\n")) == (1, 2)
    assert "was not recorded" in err
    assert "logits differ from the run's by" in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["base", "run"]


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as an upload needs; keeps what was committed."""

    committed: dict[str, bytes]
    asked: list[dict[str, Any]]

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        assert self.headers["Authorization"] == "Bearer hf_test"
        answer: dict[str, Any] = {}
        if self.path == "/api/repos/create":
            Hub.asked.append(json.loads(body))
            answer = {"url": f"http://{self.headers['Host']}/me/mine", "name": "me/mine", "id": "me/mine"}
        elif "/preupload/" in self.path:
            files = json.loads(body)["files"]
            answer = {"files": [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]}
        elif "/commit/" in self.path:
            for line in map(json.loads, body.decode().splitlines()):
                if line["key"] == "file":
                    Hub.committed[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            answer = {"commitOid": "0" * 40, "commitUrl": f"http://{self.headers['Host']}/me/mine/commit/{'0' * 40}"}
        elif self.path == "/api/validate-yaml":
            answer = {"errors": [], "warnings": []}
        self._answer(answer)

    def do_GET(self) -> None:
        self._answer({"id": "me/mine", "sha": "0" * 40, "siblings": []})

    def _answer(self, content: dict[str, Any]) -> None:
        text = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def hub() -> Iterator[str]:
    """Address of a hub on this machine."""
    Hub.committed, Hub.asked = {}, []
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_new_process_exports_converts_and_uploads(finished: Outcome, tmp_path: Path, hub: str):
    (tmp_path / "llama.cpp").mkdir()
    (tmp_path / "llama.cpp" / "convert_hf_to_gguf.py").write_text(CONVERTER)
    target = tmp_path / "mine"
    environment = command_environment(
        HF_ENDPOINT=hub, HF_TOKEN="hf_test", LLAMA_CPP=str(tmp_path / "llama.cpp"), HF_HUB_DISABLE_TELEMETRY="1"
    )
    environment |= {"HF_HUB_OFFLINE": "0", "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(tmp_path / "hf")}
    options = ["--output", str(target), "--gguf", "--push-to-hub", "me/mine"]
    command = [sys.executable, "-m", "alpaca.export", str(finished.directory), *options]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (target / "mine.gguf").read_text() == "GGUF f32"
    assert "private" in (
        Hub.asked[0].get("visibility"),
        *Hub.asked[0],
    )  # by either name, as the client's version has it
    assert Hub.committed.keys() == {file.name for file in target.iterdir() if file.is_file()}
    assert Hub.committed["model.safetensors"] == (target / "model.safetensors").read_bytes()
    assert f"uploaded   {hub}/me/mine" in done.stdout
    assert os.stat(target / "model.safetensors").st_mode == os.stat(target / "config.json").st_mode


def test_help_is_instant_because_nothing_heavy_is_imported():
    code = (
        "import sys, alpaca.export as e\n"
        "try: e.main(['--help'])\n"
        "except SystemExit as end: print(end.code, [m for m in ('torch', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=command_environment(), capture_output=True, text=True, timeout=300
    )
    assert done.stdout.splitlines()[-1] == "0 []", done.stderr
    assert "--max-shard-size" in done.stdout
