"""Killed at any moment, the same command ends with the same weights, bit for bit; a signal saves first."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import SMALL, alpaca_command, alpaca_run, command_environment

from alpaca.tracking.run_directory import FINISHED, status
from alpaca.training.checkpoint import MANIFEST, damage

LONG = (*SMALL, "train.max_steps=60", "train.epochs=20", "train.save_every_steps=3", "train.keep_checkpoints=2")
DDP = ("parallelism=ddp", "parallelism.devices=2")
FULL, LORA = (), ("adapter=lora", "adapter.dropout=0.1")  # with dropout the random generators must go on too


def command(*overrides: str) -> list[str]:
    return [sys.executable, "-m", "alpaca.run", *overrides]


def result(folder: Path) -> bytes:
    (found,) = folder.glob("outputs/run/*/model/*model.safetensors")
    return found.read_bytes()


def losses(folder: Path) -> list[float]:
    """Losses of the steps so far; a line being written does not count."""
    lines = [line for file in folder.glob("outputs/run/*/metrics.jsonl") for line in file.read_text().splitlines(True)]
    records = [json.loads(line) for line in lines if line.endswith("\n")]
    return [record["train/loss"] for record in records if "train/loss" in record]


def kill_at(folder: Path, overrides: tuple[str, ...], moments: random.Random) -> bool:
    """Start the command and kill it at some moment after it got going; False if it was done before.

    The moment is a number of steps, all of them included (then it is scoring or saving), and up to 0.4 s more.
    """
    process = subprocess.Popen(
        command(*overrides), cwd=folder, env=command_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    known = len(losses(folder))
    steps = min(60, known + moments.randrange(1, 30))
    while process.poll() is None and len(losses(folder)) < steps:
        time.sleep(0.01)
    time.sleep(moments.uniform(0, 0.4))
    was_running = process.poll() is None
    process.kill()
    process.wait(timeout=240)
    time.sleep(0.3)  # the ranks of a killed command are killed by the system
    return was_running


def whole_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints by name; each must be whole."""
    found = list(folder.glob("outputs/run/*/checkpoints/step-*"))
    for checkpoint in found:
        assert damage(checkpoint) is None
    return found


@pytest.mark.parametrize(
    ("overrides", "kills", "draw"),
    [
        pytest.param(FULL, 3, 1, id="full", marks=pytest.mark.slow),
        pytest.param(LORA, 3, 2, id="lora"),
        pytest.param((*FULL, *DDP), 3, 3, id="full-ddp"),
        pytest.param((*LORA, *DDP), 3, 4, id="lora-ddp", marks=pytest.mark.slow),
        pytest.param(FULL, 20, 5, id="full-20", marks=pytest.mark.slow),
        pytest.param(LORA, 20, 6, id="lora-20", marks=pytest.mark.slow),
        pytest.param((*FULL, *DDP), 20, 7, id="full-ddp-20", marks=pytest.mark.slow),
        pytest.param((*LORA, *DDP), 20, 8, id="lora-ddp-20", marks=pytest.mark.slow),
    ],
)
def test_a_run_killed_again_and_again_ends_with_the_same_weights(
    overrides: tuple[str, ...], kills: int, draw: int, workplace: Path, tmp_path_factory: pytest.TempPathFactory
):
    reference = tmp_path_factory.mktemp("uninterrupted")
    (reference / "rows.json").write_bytes((workplace / "rows.json").read_bytes())
    assert alpaca_command(reference, *LONG, *overrides).status == 0
    moments = random.Random(draw)
    done = 0
    while done < kills:
        was_running = kill_at(workplace, (*LONG, *overrides), moments)
        if any(status(run) == FINISHED for run in workplace.glob("outputs/run/*")):  # too late: it was done
            assert result(workplace) == result(reference)
            (workplace / "outputs").rename(workplace / f"finished-{time.monotonic_ns()}")
            continue
        assert was_running
        done += 1
        whole_checkpoints(workplace)
    final = alpaca_command(workplace, *LONG, *overrides)
    assert final.status == 0, final.err
    assert result(workplace) == result(reference)
    assert losses(workplace) == losses(reference)
    assert len(whole_checkpoints(workplace)) == 2


@pytest.mark.parametrize(
    ("number", "overrides"),
    [
        (signal.SIGTERM, ()),
        (signal.SIGHUP, ()),
        pytest.param(signal.SIGUSR1, (), marks=pytest.mark.slow),
        (signal.SIGTERM, DDP),
        pytest.param(signal.SIGINT, DDP, marks=pytest.mark.slow),
        pytest.param(signal.SIGHUP, DDP, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_signal_saves_a_checkpoint_and_the_same_command_goes_on(
    number: signal.Signals, overrides: tuple[str, ...], workplace: Path
):
    slow = (*SMALL, "train.max_steps=4000", "train.epochs=1000", "train.save_every_epoch=false", *overrides)
    process = subprocess.Popen(
        command(*slow), cwd=workplace, env=command_environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True,
    )  # fmt: skip
    wait_for(lambda: any(workplace.glob("outputs/run/*/metrics.jsonl")), process)
    wait_for(lambda: len(losses(workplace)) > 2, process)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "saving a checkpoint" in said
    (directory,) = workplace.glob("outputs/run/*")
    assert status(directory) == "interrupted"
    (checkpoint,) = whole_checkpoints(workplace)
    step = json.loads((checkpoint / MANIFEST).read_text())["step"]
    assert step == len(losses(workplace))
    again = subprocess.Popen(
        command(*slow), cwd=workplace, env=command_environment(), stdout=subprocess.PIPE, text=True
    )
    wait_for(lambda: len(losses(workplace)) > step + 2, again)
    again.send_signal(signal.SIGTERM)
    said, _ = again.communicate(timeout=60)
    assert f"from step-{step}:" in said
    assert [directory] == list(workplace.glob("outputs/run/*"))


def test_world_size_may_change_between_segments(workplace: Path, tmp_path_factory: pytest.TempPathFactory):
    """Two processes split the weights, one goes on, two copy: the losses are those of a run in one process."""
    reference = tmp_path_factory.mktemp("single")
    (reference / "rows.json").write_bytes((workplace / "rows.json").read_bytes())
    assert alpaca_run(reference, *LONG).status == 0
    for parallelism, stop in (("fsdp", 5), ("single", 20), ("ddp", 10_000)):
        devices = ("parallelism.devices=2",) if parallelism != "single" else ()
        process = subprocess.Popen(
            command(*LONG, f"parallelism={parallelism}", *devices), cwd=workplace, env=command_environment(),
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )  # fmt: skip
        if stop < 60:
            wait_for(lambda: any(workplace.glob("outputs/run/*/metrics.jsonl")), process)
            wait_for(lambda stop=stop: len(losses(workplace)) > stop, process)
            process.send_signal(signal.SIGTERM)
        said, _ = process.communicate(timeout=240)
        assert process.returncode in (0, 130), said
    assert losses(workplace) == pytest.approx(losses(reference), rel=1e-4)


def test_a_damaged_checkpoint_is_passed_over_with_a_line(workplace: Path):
    begun = interrupted(workplace)
    newest, older = sorted(begun.glob("checkpoints/step-*"), key=lambda each: -int(each.name[5:]))
    data = newest / "rank-0.safetensors"
    data.write_bytes(data.read_bytes()[:-100])
    outcome = alpaca_run(workplace, *LONG)
    assert outcome.status == 0, outcome.err
    assert f"checkpoint {newest.name} is damaged and passed over: rank-0.safetensors has" in outcome.out
    assert f"from {older.name}:" in outcome.out


def test_a_named_run_without_a_whole_checkpoint_is_not_begun_anew(workplace: Path):
    begun = interrupted(workplace)
    for each in begun.glob("checkpoints/step-*/rank-0.safetensors"):
        each.write_bytes(b"")
    before = (begun / "metrics.jsonl").read_text()
    outcome = alpaca_run(workplace, *LONG, f"train.resume={begun}")
    assert outcome.status == 2
    assert "it has no whole checkpoint to go on from" in outcome.err
    assert (begun / "metrics.jsonl").read_text() == before


def test_flipped_bits_are_noticed(workplace: Path):
    begun = interrupted(workplace)
    newest = max(begun.glob("checkpoints/step-*"), key=lambda each: int(each.name[5:]))
    data = bytearray((newest / "rank-0.safetensors").read_bytes())
    data[-5] ^= 1
    (newest / "rank-0.safetensors").write_bytes(data)
    assert damage(newest) == "rank-0.safetensors does not hold what was written"


def test_settings_that_change_the_result_are_refused_on_resume_and_shown(workplace: Path):
    begun = interrupted(workplace)
    changed = alpaca_run(workplace, *LONG, "optimizer.lr=5e-3", f"train.resume={begun}")
    assert changed.status == 2
    assert "optimizer.lr=0.005 (was 0.01)" in changed.err
    with (workplace / "rows.json").open("a") as rows:
        rows.write("\n")
    other_data = alpaca_run(workplace, *LONG, f"train.resume={begun}")
    assert other_data.status == 2
    assert "data_source.path=" in other_data.err


def test_settings_that_change_no_number_may_change_on_resume(workplace: Path):
    begun = interrupted(workplace)
    outcome = alpaca_run(workplace, *LONG, "train.micro_batch_tokens=600", "train.keep_checkpoints=0")
    assert outcome.status == 0, outcome.err
    assert "resume" in outcome.out
    assert outcome.directory == begun
    assert not (begun / "checkpoints").exists()


def test_never_begins_a_new_run_beside_the_unfinished_one(workplace: Path):
    begun = interrupted(workplace)
    time.sleep(1.1)  # folders are named by the second
    outcome = alpaca_run(workplace, *LONG, "train.resume=never")
    assert outcome.status == 0
    assert "from step-" not in outcome.out
    assert len(outcome.directories) == 2
    assert status(begun) == "interrupted"


def test_a_finished_run_is_followed_by_a_new_one(workplace: Path):
    assert alpaca_run(workplace, *SMALL).status == 0
    time.sleep(1.1)
    outcome = alpaca_run(workplace, *SMALL)
    assert outcome.status == 0
    assert len(outcome.directories) == 2


def test_a_second_process_on_a_live_run_is_refused(workplace: Path):
    slow = (*SMALL, "train.max_steps=4000", "train.epochs=1000")
    first = subprocess.Popen(command(*slow), cwd=workplace, env=command_environment(), stdout=subprocess.DEVNULL)
    try:
        wait_for(lambda: any(workplace.glob("outputs/run/*/metrics.jsonl")), first)
        second = alpaca_run(workplace, *slow)
        assert second.status == 2
        assert f"another run is writing here (process {first.pid} on " in second.err
    finally:
        first.kill()
        first.wait(timeout=240)


def interrupted(folder: Path) -> Path:
    """A run of `LONG` in `folder`, killed after two checkpoints; its directory."""
    process = subprocess.Popen(
        command(*LONG), cwd=folder, env=command_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for(lambda: len(list(folder.glob("outputs/run/*/checkpoints/step-*"))) > 1, process)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=240)
    (found,) = folder.glob("outputs/run/*")
    return found


def wait_for(condition, process: subprocess.Popen, limit_s: float = 120) -> None:
    until = time.monotonic() + limit_s
    while not condition():
        assert process.poll() is None, f"ended with {process.returncode}: {process.stdout and process.stdout.read()}"
        assert time.monotonic() < until
        time.sleep(0.02)
