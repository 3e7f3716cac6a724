"""A command line and a sweep file become jobs: products, and changes that are made one at a time."""

import pytest

from alpaca.errors import UserError
from alpaca.sweeping.expansion import combinations, typed_overrides
from alpaca.sweeping.record import parsed_header, read, write


def test_a_grid_is_a_product_and_the_command_line_wins():
    jobs = combinations(["adapter=lora", "train.seed=0,1"], {"adapter.rank": "4,8", "train.seed": "0,1,2"}, [])
    assert [job.differs for job in jobs] == [
        ["adapter.rank=4", "train.seed=0"], ["adapter.rank=4", "train.seed=1"],
        ["adapter.rank=8", "train.seed=0"], ["adapter.rank=8", "train.seed=1"],
    ]  # fmt: skip
    assert all("adapter=lora" in job.overrides for job in jobs)


def test_part_of_a_grid_calls_its_folders_as_the_whole_does():
    grid = {"adapter.rank": "4,8", "train.seed": "0,1,2"}
    (whole, *_), (part,) = (combinations(typed, grid, []) for typed in ([], ["adapter.rank=4", "train.seed=0"]))
    assert whole.name == part.name == "adapter.rank=4,train.seed=0"


def test_changes_are_made_one_at_a_time_each_over_the_whole_grid():
    jobs = combinations(["sweep=x"], {"train.seed": "0,1"}, ["adapter=lora", "template=plain train.epochs=1"])
    assert [job.name for job in jobs] == [
        "base,train.seed=0", "base,train.seed=1",
        "adapter=lora,train.seed=0", "adapter=lora,train.seed=1",
        "template=plain,train.epochs=1,train.seed=0", "template=plain,train.epochs=1,train.seed=1",
    ]  # fmt: skip
    assert not any("adapter=lora" in job.overrides and "template=plain" in job.overrides for job in jobs)


def test_a_change_takes_the_place_of_what_the_command_line_says():
    jobs = combinations(["adapter.rank=4", "train.epochs=2"], {}, ["adapter.rank=8"])
    assert [sorted(job.overrides) for job in jobs] == [
        ["adapter.rank=4", "train.epochs=2"], ["adapter.rank=8", "train.epochs=2"],
    ]  # fmt: skip
    assert [job.name for job in jobs] == ["base", "adapter.rank=8"]


@pytest.mark.parametrize(
    ("entry", "said"),
    [("adapter.rank=4,8", "several values"), ("adapter", "cannot be read"), ("", "cannot be read"), ("a='", "cannot")],
)
def test_a_change_that_is_none_is_refused(entry: str, said: str):
    with pytest.raises(UserError, match=f"sweep.one_at_a_time: .*{said}"):
        combinations([], {}, [entry])


def test_what_is_hydras_own_is_no_override_of_a_job():
    typed = ["-m", "--config-dir", "mine", "hydra.sweep.dir=x", "hydra/launcher=basic", "train.seed=0,1", "+a.b=1"]
    assert typed_overrides(typed) == ["train.seed=0,1", "+a.b=1"]


def test_the_header_of_a_sweep_file_is_read_in_its_parts():
    header = parsed_header(
        "# @package _global_\n# Is it so?\n# Or not?\n# Cost:  much\n#        more\n# Read:  so.\n# Use:   now\n"
    )
    assert (header.question, header.cost, header.read) == ("Is it so? Or not?", "much more", "so.")


def test_jobs_of_an_earlier_command_stay_while_their_directories_do(tmp_path):
    question = parsed_header("# Why?\n")
    write(tmp_path, "s", question, [{"folder": "a"}, {"folder": "b"}, {"folder": None}])
    (tmp_path / "a").mkdir()
    write(tmp_path, "s", question, [{"folder": "c"}])
    assert [job["folder"] for job in read(tmp_path)["jobs"]] == ["c", "a"]
    (tmp_path / "sweep.yaml").write_text("jobs: [")
    with pytest.raises(UserError, match=r"sweep.yaml, line 1: no YAML"):
        read(tmp_path)
    write(tmp_path, "s", question, [{"folder": "c"}])
    assert [job["folder"] for job in read(tmp_path)["jobs"]] == ["c"]
