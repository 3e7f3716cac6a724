"""Real sweeps of the tiny model, compared: rows, verdicts, files, and one line for whatever is wrong."""

import contextlib
import csv
import io
import json
import math
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from commands import SMALL, alpaca_run, some_rows

from alpaca import compare
from alpaca.evaluation.scores import HIGHER, LOWER, NEITHER, declared
from alpaca.report.command import write_report
from alpaca.report.comparing import compare as comparison_of
from alpaca.report.directions import EARLIER, directions_of
from alpaca.report.reading import Found, read_run, read_runs
from alpaca.report.records import BETTER, FINISHED, NO_DIFFERENCE, NOT_COMPARABLE, WORSE, Run

SHORT = ("train.max_steps=3", "train.self_check=false", "train.rehearse_save=false", "train.eval_rows=12")
TRUNCATED = "train.max_length=103"  # cuts the responses to prompts with an input


@dataclass(frozen=True)
class Compared:
    status: int
    out: str
    err: str


def alpaca_compare(folder: Path, *arguments: str) -> Compared:
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("COLUMNS", "100")
        status = compare.main(list(arguments))
    return Compared(status, out.getvalue(), err.getvalue())


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with six runs: two learning rates, three seeds each, in `runs/`."""
    folder = tmp_path_factory.mktemp("grid")
    (folder / "rows.json").write_text(json.dumps(some_rows(48)))
    for rate in ("1e-5", "1e-2"):
        for seed in (0, 1, 2):
            place = f"output_dir=runs/{rate}-{seed}"
            outcome = alpaca_run(folder, *SMALL, *SHORT, TRUNCATED, f"optimizer.lr={rate}", f"train.seed={seed}", place)
            assert outcome.status == 0, outcome.err
    return folder


@pytest.fixture
def runs(grid: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    shutil.copytree(grid / "runs", tmp_path / "runs")
    return tmp_path


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_a_higher_learning_rate_is_better_and_the_report_says_by_how_much(runs: Path):
    done = alpaca_compare(runs, "runs", "--baseline", "optimizer.lr=1e-05", "--output", "report")
    assert done.status == 0, done.err
    comparison = comparison_of(read_runs([runs / "runs"]), baseline="optimizer.lr=1e-05")
    base, other = comparison.variants
    assert (base.label, other.label) == ("optimizer.lr=1e-05", "optimizer.lr=0.01")
    difference = comparison.differences[1]["eval/loss"]
    assert difference.verdict == BETTER
    assert (difference.seeds, difference.examples) == (3, 12)
    means = [sum(run.metrics["eval/loss"] for run in each.runs) / 3 for each in (base, other)]
    assert math.isclose(difference.estimate, means[1] - means[0], abs_tol=1e-9)  # weighted by tokens, as the metric is
    assert difference.low < difference.estimate < difference.high < 0
    assert f"{difference.estimate:+.4f}" in done.out
    assert "better" in done.out
    with (runs / "report" / "report.csv").open() as stream:
        lines = list(csv.DictReader(stream))
    row = next(line for line in lines if (line["variant"], line["metric"]) == (other.label, "eval/loss"))
    assert float(row["difference"]) == pytest.approx(difference.estimate)
    assert row["verdict"] == BETTER
    page = (runs / "report" / "report.md").read_text()
    assert "optimizer.lr=1e-05" in page
    assert f"{difference.estimate:+.4f}" in page
    assert (runs / "report" / "report.html").stat().st_size > 0


def test_the_other_way_round_it_is_worse(runs: Path):
    comparison = comparison_of(read_runs([runs / "runs"]), baseline="optimizer.lr=0.01")
    assert comparison.differences[1]["eval/loss"].verdict == WORSE


def test_seeds_of_one_variant_show_no_difference(runs: Path):
    found = read_runs([runs / "runs" / f"1e-5-{seed}" for seed in (0, 1)])
    comparison = comparison_of(found)
    assert len(comparison.variants) == 1
    assert comparison.means[0]["eval/loss"][2] == 2


def test_two_runs_are_a_verdict_about_these_runs_only(runs: Path):
    done = alpaca_compare(runs, "runs/1e-5-0", "runs/1e-2-0", "--output", "report")
    assert done.status == 0, done.err
    assert "these two" in done.out
    assert "settings that differ" in done.out
    assert "largest gain" in done.out
    page = (runs / "report" / "report.md").read_text()
    assert page.count("### `") >= 6
    first = comparison_of(read_runs([runs / "runs" / "1e-5-0", runs / "runs" / "1e-2-0"]))
    assert first.differences[1]["eval/loss"].only_these_runs


def test_failed_and_unfinished_runs_are_rows_with_their_reason(runs: Path):
    edit(runs / "runs" / "1e-2-1" / "summary.json", status="failed", error="the loss is nan")
    (runs / "runs" / "1e-2-2" / "summary.json").unlink()
    done = alpaca_compare(runs, "runs", "--output", "report")
    assert done.status == 0, done.err
    assert "1 of 3" in done.out
    assert "the loss is nan" in done.out
    assert "did not come to its end" in done.out
    assert "2 of 6 runs have no result" in (runs / "report" / "report.md").read_text()


def test_all_failed_runs_are_still_a_report(runs: Path):
    for folder in (runs / "runs").iterdir():
        edit(folder / "summary.json", status="failed", error="out of memory")
    done = alpaca_compare(runs, "runs", "--output", "report")
    assert done.status == 0, done.err
    assert "nothing to compare" in done.out


def test_a_filter_leaves_runs_out(runs: Path):
    done = alpaca_compare(runs, "runs", "--filter", "optimizer.lr=0.01", "--output", "report")
    assert done.status == 0, done.err
    assert "1e-05" not in done.out


def test_markup_in_an_answer_stays_text(runs: Path):
    file = runs / "runs" / "1e-2-0" / "predictions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["output"] = "[red]<script>alert(1)</script>| x"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = alpaca_compare(runs, "runs/1e-5-0", "runs/1e-2-0", "--output", "report")
    assert done.status == 0, done.err
    assert "<script>alert" not in (runs / "report" / "report.md").read_text()
    assert "<script>alert" not in (runs / "report" / "report.html").read_text()


def test_runs_scored_on_other_examples_are_refused_and_forced_onto_the_common_ones(runs: Path):
    file = runs / "runs" / "1e-2-0" / "predictions.jsonl"
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-2]))
    places = ("runs/1e-5-0", "runs/1e-2-0", "--metric", "eval/loss", "--output", "report")
    refused = alpaca_compare(runs, *places)
    assert refused.status == 2
    assert "10 of up to 12" in refused.err
    assert "--force" in refused.err
    forced = alpaca_compare(runs, *places, "--force")
    assert forced.status == 0, forced.err
    assert "10 examples that all runs have" in " ".join(forced.out.split())


def test_bits_per_byte_of_examples_are_the_runs_own(runs: Path):
    run = read_run(runs / "runs" / "1e-2-0")
    scores, sizes = run.scores["eval/bits_per_byte"], run.weights["eval/bits_per_byte"]
    mean = sum(scores[name] * sizes[name] for name in scores) / sum(sizes.values())
    assert mean == pytest.approx(run.metrics["eval/bits_per_byte"])
    whole = {name: len(str(text["reference"]).encode()) for name, text in run.texts.items()}
    assert 0 < sum(sizes[name] < whole[name] for name in sizes) < len(sizes)


def test_every_metric_of_the_table_is_the_mean_of_the_runs_own_values(runs: Path):
    summaries = {file.parent.name: json.loads(file.read_text()) for file in runs.glob("runs/*/summary.json")}
    names = [key for key in summaries["1e-5-0"] if key.startswith("eval/") and not key.endswith("_before")]
    assert {"eval/loss", "eval/bits_per_byte", "eval/rougeL", "eval/perplexity", "eval/token_accuracy"} <= set(names)
    comparison = comparison_of(read_runs([runs / "runs"]), baseline="optimizer.lr=1e-5", metrics=names)
    for name in names:
        own = [sum(summaries[f"{rate}-{seed}"][name] for seed in range(3)) / 3 for rate in ("1e-5", "1e-2")]
        assert [means[name][0] for means in comparison.means] == pytest.approx(own)
        assert comparison.differences[1][name].estimate == pytest.approx(own[1] - own[0], abs=1e-12)
    assert comparison.differences[1]["eval/bits_per_byte"].examples == 12


def test_runs_that_do_not_say_how_much_was_scored_are_compared_by_their_means(runs: Path):
    for file in runs.glob("runs/*/predictions.jsonl"):
        lines = [json.loads(line) for line in file.read_text().splitlines()]
        for line in lines:
            del line["scores"]["bytes"]
        file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    comparison = comparison_of(read_runs([runs / "runs"]), metrics=["eval/bits_per_byte"])
    difference = comparison.differences[1]["eval/bits_per_byte"]
    assert (difference.examples, difference.seeds) == (0, 3)
    assert "earlier version that does not say how much of each truncated response" in " ".join(comparison.notes)
    own = [means["eval/bits_per_byte"][0] for means in comparison.means]
    assert difference.estimate == pytest.approx(own[1] - own[0])


def test_responses_that_two_tokenizers_cut_apart_do_not_reverse_a_verdict():
    """Each run's bits per byte are over the bytes it was scored on; both have the whole answer as reference."""
    names = [f"{number:02d}" for number in range(20)]

    def bits(name: str, level: float, sizes: list[int], tokenizer: str) -> Run:
        scores = {key: level + 0.01 * number for number, key in enumerate(names)}
        weights = dict(zip(names, map(float, sizes), strict=True))
        mean = sum(scores[key] * weights[key] for key in names) / sum(sizes)
        return Run(
            name, name, FINISHED, 0, name, {"model.weights": tokenizer}, {"eval/bits_per_byte": mean},
            scores={"eval/bits_per_byte": scores}, weights={"eval/bits_per_byte": weights}, tokenizer=tokenizer,
            directions={"eval/bits_per_byte": LOWER},
        )  # fmt: skip

    first = bits("a", 3.5, [400] * 10 + [40] * 10, "a")
    second = bits("b", 4.7, [25] * 10 + [250] * 10, "b")
    comparison = comparison_of(Found([first, second], "two", first=first))
    difference = comparison.differences[1]["eval/bits_per_byte"]
    own = [run.metrics["eval/bits_per_byte"] for run in (first, second)]
    assert difference.estimate == pytest.approx(own[1] - own[0])
    assert difference.verdict == WORSE
    assert "20 responses were cut at different places" in " ".join(comparison.notes)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("nowhere",), "nowhere: no such folder"),
        (("empty",), "empty: there is no run in this folder"),
        (("runs", "--baseline", "optimizer.lr=5"), "fits none of the variants (optimizer.lr=0.01; optimizer.lr=1e-05)"),
        (("runs", "--baseline", "model=tiny"), "fits several variants (optimizer.lr=0.01; optimizer.lr=1e-05)"),
        (("runs", "--metric", "eval/los"), "has no such metric; all runs have: eval/bits_per_byte, eval/loss"),
        (("runs", "--filter", "optimizer.lr"), "not a condition; write KEY=VALUE"),
        (("runs", "--filter", "adapter=lora"), "fits none of the 6 runs"),
        (("wandb:nothing",), "not a project; write wandb:ENTITY/PROJECT"),
        (("wandb:a/b",), "no W&B key on this machine"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(runs: Path, arguments: tuple[str, ...], expected: str):
    (runs / "empty").mkdir()
    done = alpaca_compare(runs, *arguments, "--output", "report")
    assert done.status == 2
    assert expected in done.err
    assert len(done.err.splitlines()) == 1
    assert not (runs / "report").exists()


def test_a_project_that_cannot_be_reached_is_one_line(runs: Path, monkeypatch: pytest.MonkeyPatch, free_port: int):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{free_port}")
    monkeypatch.setattr("alpaca.report.wandb_source.TIMEOUT_S", 1)
    done = alpaca_compare(runs, "wandb:a/b")
    assert done.status == 2
    assert "not found or not reached" in done.err
    assert len(done.err.splitlines()) == 1


def test_a_damaged_line_of_metrics_is_named(runs: Path):
    file = runs / "runs" / "1e-2-0" / "metrics.jsonl"
    lines = file.read_text().splitlines()
    lines[1] = lines[1][:20]
    file.write_text("\n".join(lines) + "\n")
    done = alpaca_compare(runs, "runs")
    assert done.status == 2
    assert "metrics.jsonl, line 2: no JSON object" in done.err


def keep_metrics(folder: Path, *names: str) -> None:
    file = folder / "summary.json"
    summary = json.loads(file.read_text())
    kept = {key: value for key, value in summary.items() if not key.startswith("eval/") or key in names}
    file.write_text(json.dumps(kept))


def test_runs_without_a_common_metric_are_refused(runs: Path):
    for folder in (runs / "runs").iterdir():
        keep_metrics(folder, "eval/loss" if "1e-2" in folder.name else "eval/rougeL")
    done = alpaca_compare(runs, "runs")
    assert done.status == 2
    assert "no metric in common" in done.err


def test_runs_that_were_not_scored_are_compared_by_cost(runs: Path):
    for folder in (runs / "runs").iterdir():
        keep_metrics(folder)
    said: list[str] = []
    write_report(runs / "runs", say=said.append)
    assert "the costs are all there is" in " ".join(said[0].split())
    assert "tokens/s" in said[0]


def test_a_report_of_runs_that_cannot_be_compared_still_has_all_of_them(runs: Path):
    for folder in (runs / "runs").iterdir():
        keep_metrics(folder, "eval/loss" if "1e-2" in folder.name else "eval/rougeL")
    said: list[str] = []
    write_report(runs / "runs", say=said.append)
    assert "No comparison of scores" in said[0]
    assert "optimizer.lr=0.01" in said[0]
    assert "optimizer.lr=1e-05" in said[0]


def test_one_run_without_a_metric_takes_it_from_no_other(runs: Path):
    keep_metrics(runs / "runs" / "1e-2-1", "eval/rougeL")
    comparison = comparison_of(read_runs([runs / "runs"]), baseline="optimizer.lr=1e-5")
    assert comparison.metrics[0] == "eval/loss"
    difference = comparison.differences[1]["eval/loss"]
    assert (difference.verdict, difference.seeds) == (BETTER, 2)
    assert "eval/loss: 1 finished runs have none" in " ".join(comparison.notes)


def test_a_seed_that_ran_twice_is_one_seed(runs: Path):
    for rate in ("1e-5", "1e-2"):
        for seed in (1, 2):
            shutil.rmtree(runs / "runs" / f"{rate}-{seed}")
            shutil.copytree(runs / "runs" / f"{rate}-0", runs / "runs" / f"{rate}-{seed}")
    comparison = comparison_of(read_runs([runs / "runs"]))
    difference = comparison.differences[1]["eval/loss"]
    assert difference.only_these_runs
    assert difference.seeds == 1
    assert "ran again" in " ".join(comparison.notes)


def test_a_variant_scored_on_other_examples_is_not_comparable_and_the_rest_are(runs: Path):
    for seed in (0, 1, 2):
        shutil.copytree(runs / "runs" / f"1e-2-{seed}", runs / "runs" / f"other-{seed}")
        place = runs / "runs" / f"other-{seed}"
        settings = yaml.safe_load((place / "config.yaml").read_text())
        settings["template"] |= {"name": "other", "prompt_with_input": "X"}
        (place / "config.yaml").write_text(yaml.safe_dump(settings))
        environment = json.loads((place / "env.json").read_text())
        environment["settings"]["template.prompt_with_input"] = "X"
        (place / "env.json").write_text(json.dumps(environment))
        lines = [json.loads(line) for line in (place / "predictions.jsonl").read_text().splitlines()]
        moved = [{**line, "id": f"x{line['id']}"} for line in lines]
        (place / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in moved))
    comparison = comparison_of(read_runs([runs / "runs"]), baseline="optimizer.lr=1e-5")
    verdicts = [differences["eval/loss"].verdict for differences in comparison.differences]
    assert verdicts.count(BETTER) == 1
    assert verdicts.count(NOT_COMPARABLE) == 1


def test_a_truncated_reference_is_another_example(runs: Path):
    file = runs / "runs" / "1e-2-0" / "predictions.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    lines[0]["scores"]["tokens"] -= 1
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    done = alpaca_compare(runs, "runs/1e-5-0", "runs/1e-2-0", "--metric", "eval/loss")
    assert done.status == 2
    assert "11 of up to 12" in done.err


@pytest.mark.parametrize(
    ("metric", "lower"),
    [
        ("eval/loss", True),
        ("eval/loss/category/qa", True),
        ("eval/bits_per_byte", True),
        ("eval/generate/repetition_rate", True),
        ("eval/safety/refusal_rate_borderline", True),
        ("eval/safety/refusal_rate_harmful", False),
        ("eval/rougeL", False),
        ("eval/judge/win_rate", False),
        ("eval/judge/win_rate/koala", False),
        ("perf/peak_memory_gib", True),
        ("perf/logical_tokens_per_s", False),
    ],
)
def test_metrics_of_runs_before_directions_were_written_have_theirs(metric: str, lower: bool):
    assert directions_of([metric], []) == {metric: LOWER if lower else HIGHER}


def test_they_are_those_that_the_code_declares():
    from alpaca.evaluation import generate, losses_apart, quick, safety
    from alpaca.evaluation.judging import report
    from alpaca.training import metering

    for maker in (quick, losses_apart, generate, safety, report):
        names = [name.replace("*", "all") for name in maker.DIRECTIONS]
        assert directions_of(names, []) == declared(names, maker.DIRECTIONS)
    of_summaries = [name for name in EARLIER if name.startswith("perf/")]
    assert directions_of(of_summaries, []) == declared(of_summaries, metering.DIRECTIONS)


def test_counts_are_neither_better_nor_worse():
    counts = ["eval/generate/answers", "eval/judge/n_total", "eval/judge/avg_length", "eval/judge/position_bias"]
    assert set(directions_of(counts, []).values()) == {NEITHER}


def test_a_direction_is_never_guessed_from_a_name():
    names = ["eval/wer", "eval/mae", "eval/toxicity", "eval/my_loss", "eval/lm_eval/arc_easy/acc", "memory"]
    assert set(directions_of(names, []).values()) == {""}


def test_a_metric_without_a_direction_gets_no_verdict_until_the_user_gives_one(runs: Path):
    for folder in (runs / "runs").iterdir():
        worse = "1e-2" in folder.name
        edit(folder / "summary.json", **{"eval/wer": 0.4 + 0.2 * worse + 0.001 * int(folder.name[-1]) * (1 + worse)})
    given = ("runs", "--baseline", "optimizer.lr=1e-5", "--metric", "eval/wer", "--output", "report")
    done = alpaca_compare(runs, *given)
    assert done.status == 0, done.err
    said = " ".join(done.out.split())
    assert "say it with --lower eval/wer or --higher eval/wer" in said
    assert "no verdict" in said
    assert not {"better", "worse"} & {row["verdict"] for row in csv_rows(runs / "report" / "report.csv")}
    assert (
        "which way is better is not declared" in " ".join((runs / "report" / "report.html").read_text().split()).lower()
    )
    for way, verdict in (("--lower", WORSE), ("--higher", BETTER)):
        done = alpaca_compare(runs, *given, way, "eval/wer")
        assert "say it with" not in done.out
        assert [row["verdict"] for row in csv_rows(runs / "report" / "report.csv")] == ["baseline", verdict]
    refused = alpaca_compare(runs, *given, "--lower", "eval/wer", "--higher", "eval/wer")
    assert (refused.status, "give one of them" in refused.err) == (2, True)
    unknown = alpaca_compare(runs, *given, "--lower", "eval/wars")
    assert (unknown.status, "no run has this metric" in unknown.err) == (2, True)


def test_more_memory_is_worse_whatever_the_name_says(runs: Path):
    for folder in (runs / "runs").iterdir():
        memory = (10 if "1e-5" in folder.name else 20) + 0.01 * int(folder.name[-1]) ** (1 + ("1e-2" in folder.name))
        edit(folder / "summary.json", **{"perf/peak_memory_gib": memory})
    comparison = comparison_of(
        read_runs([runs / "runs"]), baseline="optimizer.lr=1e-5", metrics=["perf/peak_memory_gib"]
    )
    assert comparison.differences[1]["perf/peak_memory_gib"].verdict == WORSE


def test_a_run_writes_the_direction_of_all_its_scores(runs: Path):
    summary = json.loads((runs / "runs" / "1e-2-0" / "summary.json").read_text())
    scores = {key for key in summary if key.startswith(("eval/", "perf/")) and not key.endswith("_before")}
    assert summary["directions"].keys() == scores


def csv_rows(file: Path) -> list[dict[str, str]]:
    with file.open() as stream:
        return list(csv.DictReader(stream))


def test_other_parallelism_tells_runs_of_one_seed_apart(runs: Path):
    text = (runs / "runs" / "1e-2-0" / "config.yaml").read_text()
    shutil.copytree(runs / "runs" / "1e-2-0", runs / "runs" / "again")
    (runs / "runs" / "again" / "config.yaml").write_text(text.replace("sharding: none", "sharding: replicate"))
    comparison = comparison_of(read_runs([runs / "runs" / "1e-2-0", runs / "runs" / "again"]))
    assert sorted(each.label for each in comparison.variants) == [
        "parallelism.sharding=none",
        "parallelism.sharding=replicate",
    ]
    assert comparison.differences[1]["eval/loss"].verdict == NO_DIFFERENCE


def test_help_is_instant():
    heavy = {"torch", "transformers", "wandb", "matplotlib", "scipy"}
    code = f"import sys, alpaca.compare as c; c.parser().format_help(); sys.exit(bool({heavy} & set(sys.modules)))"
    import subprocess

    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=300).returncode == 0
