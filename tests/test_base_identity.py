"""The base of a run is named so that others find it, and is loaded again as what it was or not at all."""

import contextlib
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commands import CHECKOUT, SMALL, Outcome, alpaca_run, command_environment, some_rows
from safetensors.torch import load_file, save_file

from alpaca import evaluate, export
from alpaca.config import ModelConfig
from alpaca.errors import UserError
from alpaca.modeling import identity
from alpaca.modeling.finished import load_finished

LORA = (*SMALL, "adapter=lora", "train.self_check=false")
CPU = torch.device("cpu")


def settings_of(run: Path) -> dict[str, str | None]:
    return json.loads((run / "model" / "adapter_config.json").read_text())


@pytest.fixture(scope="module")
def on_folder(tmp_path_factory: pytest.TempPathFactory, finished: Outcome) -> Path:
    """A LoRA run whose base was given as a path relative to where it was started."""
    folder = tmp_path_factory.mktemp("on-folder")
    shutil.copytree(finished.directory / "model", folder / "base")
    (folder / "rows.json").write_text(json.dumps(some_rows(48)))
    outcome = alpaca_run(folder, *LORA, "model.weights=base")
    assert outcome.status == 0, outcome.err
    return outcome.directory


@pytest.fixture
def copied(on_folder: Path, tmp_path: Path) -> tuple[Path, Path]:
    """The run again with a base of its own, both to be changed."""
    run, base = shutil.copytree(on_folder, tmp_path / "run"), tmp_path / "base"
    shutil.copytree(settings_of(on_folder)["base_model_name_or_path"] or "", base)
    config = run / "config.yaml"
    config.write_text(config.read_text().replace(str(settings_of(run)["base_model_name_or_path"]), str(base)))
    return run, base


def replace_weights(base: Path) -> None:
    file = base / "model.safetensors"
    save_file({name: one + 0.1 for name, one in load_file(file).items()}, file, metadata={"format": "pt"})


def test_a_relative_base_is_kept_as_an_absolute_path(on_folder: Path, tmp_path: Path):
    named = Path(str(settings_of(on_folder)["base_model_name_or_path"]))
    assert named.is_absolute()
    assert (named / "model.safetensors").is_file()
    with contextlib.chdir(tmp_path):
        load_finished(on_folder, device=CPU)


def test_a_base_whose_files_were_replaced_is_not_scored(copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]):
    run, base = copied
    (base / "notes.txt").write_text("what loading does not read changes nothing")
    load_finished(run, device=CPU)
    before, known = (run / "summary.json").read_bytes(), identity.content_hash(str(base))
    replace_weights(base)
    for command in (evaluate.main, export.main):
        assert command([str(run)]) == 2
        said = capsys.readouterr().err.strip().splitlines()[-1]
        assert f"(content {str(known)[:12]}, now {str(identity.content_hash(str(base)))[:12]})" in said
        assert "put the old files back, or train again" in said
    assert (run / "summary.json").read_bytes() == before


def test_a_base_that_is_not_there_any_more_is_said_as_that(copied: tuple[Path, Path]):
    run, base = copied
    base.rename(base.with_name("elsewhere"))
    with pytest.raises(UserError, match="is not there; put it back, or set"):
        load_finished(run, device=CPU)


def test_a_run_that_recorded_nothing_of_its_base_is_still_usable(
    copied: tuple[Path, Path], capsys: pytest.CaptureFixture[str]
):
    run, base = copied
    data = json.loads((run / "data.json").read_text())
    del data["lineage"]["model"]["content_hash"]
    (run / "data.json").write_text(json.dumps(data))
    load_finished(run, device=CPU)
    assert capsys.readouterr().err == ""  # the settings in env.json still identify it
    replace_weights(base)
    for _ in range(2):
        load_finished(run, device=CPU)
    assert capsys.readouterr().err.count("was not recorded") == 1


def test_weights_in_a_package_are_named_by_the_hub_id_of_their_original():
    embedded = ModelConfig(weights="package:some_package/model.gguf", hub_id="some/model")
    assert identity.public_name(embedded) == ("some/model", None)


def test_a_hub_that_does_not_answer_is_not_said_to_have_another_model(tmp_path: Path):
    base = ModelConfig(weights="nobody/has-this-model")
    assert identity.moved(base, replace(base, revision="0" * 40), tmp_path) is None


# The hub's address is read when its library is imported, so what follows runs in a process of its own.
ON_A_HUB = """
import contextlib, io, shutil, sys
from pathlib import Path
import torch
from commands import SMALL, alpaca_run
from hub_server import hub_on_this_machine
from huggingface_hub import constants
from alpaca.errors import UserError
from alpaca.modeling.finished import load_finished
from alpaca.signature import hub_commit

work, first, second, adapter = map(Path, sys.argv[1:])

def moved():
    hub_commit.cache_clear()
    shutil.rmtree(constants.HF_HUB_CACHE)

with hub_on_this_machine(constants.ENDPOINT) as hub:
    old = hub.publish("me/mine", first)
    run = alpaca_run(work, *SMALL, "adapter=lora", "train.self_check=false", "model.weights=me/mine", "output_dir=run")
    print("trained", run.status, run.err, old)
    new = hub.publish("me/mine", second)
    moved()
    with contextlib.redirect_stderr(io.StringIO()):
        load_finished(work / "run", device=torch.device("cpu"))
    print("loaded the old commit")
    del hub.repositories["me/mine"][old]
    moved()
    try:
        load_finished(work / "run", device=torch.device("cpu"))
    except UserError as error:
        print("refused", old in str(error), new in str(error), error)
    hub.publish("me/adapter", adapter)
    refused = alpaca_run(work, *SMALL, "model.weights=me/adapter", "output_dir=other")
    print("adapter", refused.status, refused.err)
"""


def test_a_hub_base_is_pinned_to_its_commit_and_an_adapter_there_is_no_base(
    workplace: Path, finished: Outcome, finished_lora: Outcome, free_port: int
):
    first = finished.directory / "model"
    second = shutil.copytree(first, workplace / "second")
    replace_weights(second)
    environment = command_environment(
        HF_ENDPOINT=f"http://127.0.0.1:{free_port}",
        HF_HUB_OFFLINE="0",
        HF_HUB_DISABLE_XET="1",
        HF_HUB_DISABLE_TELEMETRY="1",
    )
    environment |= {"HF_HOME": str(workplace / "hf"), "PYTHONPATH": f"{CHECKOUT}:{CHECKOUT / 'tests'}"}
    command = [sys.executable, "-c", ON_A_HUB, workplace, first, second, finished_lora.directory / "model"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    said = dict(line.split(" ", 1) for line in done.stdout.splitlines() if line)
    status, *_, commit = said["trained"].split()
    assert status == "0", done.stdout
    named = settings_of(workplace / "run")
    assert (named["base_model_name_or_path"], named["revision"]) == ("me/mine", commit)
    assert said["loaded"] == "the old commit"
    assert said["refused"].startswith("True True model.weights=me/mine: the run in ")
    assert said["adapter"].startswith("2 alpaca: model.weights=me/adapter: it holds an adapter")
