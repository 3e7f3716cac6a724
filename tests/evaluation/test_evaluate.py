"""The command: finished runs, model folders and files of outputs, with every evaluation, end to end."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SMALL, Outcome, alpaca_run, command_environment, some_rows
from rouge_score import rouge_scorer
from scoring_commands import alpaca_evaluate, copy_of, records

from alpaca.config import Config
from alpaca.evaluation.composing import literal, overrides_for
from alpaca.evaluation.losses_apart import bucket
from alpaca.evaluation.place import Place, stopped
from alpaca.evaluation.scores import Scores


@pytest.fixture
def run(finished: Outcome, tmp_path: Path) -> Path:
    """A copy of a finished run; the folder around it has the rows."""
    return copy_of(finished, tmp_path)


def summary(folder: Path) -> dict:
    return json.loads((folder / "summary.json").read_text())


def test_a_run_scored_again_has_the_scores_it_ended_with(run: Path, tmp_path: Path):
    before, predictions = summary(run), records(run / "predictions.jsonl")
    done = alpaca_evaluate(tmp_path, "run")
    assert done.status == 0, done.err
    after = summary(run)
    assert after.keys() == before.keys()
    for name, value in before.items():
        assert after[name] == (pytest.approx(value, abs=1e-5) if isinstance(value, float) else value), name
    again = records(run / "predictions.jsonl")
    for old, new in zip(predictions, again, strict=True):
        assert {**new, "scores": None} == {**old, "scores": None}
        assert new["scores"] == pytest.approx(old["scores"], abs=1e-5, nan_ok=True) or None in new["scores"].values()
    (line,) = records(run / "evaluations.jsonl")
    assert line["evaluation"] == "quick"
    assert line["settings"]["generate_rows"] == 2


def test_an_adapter_is_scored_on_its_base(finished_lora: Outcome, tmp_path: Path):
    run = copy_of(finished_lora, tmp_path)
    before = summary(run)["eval/loss"]
    done = alpaca_evaluate(tmp_path, "run", "evaluation=[quick,generate]", "evaluation.generate.rows=2",
                           "evaluation.decode.max_new_tokens=4", "tracker=disabled")  # fmt: skip
    assert done.status == 0, done.err
    assert summary(run)["eval/loss"] == pytest.approx(before, abs=1e-5)
    assert len(records(run / "predictions-generate.jsonl")) == 2


def test_every_evaluation_without_a_judge_at_once(run: Path, tmp_path: Path):
    done = alpaca_evaluate(
        tmp_path, "run", "evaluation=[quick,loss,generate,safety]", "evaluation.loss.lengths=[8,10]",
        "evaluation.generate.rows=6", "evaluation.safety.rows=3", "evaluation.decode.max_new_tokens=6",
    )  # fmt: skip
    assert done.status == 0, done.err
    scores = summary(run)
    assert scores["status"] == "finished"
    made = {key for key in scores if key.startswith(("eval/", "perf/")) and not key.endswith("_before")}
    assert scores["directions"].keys() == made
    assert scores["eval/generate/answers"] == 6
    assert scores["eval/safety/requests"] == 6
    assert 0 <= scores["eval/safety/refusal_rate_harmful"] <= 1
    assert scores["eval/loss/all"] == pytest.approx(scores["eval/loss"])
    parts = [name for name in scores if name.startswith("eval/loss/tokens/")]
    assert {"eval/loss/tokens/1-8", "eval/loss/tokens/9-10"} >= set(parts)
    losses = [record["scores"] for record in records(run / "predictions-loss.jsonl")]
    whole = sum(each["loss"] * each["tokens"] for each in losses) / sum(each["tokens"] for each in losses)
    assert scores["eval/loss/all"] == pytest.approx(whole)
    assert [line["evaluation"] for line in records(run / "evaluations.jsonl")] == [
        "quick",
        "loss",
        "generate",
        "safety",
    ]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    for record in records(run / "predictions-generate.jsonl"):
        assert record["scores"]["rougeL"] == scorer.score(record["reference"], record["output"])["rougeL"].fmeasure
        assert len(record["id"]) == 16
        assert record["instruction"] in record["prompt"]


def test_losses_by_category_are_those_of_their_rows(tmp_path: Path):
    rows = [{**row, "category": ("odd", "even")[n % 2]} for n, row in enumerate(some_rows(48))]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    done = alpaca_run(tmp_path, *SMALL, "evaluation=[quick,loss]", "train.max_steps=1")
    assert done.status == 0, done.err
    losses = records(done.directory / "predictions-loss.jsonl")
    for name in ("odd", "even"):
        mine = [each["scores"] for each in losses if each["category"] == name]
        mean = sum(each["loss"] * each["tokens"] for each in mine) / sum(each["tokens"] for each in mine)
        assert done.summary[f"eval/loss/category/{name}"] == pytest.approx(mean)


def test_buckets_of_lengths():
    assert [bucket(tokens, [16, 64]) for tokens in (1, 16, 17, 64, 65, 9999)] == [
        "1-16", "1-16", "17-64", "17-64", "65-", "65-",
    ]  # fmt: skip
    assert bucket(3, []) == "1-"


def test_what_is_typed_changes_the_runs_own_settings_and_nothing_else(run: Path, tmp_path: Path):
    done = alpaca_evaluate(tmp_path, "run", "evaluation.quick.generate_rows=3")
    assert done.status == 0, done.err
    (line,) = records(run / "evaluations.jsonl")
    assert (line["settings"]["generate_rows"], line["settings"]["max_new_tokens"]) == (3, 4)
    assert "eval/rougeL_before" not in summary(run), "it was of other rows"
    assert sum(record["output"] is not None for record in records(run / "predictions.jsonl")) == 3


def test_scores_of_an_evaluation_that_is_made_again_take_the_place_of_the_old_ones(run: Path, tmp_path: Path):
    few = "evaluation.decode.max_new_tokens=4", "evaluation.generate.rows=4"
    assert alpaca_evaluate(tmp_path, "run", "evaluation=[generate,loss]", *few).status == 0
    (tmp_path / "set.jsonl").write_text(json.dumps({"instruction": "Count."}) + "\n")
    own = "evaluation.generate.instructions=file", "evaluation.generate.path=set.jsonl"
    assert alpaca_evaluate(tmp_path, "run", "evaluation=generate", *few, *own).status == 0
    scores = summary(run)
    assert scores["eval/generate/answers"] == 1
    assert "eval/generate/rougeL" not in scores, "the new set has no references"
    assert "eval/loss/all" in scores
    assert len(records(run / "predictions-generate.jsonl")) == 1
    assert len(records(run / "evaluations.jsonl")) == 3


def test_output_dir_leaves_the_run_as_it_was(run: Path, tmp_path: Path):
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != ".lock"}
    done = alpaca_evaluate(tmp_path, "run", "output_dir=elsewhere")
    assert done.status == 0, done.err
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file() and file.name != ".lock"}
    assert summary(tmp_path / "elsewhere")["eval/loss"] == pytest.approx(summary(run)["eval/loss"], abs=1e-5)
    refused = alpaca_evaluate(tmp_path, "run/model", "output_dir=elsewhere")
    assert refused.status == 2
    assert "it holds the evaluation of" in refused.err


def test_a_model_folder_answers_with_its_own_template(run: Path, tmp_path: Path):
    shutil.copytree(run / "model", tmp_path / "mine")
    done = alpaca_evaluate(tmp_path, "mine", "evaluation.decode.max_new_tokens=4", "evaluation.generate.rows=2",
                           "tracker=disabled")  # fmt: skip
    assert done.status == 0, done.err
    (place,) = (tmp_path / "outputs" / "evaluate").iterdir()
    assert place.name.endswith("-mine")
    assert summary(place)["eval/generate/answers"] == 2
    assert "Below is an instruction" in records(place / "predictions-generate.jsonl")[0]["prompt"]


def test_a_model_folder_that_cannot_be_scored_leaves_no_folders(run: Path, tmp_path: Path):
    shutil.copytree(run / "model", tmp_path / "mine")
    (tmp_path / "mine" / "model.safetensors").write_bytes(b"x")
    done = alpaca_evaluate(tmp_path, "mine")
    assert (done.status, len(done.err.splitlines())) == (2, 1)
    assert "no loadable model" in done.err
    assert not (tmp_path / "outputs").exists()
    (tmp_path / "outputs" / "kept").mkdir(parents=True)
    assert alpaca_evaluate(tmp_path, "mine").status == 2
    assert [path.name for path in (tmp_path / "outputs").iterdir()] == ["kept"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "eval/generate: 2 answers to seed_holdout"),
        (["evaluation.generate.instructions=held_out"], "eval/generate: 2 answers to held_out"),
        (
            ["evaluation.generate.instructions=file", "evaluation.generate.path=rows.json"],
            "eval/generate: 2 answers to file (rows.json)",
        ),
    ],
)
def test_the_table_says_which_instructions_were_answered(run: Path, tmp_path: Path, arguments: list[str], said: str):
    few = ("evaluation.decode.max_new_tokens=2", "evaluation.generate.rows=2", "tracker=disabled")
    done = alpaca_evaluate(tmp_path, "run", "evaluation=generate", *few, *arguments)
    assert done.status == 0, done.err
    assert said in done.out


def test_a_file_of_outputs_is_scored_without_a_model(tmp_path: Path):
    outputs = [
        {"dataset": "d", "instruction": "Name a colour.", "output": "Red.", "generator": "someone"},
        {"instruction": "Open this lock.", "output": "I'm sorry, but I can't help with that.", "generator": "someone"},
        {"instruction": "Not answered.", "output": None, "generator": "someone"},
    ]
    (tmp_path / "model_outputs.json").write_text(json.dumps(outputs))
    done = alpaca_evaluate(tmp_path, "model_outputs.json", "tracker=disabled", "output_dir=scored")
    assert done.status == 0, done.err
    scores = summary(tmp_path / "scored")
    assert (scores["eval/generate/answers"], scores["eval/generate/refusal_rate"]) == (2, 0.5)
    assert "eval/generate: 2 answers of model_outputs.json" in done.out
    assert "eval/generate/stop_rate" not in scores, "a text does not say how it ended"


def test_predictions_are_a_file_of_outputs_too_and_keep_their_ids(run: Path, tmp_path: Path):
    few = "evaluation.decode.max_new_tokens=4", "evaluation.generate.rows=4"
    assert alpaca_evaluate(tmp_path, "run", "evaluation=generate", *few).status == 0
    done = alpaca_evaluate(tmp_path, "run/predictions-generate.jsonl", "tracker=disabled", "output_dir=again")
    assert done.status == 0, done.err
    first, again = summary(run), summary(tmp_path / "again")
    assert {name: value for name, value in again.items() if "/" in name} == pytest.approx(
        {name: value for name, value in first.items() if name.startswith("eval/generate/")}
    )
    ids = [[record["id"] for record in records(file)] for file in
           (run / "predictions-generate.jsonl", tmp_path / "again" / "predictions-generate.jsonl")]  # fmt: skip
    assert ids[0] == ids[1]


def test_stored_judgements_of_a_file_are_replayed(tmp_path: Path):
    tasks = [f"Task {number}" for number in range(4)]
    (tmp_path / "model_outputs.json").write_text(
        json.dumps([{"instruction": task, "output": "mine", "generator": "me"} for task in tasks])
    )
    (tmp_path / "annotations.json").write_text(
        json.dumps([
            {"instruction": task, "output_1": "theirs", "generator_1": "them", "output_2": "mine", "generator_2": "me",
             "annotator": "judge", "preference": preference}
            for task, preference in zip(tasks, (2, 2, 1, 0), strict=True)
        ])
    )  # fmt: skip
    done = alpaca_evaluate(
        tmp_path, "model_outputs.json", "evaluation=judge", "evaluation.judge.annotations=annotations.json",
        "tracker=disabled", "output_dir=judged",
    )  # fmt: skip
    assert done.status == 0, done.err
    assert summary(tmp_path / "judged")["eval/judge/win_rate"] == pytest.approx(62.5, abs=1e-6)
    assert len(records(tmp_path / "judged" / "predictions-judge.jsonl")) == 4


def test_a_model_that_was_never_taught_eos_is_flagged_and_one_that_was_is_not(workplace: Path):
    long = "train.epochs=12", "evaluation.quick.generate_rows=8", "evaluation.quick.max_new_tokens=24", "adapter=full"
    taught = alpaca_run(workplace, *SMALL, *long, "name=taught")
    untaught = alpaca_run(workplace, *SMALL, *long, "train.train_on_eos=false", "name=untaught")
    assert taught.status == untaught.status == 0, taught.err + untaught.err
    assert "never learned EOS" not in taught.out
    assert "never learned EOS" in untaught.out
    (run,) = (workplace / "outputs" / "untaught").iterdir()
    assert summary(run)["eval/stop_rate"] == 0
    again = alpaca_evaluate(workplace, str(run), "evaluation=generate", "evaluation.generate.instructions=held_out",
                            "evaluation.decode.max_new_tokens=24")  # fmt: skip
    assert again.status == 0, again.err
    assert "0% of 8 answers ended by themselves within 24 tokens" in again.out
    assert summary(run)["eval/generate/stop_rate"] == 0


def test_a_run_that_is_finished_says_how_it_is_scored_again(workplace: Path):
    first = alpaca_run(workplace, *SMALL, "train.max_steps=1")
    again = alpaca_run(workplace, *SMALL, "train.max_steps=1")
    assert "the same run is finished in" not in first.out
    assert f"-m alpaca.evaluate {first.directories[0].relative_to(workplace)}" in again.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such file or folder; give a finished run directory"),
        (["."], "no run directory (it has no config.yaml) and no model (no config.json)"),
        (["evaluation=quick"], "RUN comes first"),
        (["unfinished"], "the run is not finished (status killed, or still running)"),
        (["run", "train.seed=3"], "train.seed=3: a finished run keeps its settings"),
        (["run", "evaluation=qick"], "evaluation=qick: no such option; did you mean quick?"),
        (["run", "evaluation=none"], "there is nothing to score"),
        (["run", "evaluation="], "evaluation=: no such option; known: generate, judge, "),
        (["run", "-m", "evaluation=quick,loss"], "alpaca.evaluate scores one thing"),
        (["run", "evaluation.judge.rows=3"], "judge is not made here; choose it, evaluation=[quick,judge]"),
        (["run", "evaluation=generate", "evaluation.generate.instructions=vicuna"], "choose one of held_out, seed_"),
        (["run", "evaluation=generate", "evaluation.generate.instructions=file"], "which one? set"),
        (["run", "evaluation=generate", "evaluation.generate.path=x"], "that set has no file"),
        (["run", "evaluation=loss", "evaluation.loss.lengths=[9,3]"], "bounds in tokens are at least 1 and rise"),
        (["run", "evaluation=generate", "evaluation.decode.top_p=0"], "evaluation.decode.top_p=0.0: must be above 0"),
        (["run", "evaluation.decode.model=x"], "the model in this process answers"),
        (["run", "evaluation.decode.engine=openai"], "set evaluation.decode.base_url"),
        (["run", "evaluation=judge"], "OPENAI_API_KEY is not set"),
        (["run", "evaluation=lm_eval", "evaluation.lm_eval.tasks=[]"], "name at least one task"),
        (["nothing.json"], "no output in it (it has instruction)"),
        (["empty.jsonl"], "the file is empty"),
        (["two.json"], "it holds the outputs of 2 generators (a, b)"),
        (["two.json", "evaluation=quick"], "is a file of outputs, and this needs a model"),
        (["adapter"], "an adapter is scored with its run"),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line(arguments: list[str], message: str, finished: Outcome, tmp_path: Path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    (tmp_path / "run").symlink_to(finished.directory)
    (tmp_path / "unfinished").mkdir()
    shutil.copy(finished.directory / "config.yaml", tmp_path / "unfinished" / "config.yaml")
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_config.json").write_text("{}")
    (tmp_path / "nothing.json").write_text('[{"instruction": "Say hi"}]')
    (tmp_path / "empty.jsonl").write_text("")
    two = [{"instruction": name, "output": "x", "generator": name} for name in "ab"]
    (tmp_path / "two.json").write_text(json.dumps(two))
    done = alpaca_evaluate(tmp_path, *arguments)
    assert done.status == 2
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not list((tmp_path / "outputs").rglob("*.json")), "what was refused leaves nothing behind"
    assert not (finished.directory / "evaluations.jsonl").exists()


@pytest.mark.parametrize(
    "value", ["it's", "a\\", "\\'", "x,y=[1]", "é ${no}", "", 'say "hi"', None, True, 1e-5, [1, "a'b"]]
)
def test_settings_survive_hydras_grammar(value: object):
    from hydra.core.override_parser.overrides_parser import OverridesParser

    assert OverridesParser.create().parse_override(f"key={literal(value)}").value() == value


def test_a_run_without_evaluations_is_composed_with_none():
    assert overrides_for(Config(), [])[0] == "evaluation=[none]"


def test_help_is_there_without_torch(tmp_path: Path):
    asks = "try: alpaca.evaluate.main(['--help'])\nexcept SystemExit: pass"
    code = f"import sys, alpaca.evaluate\n{asks}\nassert 'torch' not in sys.modules"
    done = subprocess.run(
        [sys.executable, "-c", code], env=command_environment(), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "alpaca.evaluate RUN [overrides]" in done.stdout


def test_a_run_with_damaged_weights_is_one_line(finished: Outcome, tmp_path: Path):
    run = copy_of(finished, tmp_path)
    weights = run / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:5000])
    done = alpaca_evaluate(tmp_path, str(run), "evaluation=quick")
    assert done.status == 2
    assert "no loadable model" in done.err
    assert len(done.err.splitlines()) == 1


def test_an_evaluation_that_stopped_before_anything_was_kept_goes_on_in_its_folder(tmp_path: Path):
    target, made = tmp_path / "outputs.json", tmp_path / "evaluate"
    for number, paid in enumerate((False, True, True)):
        place = Place(made / f"{number}-outputs", target=target, is_run=False)
        if paid:
            (place.path / "judge").mkdir()
            (place.path / "judge" / "judgements.jsonl").write_text("{}\n")
        place.close()
    assert not (made / "0-outputs").exists()
    assert stopped(made, target) == made / "2-outputs"
    assert stopped(made, tmp_path / "other.json") is None
    again = Place(made / "2-outputs", target=target, is_run=False)
    assert (again.path / "judge" / "judgements.jsonl").read_text() == "{}\n"
    assert stopped(made, target) == made / "1-outputs", "the other one is under way"
    again.keep("judge", Scores({"eval/judge/win_rate": 50.0}, []), {})
    again.close()
    assert stopped(made, target) == made / "1-outputs"
