"""A checkpoint is whole or absent, holds every kind of tensor bit for bit, and the newest ones stay."""

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from alpaca.errors import RunFailed, UserError
from alpaca.training.checkpoint import Checkpoints, Reader, damage, restore_rng, rng_state
from alpaca.training.world import World

CPU = torch.device("cpu")


def some_tensors(seed: int = 0) -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return {
        "model/a": torch.randn(7, 3, generator=draw),
        "model/b": torch.randn(5, generator=draw).to(torch.bfloat16),
        "optimizer/a/step": torch.tensor(3.0),
        "optimizer/a/state": torch.randint(0, 255, (4, 4), dtype=torch.uint8, generator=draw),
        "optimizer/a/empty": torch.zeros(0, 2),
    }


def opened(folder: Path) -> Checkpoints:
    return Checkpoints(folder, World(), CPU)


def steps(folder: Path) -> list[int]:
    return sorted(int(each.name.removeprefix("step-")) for each in folder.glob("step-*"))


def test_every_kind_of_tensor_comes_back_bit_for_bit(tmp_path: Path):
    opened(tmp_path).save(4, some_tensors(), {"note": [1, 2]}, keep=1)
    reader = Reader(tmp_path / "step-4")
    assert (reader.facts["step"], reader.facts["note"]) == (4, [1, 2])
    for name, tensor in some_tensors().items():
        target = torch.empty_like(tensor)
        reader.read_into(name, target)
        assert target.dtype == tensor.dtype
        assert torch.equal(target, tensor)


def test_the_newest_stay_and_at_least_one(tmp_path: Path):
    checkpoints = opened(tmp_path)
    for step in (1, 2, 3, 4):
        checkpoints.save(step, some_tensors(step), {}, keep=2)
    assert steps(tmp_path) == [3, 4]
    checkpoints.save(5, some_tensors(), {}, keep=0)
    assert steps(tmp_path) == [5]


def test_a_damaged_later_one_never_displaces_what_is_written_after_it(tmp_path: Path):
    checkpoints, said = opened(tmp_path), []
    checkpoints.save(9, some_tensors(), {}, keep=1)
    (tmp_path / "step-9" / "rank-0.safetensors").write_bytes(b"short")
    assert checkpoints.newest(said.append) is None
    assert "step-9 is damaged and passed over: rank-0.safetensors has 5 bytes" in said[0]
    checkpoints.save(3, some_tensors(), {}, keep=1)
    assert checkpoints.newest() == tmp_path / "step-3"


@pytest.mark.parametrize("name", ["rank-0.safetensors", "rank-0.json"])
def test_a_changed_byte_in_any_file_is_noticed(name: str, tmp_path: Path):
    opened(tmp_path).save(1, some_tensors(), {}, keep=1)
    file = tmp_path / "step-1" / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert damage(tmp_path / "step-1") is not None


def test_an_unfinished_folder_is_no_checkpoint_and_is_cleaned_away(tmp_path: Path):
    (tmp_path / ".step-7").mkdir(parents=True)
    (tmp_path / ".step-7" / "rank-0.safetensors").write_bytes(b"half")
    checkpoints = opened(tmp_path)
    assert checkpoints.newest() is None
    checkpoints.clean()
    assert list(tmp_path.iterdir()) == []


def test_a_rehearsal_leaves_nothing(tmp_path: Path):
    size = opened(tmp_path).rehearse(some_tensors(), {})
    assert size > 0
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_cannot_be_written_is_one_line_and_keeps_what_was_there(tmp_path: Path):
    checkpoints = opened(tmp_path / "file" / "checkpoints")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(RunFailed, match=r"the checkpoint could not be written .*train.save_every_steps"):
        checkpoints.save(1, some_tensors(), {}, keep=1)


def test_a_tensor_of_another_model_is_refused(tmp_path: Path):
    opened(tmp_path).save(1, some_tensors(), {}, keep=1)
    reader = Reader(tmp_path / "step-1")
    with pytest.raises(UserError, match=r"model/a has shape \(7, 3\), the model's is \(7, 4\)"):
        reader.read_into("model/a", torch.empty(7, 4))
    with pytest.raises(UserError, match="model/c is missing"):
        reader.read_into("model/c", torch.empty(1))


def test_slices_of_several_ranks_are_put_together_over_any_range(tmp_path: Path):
    """As FSDP leaves them: rows 0-2 in one file, 3-4 in another."""
    whole = torch.arange(15.0).view(5, 3)
    folder = tmp_path / "step-1"
    folder.mkdir()
    for rank, (start, end) in enumerate([(0, 3), (3, 5)]):
        save_file({"model/a": whole[start:end].contiguous()}, str(folder / f"rank-{rank}.safetensors"))
        (folder / f"rank-{rank}.json").write_text(json.dumps({"slices": {"model/a": [[5, 3], start]}}))
    (folder / "checkpoint.json").write_text(json.dumps({"step": 1, "files": {}}))
    reader = Reader(folder)
    assert torch.equal(reader.read("model/a"), whole)
    for start in range(5):
        for count in range(1, 6 - start):
            assert torch.equal(reader.read("model/a", start, count), whole[start : start + count])


def test_random_generators_go_on_where_they_were(tmp_path: Path):
    torch.manual_seed(5)
    np.random.seed(6)
    random.seed(7)
    assert random.gauss(0, 1) != np.random.normal()  # both keep a spare value
    opened(tmp_path).save(1, rng_state(0, CPU), {}, keep=1)
    expected = torch.rand(3).tolist(), np.random.normal(size=3).tolist(), [random.gauss(0, 1) for _ in range(3)]
    assert torch.rand(9).sum() != np.random.normal(size=9).sum() + random.random()
    assert restore_rng(Reader(tmp_path / "step-1"), 0, CPU)
    found = torch.rand(3).tolist(), np.random.normal(size=3).tolist(), [random.gauss(0, 1) for _ in range(3)]
    assert found == expected
    assert not restore_rng(Reader(tmp_path / "step-1"), 1, CPU)  # a rank that was not there
