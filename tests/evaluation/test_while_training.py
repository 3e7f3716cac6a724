"""While a run trains: watched answers, the best model by a metric, and both over a kill."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import SMALL, Outcome, alpaca_run, command_environment, some_rows
from safetensors.torch import load_file
from scoring_commands import alpaca_evaluate, records

# A rate so high that the held-out loss has its least before the end.
OVERFIT = (
    *SMALL, "train.epochs=20", "train.max_steps=40", "optimizer.lr=3e-2", "optimizer.schedule=constant",
    "train.eval_every_steps=3", "train.save_every_steps=5", "train.keep_checkpoints=1",
)  # fmt: skip


def overfit(folder: Path, *overrides: str) -> Outcome:
    (folder / "rows.json").write_text(json.dumps(some_rows(48)))
    done = alpaca_run(folder, *OVERFIT, *overrides)
    assert done.status == 0, done.err
    return done


@pytest.fixture(scope="module")
def best(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return overfit(tmp_path_factory.mktemp("best"), "train.keep_best=eval/loss")


@pytest.fixture(scope="module")
def last(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return overfit(tmp_path_factory.mktemp("last"))


def measured(done: Outcome) -> dict[int, float]:
    lines = records(done.directory / "metrics.jsonl")
    return {line["step"]: line["eval/loss"] for line in lines if "eval/watch_rougeL" in line}


def test_the_result_is_the_model_that_was_best_and_not_the_last(best: Outcome):
    losses = measured(best)
    assert list(losses) == [*range(3, 40, 3), 40], "the last model is a candidate too"
    least = min(losses, key=lambda step: losses[step])
    assert least < 40, "the test is blind: the last model is the best"
    assert best.summary["best_step"] == least
    assert best.summary["best_value"] == losses[least]
    assert best.summary["eval/loss"] == pytest.approx(losses[least], abs=1e-6)
    assert not (best.directory / "best").exists()


def test_without_it_the_result_is_the_last_model_and_training_is_the_same(best: Outcome, last: Outcome):
    mine, theirs = measured(best), measured(last)
    assert {step: mine[step] for step in theirs} == theirs
    assert "best_step" not in last.summary
    assert last.summary["eval/loss"] > best.summary["eval/loss"]


def test_the_best_models_scores_are_those_of_the_saved_model(best: Outcome, tmp_path: Path):
    (tmp_path / "rows.json").symlink_to(best.folder / "rows.json")
    done = alpaca_evaluate(tmp_path, str(best.directory), "output_dir=again")
    assert done.status == 0, done.err
    again = json.loads((tmp_path / "again" / "summary.json").read_text())
    assert again["eval/loss"] == pytest.approx(best.summary["eval/loss"], abs=1e-5)


def test_a_metric_that_rises_keeps_the_highest(tmp_path: Path):
    done = overfit(tmp_path, "train.keep_best=eval/token_accuracy")
    lines = records(done.directory / "metrics.jsonl")
    seen = {line["step"]: line["eval/token_accuracy"] for line in lines if "eval/watch_rougeL" in line}
    assert done.summary["best_value"] == max(seen.values())
    assert done.summary["best_step"] == min(step for step, value in seen.items() if value == max(seen.values()))


def test_the_same_rows_are_watched_at_every_measurement(best: Outcome):
    samples = records(best.directory / "samples.jsonl")
    steps = list(dict.fromkeys(sample["step"] for sample in samples))
    assert steps == list(measured(best))
    by_step = [[sample["id"] for sample in samples if sample["step"] == step] for step in steps]
    assert len(by_step[0]) == 4
    assert all(ids == by_step[0] for ids in by_step)
    held_out = [record["id"] for record in records(best.directory / "predictions.jsonl")]
    assert by_step[0] == held_out[:4]
    assert len({sample["output"] for sample in samples}) > 3, "answers change as training goes on"


def test_watching_changes_nothing_that_is_trained(last: Outcome, tmp_path: Path):
    unwatched = overfit(tmp_path, "evaluation.quick.watch_rows=0")
    assert not (unwatched.directory / "samples.jsonl").exists()
    mine, theirs = (load_file(done.directory / "model" / "model.safetensors") for done in (unwatched, last))
    assert all(bool((mine[name] == theirs[name]).all()) for name in theirs)


def test_killed_and_gone_on_with_the_best_model_is_the_same(best: Outcome, tmp_path: Path):
    (tmp_path / "rows.json").write_text(json.dumps(some_rows(48)))
    command = [sys.executable, "-m", "alpaca.run", *OVERFIT, "train.keep_best=eval/loss"]
    process = subprocess.Popen(
        command, cwd=tmp_path, env=command_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while process.poll() is None and steps_done(tmp_path) <= best.summary["best_step"]:
        time.sleep(0.005)
    assert process.poll() is None, "it was done before it was killed"
    process.kill()
    process.wait(timeout=240)
    done = subprocess.run(command, cwd=tmp_path, env=command_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    (run,) = tmp_path.glob("outputs/run/*")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["best_step"] == best.summary["best_step"]
    saved = [(place / "model" / "model.safetensors").read_bytes() for place in (run, best.directory)]
    assert saved[0] == saved[1]
    assert records(run / "samples.jsonl") == records(best.directory / "samples.jsonl")


def steps_done(folder: Path) -> int:
    lines = [line for file in folder.glob("outputs/run/*/metrics.jsonl") for line in file.read_text().splitlines(True)]
    return max((json.loads(line)["step"] for line in lines if line.endswith("\n")), default=0)


def test_an_adapters_best_matrices_are_kept(finished: Outcome, tmp_path: Path):
    done = overfit(
        tmp_path, "adapter=lora", f"model.weights='{finished.directory / 'model'}'", "train.keep_best=eval/loss"
    )
    assert done.summary["eval/loss"] == pytest.approx(min(measured(done).values()), abs=1e-6)


@pytest.mark.parametrize("layout", [pytest.param("ddp", marks=pytest.mark.slow), "fsdp"])
def test_ranks_keep_the_best_model_and_answer_together(layout: str, best: Outcome, tmp_path: Path):
    (tmp_path / "rows.json").write_text(json.dumps(some_rows(48)))
    command = [sys.executable, "-m", "alpaca.run", *OVERFIT, "train.keep_best=eval/loss", f"parallelism={layout}",
               "parallelism.devices=2", "evaluation=[quick,generate]", "evaluation.generate.instructions=held_out",
               "evaluation.decode.max_new_tokens=6", "train.max_steps=12", "train.eval_every_steps=4"]  # fmt: skip
    done = subprocess.run(command, cwd=tmp_path, env=command_environment(), capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + done.stdout
    (run,) = tmp_path.glob("outputs/run/*")
    summary = json.loads((run / "summary.json").read_text())
    assert summary["eval/loss"] == pytest.approx(summary["best_value"], abs=1e-5)
    assert summary["eval/generate/answers"] == 8
    again = alpaca_evaluate(tmp_path, str(run), "output_dir=alone")
    assert again.status == 0, again.err
    first = records(run / "predictions-generate.jsonl")
    alone = records(tmp_path / "alone" / "predictions-generate.jsonl")
    assert [record["output"] for record in first] == [record["output"] for record in alone]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["train.keep_best=eval/loss"], "train.eval_every_steps, which is not set"),
        (["train.keep_best=loss", "train.eval_every_steps=3"], "choose one of eval/loss"),
        (
            ["train.keep_best=eval/watch_rougeL", "train.eval_every_steps=3", "evaluation.quick.watch_rows=0"],
            "no answers are watched",
        ),
        (["evaluation=[quick,lm_eval]"], "EleutherAI's harness is not installed"),
        (["evaluation=[quick,judge]"], "OPENAI_API_KEY is not set"),
        (["evaluation=[quick,generate]", "evaluation.decode.engine=vllm"], "score the finished run with python -m"),
        (["evaluation=[quick,lm_eval]", "parallelism=fsdp", "parallelism.devices=2"], "needs the whole model on one"),
        (["evaluation=[quick,loss]", "train.eval_rows=0"], "with train.eval_rows=0: there are no held-out rows"),
    ],
)
def test_what_could_not_be_scored_is_refused_before_anything_is_trained(
    overrides: list[str], message: str, workplace: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    done = alpaca_run(workplace, *SMALL, *overrides)
    assert done.status == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1


def test_an_evaluation_that_fails_at_the_end_leaves_a_finished_run(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    judge = "evaluation=[quick,judge]", "evaluation.judge.base_url=http://127.0.0.1:9/v1", "evaluation.judge.retries=0"
    done = alpaca_run(workplace, *SMALL, *judge, "train.max_steps=1")
    assert done.status == 0, done.err
    assert done.summary["status"] == "finished"
    assert done.summary["evaluations_failed"] == ["judge"]
    assert "evaluation=judge was not made" in done.out
    assert "python -m alpaca.evaluate" in done.out
    run, annotated = done.directory, workplace / "annotations.json"
    tasks = [record for record in records(run / "predictions.jsonl") if record["output"] is not None]
    annotated.write_text(
        json.dumps(
            [
                {"instruction": f"{task['instruction']}\n\n{task['input']}".strip(), "preference": 2,
                 "output_1": task["reference"], "output_2": task["output"]}
                for task in tasks
            ]
        )
    )  # fmt: skip
    again = alpaca_evaluate(
        workplace, str(run), "evaluation=[quick,judge]", f"evaluation.judge.annotations={annotated}"
    )
    assert again.status == 0, again.err
    summary = json.loads((run / "summary.json").read_text())
    assert summary["eval/judge/win_rate"] == 100
    assert "evaluations_failed" not in summary


def test_a_run_with_keep_best_is_another_experiment_and_one_without_is_the_same_as_ever():
    from alpaca.config import Config
    from alpaca.signature import training_settings

    config = Config()
    config.model.weights, config.data_source.path = "random", "package:alpaca.data/seed_tasks.jsonl"
    before = training_settings(config)
    config.train.eval_every_steps = 5
    assert training_settings(config) == before, "how often is measured changes nothing by itself"
    assert "train.keep_best" not in before
    config.train.keep_best = "eval/loss"
    often = training_settings(config)
    config.train.eval_every_steps = 6
    assert len({str(each) for each in (before, often, training_settings(config))}) == 3
