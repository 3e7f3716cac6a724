"""One run from the command to its directory: what it holds, that it repeats, and that no ending passes for another."""

import json
import os
import resource
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SMALL, Outcome, alpaca_command, alpaca_run, command_environment, eventually, some_rows
from omegaconf import OmegaConf

from alpaca.tracking.report import next_lines

FILES = {
    "config.yaml",
    "overrides.yaml",
    "env.json",
    "data.json",
    "metrics.jsonl",
    "summary.json",
    "predictions.jsonl",
    "probe.safetensors",
    "run.log",
}
SUMMARY = {
    "status",
    "signature",
    "steps",
    "examples",
    "logical_tokens",
    "supervised_tokens",
    "eval/loss_before",
    "eval/loss",
    "eval/perplexity",
    "eval/bits_per_byte",
    "eval/token_accuracy",
    "eval/rougeL_before",
    "eval/rougeL",
    "perf/logical_tokens_per_s",
    "perf/peak_memory_gib",
    "wall_time_s",
    "model_path",
}


def test_a_finished_run_leaves_every_file_of_a_run_directory(finished: Outcome):
    assert {file.name for file in finished.directory.iterdir()} >= FILES | {"model"}
    assert {file.name for file in (finished.directory / "model").iterdir()} >= {
        "model.safetensors", "config.json", "tokenizer.json", "template.json",
    }  # fmt: skip
    assert not list(finished.directory.rglob("*.tmp"))
    assert not list(finished.directory.glob(".model*"))


def test_the_summary_holds_what_others_rely_on(finished: Outcome):
    summary = finished.summary
    assert summary.keys() >= SUMMARY
    assert (summary["status"], summary["steps"], summary["examples"]) == ("finished", 5, 40)
    assert all(summary[key] is not None for key in SUMMARY)
    assert Path(summary["model_path"]) == finished.directory / "model"
    assert finished.directory.name.endswith(summary["signature"])


def test_training_lowers_the_held_out_loss(finished: Outcome):
    assert finished.summary["eval/loss"] < finished.summary["eval/loss_before"] - 0.5
    assert finished.metrics("eval/loss") == [finished.summary["eval/loss_before"], finished.summary["eval/loss"]]


def test_the_terminal_shows_where_the_run_is_and_what_to_do_next(finished: Outcome):
    run = finished.directory.relative_to(finished.folder)
    commands = [shlex.split(line.removeprefix("next"), comments=True) for line in finished.out.splitlines()[-3:]]
    assert [command[2:4] for command in commands[:2]] == [["alpaca.chat", str(run)], ["alpaca.evaluate", str(run)]]
    assert commands[2][2:] == ["alpaca.run", *SMALL, "train.seed=1"]
    assert {shutil.which(command[0]) or str(Path(command[0]).absolute()) for command in commands} == {sys.executable}
    assert f"run directory   {finished.directory.relative_to(finished.folder)}" in finished.out
    assert finished.err == ""
    logged = (finished.directory / "run.log").read_text()
    assert "eval/loss" in logged
    assert "training 5/5" in logged


def test_what_is_next_fits_the_run_and_its_shell(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    made_by = ["model=tiny", "data_source.path='a b.json'", "train.seed=4", "output_dir=out/x y", "hydra.mode=RUN"]
    talk, _, again = next_lines(tmp_path / "out" / "x y", made_by, ["--config-dir", "mine"])
    assert shlex.split(talk, comments=True)[2:] == ["alpaca.chat", "out/x y"]
    assert shlex.split(again, comments=True)[2:] == [
        "alpaca.run", "--config-dir", "mine", "model=tiny", "data_source.path='a b.json'", "train.seed=5"
    ]  # fmt: skip
    monkeypatch.setenv("PATH", str(tmp_path))  # nothing is activated
    assert talk.split()[0] in ("python", sys.executable)
    assert next_lines(tmp_path, [], [])[0].split()[0] == sys.executable


def test_fewer_than_ten_steps_are_warned_about_and_the_first_one_trains(finished: Outcome):
    assert "warning: only 5 optimizer steps" in finished.out
    rates = finished.metrics("train/learning_rate")
    assert len(rates) == 5
    assert rates[0] > 0


def test_the_metrics_have_a_line_for_each_step_with_the_names_everyone_uses(finished: Outcome):
    lines = [json.loads(line) for line in (finished.directory / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss" in line]
    assert [line["step"] for line in steps] == [1, 2, 3, 4, 5]
    assert [line["epoch"] for line in steps] == [0.2, 0.4, 0.6, 0.8, 1.0]
    assert steps[0].keys() >= {
        "time", "train/loss", "train/learning_rate", "train/grad_norm", "perf/logical_tokens_per_s",
        "perf/executed_tokens_per_s", "perf/peak_memory_gib", "perf/step_time_s",
    }  # fmt: skip


def test_the_data_card_accounts_for_every_row(finished: Outcome):
    facts = json.loads((finished.directory / "data.json").read_text())
    assert (facts["rows_in"], facts["rows_trained"], facts["rows_evaluated"]) == (48, 40, 8)
    assert facts["rows_in"] == facts["rows_trained"] + facts["rows_evaluated"] + sum(facts["rows_dropped"].values())
    assert len(facts["content_hash"]) == 64


def test_the_environment_says_what_ran_where(finished: Outcome):
    environment = json.loads((finished.directory / "env.json").read_text())
    assert environment["packages"]["torch"]
    assert (environment["world_size"], environment["precision"]) == (1, "fp32")


def test_predictions_are_of_held_out_rows_that_were_never_trained_on(finished: Outcome):
    records = [json.loads(line) for line in (finished.directory / "predictions.jsonl").read_text().splitlines()]
    assert len(records) == 8
    assert len({record["id"] for record in records}) == 8
    answered = [record for record in records if record["output"] is not None]
    assert len(answered) == 2
    assert all(record["output_before"] is not None for record in answered)
    assert all(record["prompt"].endswith("### Response:") for record in records)


def test_the_recorded_overrides_repeat_the_run_with_the_same_losses(finished: Outcome, tmp_path: Path):
    (tmp_path / "rows.json").write_bytes((finished.folder / "rows.json").read_bytes())
    typed = OmegaConf.to_object(OmegaConf.load(finished.directory / "overrides.yaml"))
    again = alpaca_run(tmp_path, *typed)
    assert again.summary["signature"] == finished.summary["signature"]
    for name in ("train/loss", "train/grad_norm", "eval/loss"):
        assert again.metrics(name) == finished.metrics(name)


def test_scores_before_training_are_kept_and_used_again(finished: Outcome, workplace: Path):
    again = alpaca_run(workplace, *SMALL, "train.max_steps=1")
    assert "kept from an earlier run" in again.out
    assert again.summary["eval/loss_before"] == finished.summary["eval/loss_before"]
    other = alpaca_run(workplace, *SMALL, "train.max_steps=1", "train.seed=7")
    assert "kept from an earlier run" not in other.out


def test_another_seed_is_another_run(finished: Outcome, workplace: Path):
    other = alpaca_run(workplace, *SMALL, "train.seed=1")
    assert other.metrics("train/loss") != finished.metrics("train/loss")
    assert other.summary["signature"] != finished.summary["signature"]


def test_the_size_of_micro_batches_changes_no_number(finished: Outcome, workplace: Path):
    small = alpaca_run(workplace, *SMALL, "train.micro_batch_tokens=512")
    assert small.summary["signature"] == finished.summary["signature"]
    for name in ("train/loss", "train/grad_norm"):
        assert small.metrics(name) == pytest.approx(finished.metrics(name), rel=1e-4)


@pytest.mark.parametrize("model", ["tiny_qwen3", "tiny_opt"])
def test_other_architectures_learn_too(workplace: Path, model: str):
    outcome = alpaca_run(workplace, *SMALL, f"model={model}", "train.precision=auto")
    assert outcome.status == 0, outcome.err
    assert outcome.summary["eval/loss"] < outcome.summary["eval/loss_before"]


def test_a_run_can_go_where_the_user_says(workplace: Path):
    for number, key in enumerate(("output_dir", "hydra.run.dir")):
        bare = [part for part in SMALL if not part.startswith("evaluation")]
        outcome = alpaca_run(workplace, *bare, "evaluation=none", "train.max_steps=1", f"{key}=my place {number}")
        assert outcome.status == 0, outcome.err
        assert json.loads((workplace / f"my place {number}" / "summary.json").read_text())["status"] == "finished"
        again = alpaca_run(workplace, *bare, "evaluation=none", "train.max_steps=1", f"{key}=my place {number}")
        assert (again.status, again.err) == (0, "")
        assert f"this run is finished: {workplace / f'my place {number}'}" in again.out
        assert "another evaluation" not in again.out
        scored = alpaca_run(workplace, *bare, "evaluation=quick", "train.max_steps=1", f"{key}=my place {number}")
        assert scored.status == 0
        assert "its scores are of another evaluation (" in scored.out, "nothing was scored, and it says so"
        other = alpaca_run(workplace, *bare, "evaluation=none", "train.max_steps=2", f"{key}=my place {number}")
        assert (other.status, other.err.count("\n")) == (2, 1)
        assert "already holds a finished run" in other.err


def test_paths_with_spaces_equals_signs_and_accents_work_quoted(workplace: Path):
    place = workplace / "a b=c"
    place.mkdir()
    (place / "rôws ü.jsonl").write_bytes(
        b"\xef\xbb\xbf" + b"".join(json.dumps(row).encode() + b"\r\n" for row in some_rows(20))
    )
    outcome = alpaca_run(
        workplace, *SMALL, "train.max_steps=1", "data_source.path='a b=c/rôws ü.jsonl'", "output_dir='a b=c/out=é'"
    )
    assert outcome.status == 0, outcome.err
    assert outcome.directory == place / "out=é"


def test_a_sweep_file_can_be_run_as_a_single_run(workplace: Path):
    outcome = alpaca_run(workplace, *SMALL, "sweep=lora_rank", "hydra.mode=RUN", "train.max_steps=1")
    assert outcome.status == 0, outcome.err
    assert outcome.directory.parent == workplace / "outputs" / "lora_rank"


def test_a_multirun_gives_each_job_a_directory_named_after_what_differs(workplace: Path):
    outcome = alpaca_command(workplace, "-m", *SMALL, "train.max_steps=1", "train.seed=0,1,-1")
    assert outcome.status == 1, "a refused job is a failure of the whole, and the others run all the same"
    for number, path in enumerate(outcome.directories):
        summary = json.loads((path / "summary.json").read_text())
        assert summary["status"] == "finished"
        assert path.name == f"train.seed={number}-{summary['signature']}"
    assert len(outcome.directories) == 2
    assert "train.seed=-1: must be at least 0" in outcome.err
    assert "1 of 3 runs did not finish" in outcome.err
    assert "Traceback" not in outcome.err


def test_a_sweep_file_runs_its_grid_without_m_and_survives_a_job_that_fails(workplace: Path):
    outcome = alpaca_command(
        workplace,
        *SMALL,
        "sweep=lora_rank",
        "adapter.rank=2",
        "train.seed=0",
        "train.eval_rows=400,8",
        "train.max_steps=1",
    )
    assert outcome.status == 1
    assert [path.parent for path in outcome.directories] == [workplace / "outputs" / "sweeps" / "lora_rank"] * 2
    ended = {path.name: json.loads((path / "summary.json").read_text())["status"] for path in outcome.directories}
    assert sorted(ended.values()) == ["failed", "finished"]
    assert all((",train.eval_rows=400-" in name) == (status == "failed") for name, status in ended.items())
    assert "1 of 2 runs did not finish" in outcome.err


def wait_for(condition, process: subprocess.Popen) -> None:
    eventually(condition, "the command could not be interrupted", process)


def test_ctrl_c_ends_a_run_as_interrupted_and_leaves_no_model(workplace: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "alpaca.run", *SMALL, "train.epochs=100000", "tracker=offline", "output_dir=run"],
        cwd=workplace,
        env=command_environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    metrics = workplace / "run" / "metrics.jsonl"
    wait_for(lambda: metrics.is_file() and "train/loss" in metrics.read_text(), process)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted" in out
    assert json.loads((workplace / "run" / "summary.json").read_text())["status"] == "interrupted"
    assert not (workplace / "run" / "model").exists()


def limit_file_size() -> None:
    """A full disk for one process: no file grows beyond 512 KiB, writes fail with an OS error."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (512 << 10, 512 << 10))


def test_no_room_for_the_result_fails_the_run_and_leaves_no_model(workplace: Path):
    no_rehearsal = ("train.max_steps=1", "train.rehearse_save=false", "train.save_every_epoch=false")
    outcome = alpaca_command(workplace, *SMALL, *no_rehearsal, preexec_fn=limit_file_size)
    assert (outcome.status, outcome.err.count("\n")) == (1, 1), outcome.err
    assert "the model could not be saved" in outcome.err
    assert "output_dir=DIR" in outcome.err
    assert outcome.summary["status"] == "failed"
    assert not (outcome.directory / "model").exists()
    assert not list(outcome.directory.glob(".model*"))
