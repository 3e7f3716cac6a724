"""What starts from a changed or quantised base, or keeps an unusual state, goes on to the same weights all the same."""

import json
from pathlib import Path

import pytest
from commands import SMALL, alpaca_run
from safetensors.torch import load_file

BARE = [part for part in SMALL if not part.startswith(("evaluation", "train.eval_rows"))]
BARE = [*BARE, "evaluation=none", "train.eval_rows=0", "train.save_every_steps=4", "train.keep_checkpoints=1"]
BARE += ["train.save_every_epoch=false"]


@pytest.mark.parametrize(
    "settings",
    [
        ("adapter=pissa",),
        pytest.param(("adapter=qlora",), marks=pytest.mark.slow),  # with its dropout
        ("adapter=qdora", "optimizer=adamw_8bit"),
        pytest.param(("optimizer=muon",), marks=pytest.mark.slow),
        pytest.param(("adapter=lora_plus", "optimizer=schedule_free"), marks=pytest.mark.slow),
        ("optimizer=schedule_free", "train.save_every_epoch=true"),  # from after the last step
    ],
    ids=" ".join,
)
def test_a_run_that_lost_its_last_steps_takes_them_again_with_the_same_result(
    settings: tuple[str, ...], workplace: Path
):
    command = [*BARE, *settings, "output_dir=run"]
    first = alpaca_run(workplace, *command)
    assert first.status == 0, first.err
    weights = {file.name: load_file(file) for file in (workplace / "run/model").glob("*.safetensors")}
    assert weights
    newest = "step-6" if "train.save_every_epoch=true" in settings else "step-4"
    assert [place.name for place in (workplace / "run/checkpoints").glob("step-*")] == [newest]
    (workplace / "run/summary.json").unlink()  # as if the process had died while it saved its result
    for file in (workplace / "run/model").glob("*.safetensors"):
        file.unlink()  # not cut: `weights` is mapped from it
        file.write_bytes(b"")
    again = alpaca_run(workplace, *command)
    assert again.status == 0, again.err
    assert f"from {newest}" in again.out
    assert json.loads((workplace / "run/summary.json").read_text())["status"] == "finished"
    for name, expected in weights.items():
        found = load_file(workplace / "run/model" / name)
        assert found.keys() == expected.keys()
        assert all(bool((found[key] == expected[key]).all()) for key in expected)
    left = {path.name for path in (workplace / "run").iterdir() if path.name.startswith(".")}
    assert left <= {".lock"}
