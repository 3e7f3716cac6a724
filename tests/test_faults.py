"""Whatever goes wrong, the run ends with one line that says what, and nothing half-done passes for whole."""

import contextlib
import json
import os
import re
import resource
import socket
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest
import torch
from commands import SMALL, Outcome, alpaca_command, alpaca_run, command_environment
from torch.distributed import HashStore

from alpaca.training import guards
from alpaca.training.watchdog import Beats, stuck_message
from alpaca.training.world import World

DDP = ("parallelism=ddp", "parallelism.devices=2")
LONG = (*SMALL, "train.max_steps=20", "train.epochs=10", "evaluation.quick.generate_rows=0")


def with_fault(folder: Path, what: str, *overrides: str, rank: int = 1, step: int = 3) -> Outcome:
    """The command, in whose rank `rank` the statement `what` runs before the gradient of step `step` is clipped."""
    (folder / "fault").mkdir()
    (folder / "fault" / "sitecustomize.py").write_text(
        textwrap.dedent(f"""
        import os, signal, sys, time
        command = " ".join(sys.orig_argv)
        if os.environ.get("RANK", "0") == "{rank}" and ("alpaca.rank_process" in command or {rank} == 0):
            import torch
            whole, calls = torch.nn.utils.clip_grad_norm_, []
            def faulty(*given, **named):
                calls.append(1)
                if len(calls) == {step}:
                    {what}
                return whole(*given, **named)
            torch.nn.utils.clip_grad_norm_ = faulty
        """)
    )
    path = os.pathsep.join([str(folder / "fault"), str(Path(__file__).resolve().parent.parent)])
    return alpaca_command(folder, *overrides, environment={"PYTHONPATH": path}, timeout=240)


def the_line(outcome: Outcome) -> str:
    """The one line a failed command ends with."""
    lines = [line for line in outcome.err.splitlines() if line.startswith("alpaca: ")]
    assert len(lines) == 1, outcome.err
    return lines[0]


def test_a_rank_that_raises_ends_the_run_with_its_own_error(workplace: Path):
    outcome = with_fault(workplace, "raise ValueError('the ninth bit')", *LONG, *DDP)
    assert outcome.status == 1
    assert the_line(outcome) == "alpaca: rank 1: ValueError: the ninth bit"
    assert outcome.err.count("Traceback") == 1
    assert outcome.summary["status"] == "failed"
    assert "the ninth bit" in outcome.summary["error"]


def test_a_killed_rank_is_named_with_its_signal(workplace: Path):
    outcome = with_fault(workplace, "os.kill(os.getpid(), signal.SIGKILL)", *LONG, *DDP)
    assert outcome.status == 1
    assert the_line(outcome) == ("alpaca: rank 1 was killed by SIGKILL; the system does that when memory runs out")
    assert outcome.summary["status"] == "failed"
    assert "Traceback" not in outcome.err


@pytest.mark.parametrize("wait_s", [0.0, 3.0])
def test_ranks_die_with_a_launcher_that_is_killed_while_they_start(wait_s: float, workplace: Path):
    launcher = subprocess.Popen(
        [sys.executable, "-m", "alpaca.run", *LONG, *DDP], cwd=workplace, env=command_environment(),
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    ranks: list[psutil.Process] = []
    end = time.monotonic() + 120
    while len(ranks) < 2:
        assert launcher.poll() is None
        assert time.monotonic() < end, "no two ranks"
        time.sleep(0.01)
        ranks = [each for each in psutil.Process(launcher.pid).children(recursive=True) if is_rank(each)]
    time.sleep(wait_s)
    launcher.kill()
    launcher.wait(timeout=240)
    _, alive = psutil.wait_procs(ranks, timeout=30)
    for each in alive:
        each.kill()
    assert not alive


def is_rank(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.Error):
        return any("rank_process" in part for part in process.cmdline())
    return False


def test_a_rank_that_stands_still_is_named(workplace: Path):
    outcome = with_fault(workplace, "time.sleep(10_000)", *LONG, *DDP, "parallelism.timeout_s=6")
    assert outcome.status == 1
    assert re.search(r"rank 1 in step 3 has not moved for 6 s and the others wait for it", the_line(outcome))


def test_the_least_advanced_rank_is_the_one_that_stands():
    assert "rank 2 in step 9 has not moved" in stuck_message([[31, "step 10"], [31, "step 10"], [30, "step 9"]], 60)
    assert "no rank has moved for 60 s (step 4)" in stuck_message([[9, "step 4"], [9, "step 4"]], 60)


def test_long_work_on_files_is_a_sign_of_life_and_no_progress():
    world = World(rank=0, size=2, store=HashStore())
    beats = Beats(world, limit_s=0.1)
    with beats.while_working("loading"):
        time.sleep(0.1)
    count, doing, pulse = json.loads(world.store.get("beat/0"))
    assert (count, doing) == (1, "loading")
    assert pulse > 1


def test_a_port_that_another_program_uses_is_one_line(workplace: Path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        outcome = alpaca_command(
            workplace, *LONG, "parallelism=ddp", "parallelism.devices=1", "parallelism.nodes=2",
            f"parallelism.rendezvous=127.0.0.1:{port}", "parallelism.timeout_s=5", timeout=240,
        )  # fmt: skip
    assert outcome.status == 2
    assert f"parallelism.rendezvous=127.0.0.1:{port}: the 2 machines did not meet there" in the_line(outcome)
    assert "Traceback" not in outcome.err
    assert not list(workplace.glob("outputs/run/*"))


def test_a_disk_that_is_full_shows_in_the_rehearsal(workplace: Path):
    outcome = alpaca_command(
        workplace, *LONG, preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, 300_000))
    )
    assert outcome.status == 1
    assert re.search(r"rehearsal after the first step: .*the checkpoint could not be written", the_line(outcome))
    assert len(outcome.metrics("train/loss")) == 1
    assert not list(outcome.directory.glob("checkpoints/*"))


def test_a_disk_that_fills_later_leaves_the_checkpoint_before(workplace: Path):
    """The limit comes down between two checkpoints."""
    lower = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))"
    outcome = with_fault(
        workplace, f"signal.signal(signal.SIGXFSZ, signal.SIG_IGN); {lower}", *LONG, "train.save_every_steps=5",
        rank=0, step=8,
    )  # fmt: skip
    assert outcome.status == 1
    assert "the checkpoint could not be written" in the_line(outcome)
    assert [each.name for each in outcome.directory.glob("checkpoints/*")] == ["step-5"]


@pytest.mark.parametrize("layout", [(), DDP], ids=["single", "ddp"])
def test_a_loss_that_is_not_finite_stops_the_run_and_names_the_rows(layout: tuple[str, ...], workplace: Path):
    overrides = (*LONG, "optimizer.lr=1e30", "optimizer.warmup=0", "train.save_every_steps=1", *layout)
    outcome = alpaca_command(workplace, *overrides)
    assert outcome.status == 1
    assert re.search(r"step \d+: the (loss|gradient) is (nan|inf)", the_line(outcome))
    found = json.loads((outcome.directory / "nonfinite.json").read_text())
    assert len(found["rows"]) == 8
    assert set(found["rows"]) <= set(range(48))
    assert len(list(outcome.directory.glob("checkpoints/step-*"))) == 1
    assert outcome.summary["status"] == "failed"


def test_memory_the_system_refuses_is_recognised():
    with pytest.raises(RuntimeError) as caught:
        torch.empty(1 << 50)
    assert guards.is_out_of_memory(caught.value)
    assert guards.is_out_of_memory(torch.OutOfMemoryError("CUDA out of memory"))
    assert not guards.is_out_of_memory(RuntimeError("shapes do not match"))


REFUSED = "torch.empty(1 << 50)  # the system refuses this much"


def test_running_out_of_memory_says_what_to_change_by_how_much(workplace: Path):
    outcome = with_fault(workplace, REFUSED, *LONG, rank=0)
    assert outcome.status == 1
    line = the_line(outcome)
    assert "out of memory; in order of what it costs, set train.micro_batch_tokens=2048 (now 4096" in line
    assert "train.activation_checkpointing=on" in line
    assert "adapter=lora" in line


def test_micro_batches_are_halved_and_the_step_repeated_when_asked(workplace: Path, finished: Outcome):
    from alpaca.training import loop

    whole, calls = loop.supervised_loss, []

    def refused_once(*given, **named):
        calls.append(1)
        if len(calls) == 2:
            torch.empty(1 << 50)
        return whole(*given, **named)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "supervised_loss", refused_once)
        outcome = alpaca_run(workplace, *SMALL, "train.on_oom=halve_micro_batch")
    assert outcome.status == 0, outcome.err
    assert "out of memory in step 2: micro-batches of 2,048 tokens from here on" in outcome.out
    assert outcome.metrics("train/loss") == pytest.approx(finished.metrics("train/loss"), rel=1e-5)


def test_halving_with_several_ranks_is_refused(workplace: Path):
    outcome = alpaca_run(workplace, *SMALL, *DDP, "train.on_oom=halve_micro_batch")
    assert outcome.status == 2
    assert "one rank alone cannot repeat a step" in outcome.err


def test_ranks_with_other_settings_are_refused(workplace: Path, free_port: int):
    meeting = ("parallelism=ddp", "parallelism.devices=1", "parallelism.nodes=2")
    both = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "alpaca.run",
                *LONG,
                *meeting,
                f"parallelism.rendezvous=127.0.0.1:{free_port}",
                f"train.seed={seed}",
            ],
            cwd=workplace,
            env=command_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for seed in (0, 1)
    ]
    said = [process.communicate(timeout=240)[1] for process in both]
    assert all(process.returncode != 0 for process in both)
    assert any("was started with other settings, data or weights" in text for text in said), said
    assert not list(workplace.glob("outputs/run/*"))
