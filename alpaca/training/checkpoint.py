"""Checkpoints: `checkpoints/step-N/`, complete or absent, readable by any number of ranks.

Every rank writes what it holds: `rank-R.safetensors` with its slices of the trained weights and the
optimizer's state, and `rank-R.json` with where each slice belongs and the file's hash. Slices are cut along
the first dimension, as FSDP2 cuts. When all are there, rank 0 writes `checkpoint.json` and renames the
folder from `.step-N` to its name; anything without that name is not a checkpoint. Nothing is pickled.
"""

import contextlib
import hashlib
import json
import os
import random
import re
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch.distributed.tensor import DTensor
from torch.distributed.tensor._utils import compute_local_shape_and_global_offset

from alpaca.errors import RunFailed, UserError
from alpaca.paths import give_usual_mode
from alpaca.tracking.run_directory import write_text
from alpaca.training.world import World

REHEARSAL = ".rehearsal"
MANIFEST = "checkpoint.json"
WAIT_S = 1800  # for the slowest rank's file
_NAME = re.compile(r"step-(\d+)$")


@dataclass(frozen=True)
class Slice:
    """Rows `start` to `start + len(data)` of a tensor of `shape`; a scalar is its own only slice."""

    data: torch.Tensor
    shape: tuple[int, ...]
    start: int = 0

    @staticmethod
    def of(tensor: torch.Tensor) -> "Slice | None":
        """What this rank keeps of `tensor`; None where another rank keeps the same."""
        if not isinstance(tensor, DTensor):
            return Slice(tensor.detach(), tuple(tensor.shape))
        mesh, placements = tensor.device_mesh, tensor.placements
        coordinate = mesh.get_coordinate()
        assert coordinate is not None
        if any(place.is_replicate() and at for place, at in zip(placements, coordinate, strict=True)):
            return None
        _, offset = compute_local_shape_and_global_offset(tensor.shape, mesh, placements)
        return Slice(tensor.to_local().detach(), tuple(tensor.shape), offset[0] if offset else 0)


class Checkpoints:
    """The checkpoints of one run, as one rank writes and reads them."""

    def __init__(self, folder: Path, world: World, device: torch.device):
        self.folder, self._world, self._device = folder, world, device
        self._pending: Future[None] | None = None
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="checkpoint") if device.type == "cuda" else None

    def save(self, step: int, tensors: dict[str, torch.Tensor], facts: dict[str, Any], *, keep: int) -> None:
        """Write the checkpoint of `step`; afterwards at most `keep` remain.

        On a GPU the tensors are copied to the host and written while training goes on; `wait` sees the end.

        Raises:
            RunFailed: the disk is full or cannot be written. What was there before is left.
        """
        self.wait()
        mine = self._mine(tensors)
        self._write_all(step, mine, facts, keep)

    def rehearse(self, tensors: dict[str, torch.Tensor], facts: dict[str, Any]) -> int:
        """Write and remove everything a checkpoint would hold; returns this rank's bytes."""
        place = self.folder / REHEARSAL
        self._prepare(place)
        try:
            size = self._write_rank(place, self._mine(tensors), facts)
        finally:
            self._world.barrier()
            if self._world.is_main:
                shutil.rmtree(place, ignore_errors=True)
        return size

    def clean(self) -> None:
        """Remove what an earlier process left unfinished."""
        if self._world.is_main:
            for left in (*self.folder.glob(".step-*"), self.folder / REHEARSAL):
                shutil.rmtree(left, ignore_errors=True)

    def wait(self) -> None:
        """Until a checkpoint under way is complete; raises what went wrong."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            pending.result()

    def close(self) -> None:
        """No more checkpoints will be written."""
        if self._writer is not None:
            self._writer.shutdown(wait=True)

    def remove_all(self) -> None:
        """The run is finished and keeps none; what no run wrote stays."""
        if self._world.is_main:
            self.clean()
            for each in _complete(self.folder):
                shutil.rmtree(each, ignore_errors=True)
            with contextlib.suppress(OSError):  # something else is in it, or there is none
                self.folder.rmdir()

    def newest(self, on_bad: Any = lambda text: None) -> Path | None:
        """The newest complete checkpoint; each one that is damaged is told to `on_bad` and passed over.

        Rank 0 looks, all ranks get its answer.
        """
        found = None
        if self._world.is_main:
            for folder in sorted(_complete(self.folder), key=_step, reverse=True):
                if problem := damage(folder):
                    on_bad(f"checkpoint {folder.name} is damaged and passed over: {problem}")
                    continue
                found = str(folder)
                break
        found = self._world.tell(found)
        return Path(found) if found else None

    def _mine(self, tensors: dict[str, torch.Tensor]) -> dict[str, Slice]:
        kept = {}
        for name, tensor in tensors.items():
            is_private = name.startswith(f"rng/{self._world.rank}/")
            if self._world.is_main or is_private or isinstance(tensor, DTensor):
                found = Slice.of(tensor)
                if found is not None and (found.data.numel() or self._world.is_main):
                    kept[name] = found
        return kept

    def _write_all(self, step: int, mine: dict[str, Slice], facts: dict[str, Any], keep: int) -> None:
        place = self.folder / f".step-{step}"
        self._prepare(place)
        if self._writer is None:
            self._write_rank(place, mine, facts)
            self._world.barrier()
            if self._world.is_main:
                self._complete(place, step, facts, keep)
            self._world.barrier()
            return
        copied = {name: Slice(each.data.to("cpu", copy=True), each.shape, each.start) for name, each in mine.items()}

        def write() -> None:
            self._write_rank(place, copied, facts)
            if self._world.is_main:
                self._complete(place, step, facts, keep)

        self._pending = self._writer.submit(write)

    def _prepare(self, place: Path) -> None:
        if self._world.is_main:
            shutil.rmtree(place, ignore_errors=True)
            _guarded(place, lambda: place.mkdir(parents=True))
        self._world.barrier()

    def _write_rank(self, place: Path, mine: dict[str, Slice], facts: dict[str, Any]) -> int:
        name = f"rank-{self._world.rank}.safetensors"

        def write() -> int:
            save_file({key: each.data.contiguous() for key, each in mine.items()}, str(place / name))
            give_usual_mode(place / name)
            _flush(place / name)
            slices = {key: [list(each.shape), each.start] for key, each in mine.items()}
            size = (place / name).stat().st_size
            content = {"slices": slices, "bytes": size, "sha256": _hash(place / name)}
            write_text(place / f"rank-{self._world.rank}.json", json.dumps(content))
            return size

        return int(_guarded(place, write))

    def _complete(self, place: Path, step: int, facts: dict[str, Any], keep: int) -> None:
        """Rank 0: once every rank's part is there, the checkpoint gets its name and older ones go."""
        self._wait_for_ranks(place)
        ranks = [json.loads((place / f"rank-{rank}.json").read_text()) for rank in range(self._world.size)]
        files: dict[str, Any] = {}
        for rank, said in enumerate(ranks):
            index = place / f"rank-{rank}.json"
            files[index.name] = {"bytes": index.stat().st_size, "sha256": _hash(index)}
            files[f"rank-{rank}.safetensors"] = {key: said[key] for key in ("bytes", "sha256")}
        _guarded(place, lambda: write_text(place / MANIFEST, json.dumps({"step": step, "files": files, **facts})))
        final = self.folder / f"step-{step}"
        shutil.rmtree(final, ignore_errors=True)  # damaged: this step is done again
        os.replace(place, final)
        _flush(self.folder)
        earlier = [each for each in _complete(self.folder) if _step(each) <= step]
        later = [each for each in _complete(self.folder) if _step(each) > step]  # damaged: this run was not there yet
        for old in sorted(earlier, key=_step)[: -max(1, keep)] + later:
            gone = old.with_name(f".{old.name}")  # a name that is no checkpoint's, before the first file goes
            os.replace(old, gone)
            shutil.rmtree(gone, ignore_errors=True)

    def _wait_for_ranks(self, place: Path) -> None:
        until = time.monotonic() + WAIT_S
        while missing := [rank for rank in range(self._world.size) if not (place / f"rank-{rank}.json").is_file()]:
            if time.monotonic() > until:
                raise RunFailed(
                    f"{place}: nothing from rank {missing[0]} after {WAIT_S} s; all nodes must write to one shared "
                    "folder"
                )
            time.sleep(0.05)


class Reader:
    """A complete checkpoint, read slice by slice."""

    def __init__(self, folder: Path):
        self.facts: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        self._files: dict[str, list[tuple[int, Path]]] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for file in sorted(folder.glob("rank-*.json")):
            for name, (shape, start) in json.loads(file.read_text(encoding="utf-8"))["slices"].items():
                self._files.setdefault(name, []).append((start, file.with_suffix(".safetensors")))
                self.shapes[name] = tuple(shape)

    def names(self, prefix: str) -> Iterator[str]:
        """Names of the tensors under `prefix`."""
        return (name for name in self.shapes if name.startswith(prefix))

    def read_into(self, name: str, target: torch.Tensor) -> None:
        """Fill `target`, or this rank's part of it where it is split; a plain tensor or a DTensor.

        Raises:
            UserError: the checkpoint has no such tensor, or one of another shape.
        """
        if self.shapes.get(name) != tuple(target.shape):
            found = self.shapes.get(name)
            what = "is missing" if found is None else f"has shape {found}, the model's is {tuple(target.shape)}"
            raise UserError(
                f"checkpoint: {name} {what}; it belongs to another model, start anew with train.resume=never"
            )
        start, local = 0, target
        if isinstance(target, DTensor):
            _, offset = compute_local_shape_and_global_offset(target.shape, target.device_mesh, target.placements)
            start, local = (offset[0] if offset else 0), target.to_local()
        local.copy_(self.read(name, start, len(local)) if local.dim() else self.read(name))

    def read(self, name: str, start: int = 0, count: int | None = None) -> torch.Tensor:
        """The whole tensor, or `count` rows of it from `start` on, put together from all ranks' slices."""
        parts: list[torch.Tensor] = []
        for first, file in sorted(self._files[name], key=lambda each: each[0]):
            with safe_open(str(file), framework="pt") as tensors:
                if not self.shapes[name]:
                    return tensors.get_tensor(name)
                view = tensors.get_slice(name)
                rows = view.get_shape()[0]
                end = self.shapes[name][0] if count is None else start + count
                low, high = max(start, first), min(end, first + rows)
                if low < high or not parts:
                    parts.append(view[max(0, low - first) : max(0, high - first)])
        return torch.cat(parts) if len(parts) > 1 else parts[0]


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint's files, or None."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        for name, expected in manifest["files"].items():
            size = (folder / name).stat().st_size
            if size != expected["bytes"]:
                return f"{name} has {size} bytes instead of {expected['bytes']}"
            if _hash(folder / name) != expected["sha256"]:
                return f"{name} does not hold what was written"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def rng_state(rank: int, device: torch.device) -> dict[str, torch.Tensor]:
    """States of this rank's random generators: torch's, numpy's and Python's."""
    numpy_state: Any = np.random.get_state()
    version, words, gauss = random.getstate()
    found = {
        "torch": torch.get_rng_state(),
        "numpy": torch.from_numpy(numpy_state[1].astype(np.int64)),
        "numpy_rest": torch.tensor([float(part) for part in numpy_state[2:]], dtype=torch.float64),
        "python": torch.tensor(words, dtype=torch.int64),
        "python_rest": torch.tensor([version, gauss if gauss is not None else float("nan")], dtype=torch.float64),
    }
    if device.type == "cuda":
        found["cuda"] = torch.cuda.get_rng_state(device)
    return {f"rng/{rank}/{name}": state for name, state in found.items()}


def restore_rng(reader: Reader, rank: int, device: torch.device) -> bool:
    """Put this rank's generators back; False where the checkpoint has none for it (another world size)."""
    found = {name.rsplit("/", 1)[1]: reader.read(name) for name in reader.names(f"rng/{rank}/")}
    if not found:
        return False
    torch.set_rng_state(found["torch"])
    rest = found["numpy_rest"].tolist()
    np.random.set_state(("MT19937", found["numpy"].numpy().astype(np.uint32), int(rest[0]), int(rest[1]), rest[2]))
    version, gauss = found["python_rest"].tolist()
    random.setstate((int(version), tuple(found["python"].tolist()), None if gauss != gauss else gauss))
    if device.type == "cuda" and "cuda" in found:
        torch.cuda.set_rng_state(found["cuda"], device)
    return True


def _complete(folder: Path) -> list[Path]:
    """Checkpoints by name and content, damaged ones too; a folder that no rank wrote into is none."""
    named = (each for each in folder.glob("step-*") if _NAME.search(each.name))
    return [each for each in named if (each / MANIFEST).is_file() or any(each.glob("rank-*.json"))]


def _step(folder: Path) -> int:
    found = _NAME.search(folder.name)
    assert found is not None
    return int(found.group(1))


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _guarded(place: Path, write: Any) -> Any:
    """Errors of the disk, and of safetensors about the disk, as one line."""
    try:
        return write()
    except Exception as error:
        shutil.rmtree(place, ignore_errors=True)
        reason = getattr(error, "strerror", None) or next(iter(str(error).splitlines()), type(error).__name__)
        raise RunFailed(
            f"{place}: the checkpoint could not be written ({reason}); free space, choose output_dir=DIR on another "
            "disk, or save less often (train.save_every_steps, train.save_every_epoch)"
        ) from error
