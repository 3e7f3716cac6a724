"""What a sweep leaves where it keeps nothing, and what it does with files of its own that were damaged."""

import json
from pathlib import Path

import pytest
from commands import SMALL, alpaca_command, alpaca_run

GRID = ("-m", *SMALL, "train.max_steps=2", "train.seed=0,-1", "name=mended")
PLACE = Path("outputs/sweeps/mended")


@pytest.mark.parametrize("given", [(), ("output_dir=here/and/there",)])
@pytest.mark.parametrize("kind", [("sweep.dry_run=true",), ("adapter.rank=0",)], ids=["dry run", "refused"])
def test_where_nothing_runs_nothing_is_left(workplace: Path, given: tuple[str, ...], kind: tuple[str, ...]):
    before = sorted(workplace.iterdir())
    outcome = alpaca_run(workplace, "-m", *SMALL, "train.seed=0,1", *given, *kind)
    assert outcome.status == (0 if "sweep.dry_run=true" in kind else 2), outcome.err
    assert sorted(workplace.iterdir()) == before


def test_folders_that_were_there_before_stay(workplace: Path):
    (workplace / "outputs").mkdir()
    assert alpaca_run(workplace, "-m", *SMALL, "train.seed=0,1", "sweep.dry_run=true").status == 0
    assert list((workplace / "outputs").iterdir()) == []
    (workplace / "mine").mkdir()
    assert alpaca_run(workplace, "-m", *SMALL, "train.seed=0,1", "sweep.dry_run=true", "output_dir=mine").status == 0
    assert (workplace / "mine").is_dir()


def test_damaged_files_are_named_and_made_again(workplace: Path):
    begun = alpaca_command(workplace, *GRID)
    assert begun.status == 1, begun.err
    assert "defaults, seed -1" not in begun.out, "a refused seed belongs to the variant of the others"
    assert "all runs, seed -1" in begun.out
    (folder,) = (workplace / PLACE).glob("train.seed=0-*")
    whole = json.loads((folder / "summary.json").read_text())
    (folder / "summary.json").write_text(json.dumps(whole, indent=2)[:40])
    (workplace / PLACE / "sweep.yaml").write_text("name: mended\njobs:\n- folder: [a\n")

    dry = alpaca_run(workplace, *GRID, "sweep.dry_run=true")
    assert "1 damaged, 1 refused" in dry.out
    again = alpaca_command(workplace, *GRID)
    assert again.status == 1, again.err
    assert f"{PLACE / 'sweep.yaml'}, line 4: no YAML" in again.out
    assert "the sweep writes it anew" in again.out
    assert f"{PLACE / folder.name / 'summary.json'}, line 3: no JSON" in again.out
    assert "the file is damaged: the run is run again" in again.out
    mended = json.loads((folder / "summary.json").read_text())
    assert (mended["status"], mended["eval/loss"]) == ("finished", whole["eval/loss"])
    last = alpaca_run(workplace, *GRID)
    assert "is damaged" not in last.out
    assert last.out.count("finished already, skipped") == 1
