"""Stored judgements and outputs in other tools' forms: known answers to six decimals, and errors that name the row."""

import csv
import json
import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from alpaca.config import JudgeConfig
from alpaca.data.rows import Row, example_id
from alpaca.errors import RunFailed, UserError
from alpaca.evaluation.answers import Answer
from alpaca.evaluation.judging.command import judge
from alpaca.evaluation.judging.score_files import answer_id
from alpaca.evaluation.judging.win_rate import NoPreference, points_of, win_rate
from alpaca.evaluation.output_sets import read_output_set
from alpaca.evaluation.scores import Scores


def answers_to(count: int, name: str = "run", given: str = "") -> list[Answer]:
    return [
        Answer(example_id(Row(f"Task {i}.", given, "")), f"Task {i}.", given, f"{name} says {'so ' * (i % 7)}{i}")
        for i in range(count)
    ]


def annotation(answer: Answer, preference: float | None, **changed: Any) -> dict[str, Any]:
    record = {
        "instruction": answer.instruction,
        "output_1": f"baseline of {answer.instruction}",
        "generator_1": "text_davinci_003",
        "output_2": answer.output,
        "generator_2": "run",
        "annotator": "alpaca_eval_gpt4",
        "preference": preference,
    }
    return {**record, **changed}


def written(file: Path, records: Any) -> str:
    text = "".join(json.dumps(one) + "\n" for one in records) if file.suffix == ".jsonl" else json.dumps(records)
    file.write_text(text)
    return str(file)


def replayed(answers: list[Answer], place: Path, annotations: Any, **changed: Any) -> tuple[Scores, list[str]]:
    said: list[str] = []
    settings = JudgeConfig(annotations=annotations, resamples=1000, **changed)
    return judge(answers, settings, place, say=said.append), said


def refused(answers: list[Answer], place: Path, annotations: Any, **changed: Any) -> str:
    with pytest.raises(UserError) as error:
        replayed(answers, place, annotations, **changed)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_known_answers_of_version_1_with_draws_coded_0_and_1_5_and_null_rows(tmp_path: Path):
    """805 rows: 480 won, 300 lost, 20 draws written 1.5 and 0, 5 null. 490 / 800 = 61.25 %, by hand."""
    answers = answers_to(805)
    preferences: list[float | None] = [2] * 480 + [1] * 300 + [1.5] * 12 + [0] * 8 + [None] * 5
    random.Random(0).shuffle(preferences)
    file = written(tmp_path / "annotations.json", [annotation(a, p) for a, p in zip(answers, preferences, strict=True)])
    metrics = replayed(answers, tmp_path / "judge", file)[0].metrics
    squares = 480 * (1 - 0.6125) ** 2 + 300 * 0.6125**2 + 20 * (0.5 - 0.6125) ** 2
    assert round(metrics["eval/judge/win_rate"], 6) == 61.25
    assert round(metrics["eval/judge/standard_error"], 6) == round(100 * math.sqrt(squares / 799 / 800), 6) == 1.700673
    counts = {name: metrics[f"eval/judge/{name}"] for name in ("n_wins", "n_wins_base", "n_draws", "n_total")}
    assert counts == {"n_wins": 480, "n_wins_base": 300, "n_draws": 20, "n_total": 800}
    assert metrics["eval/judge/unparseable"] == 5


def test_published_lines_of_a_leaderboard_come_out_again():
    """Counts of four published lines give their published win rates and standard errors.

    From AlpacaEval's leaderboard of the judge claude_3_opus_ranking, its columns n_wins, n_wins_base, n_draws.
    """
    for wins, losses, draws, rate, error in (
        (220, 583, 2, 27.45341614906832, 1.5714493961428302),
        (120, 680, 5, 15.217391304347828, 1.259117090773072),
        (132, 672, 1, 16.459627329192546, 1.306288755306555),
        (48, 753, 4, 6.211180124223603, 0.8420811207823524),
    ):
        found = win_rate(np.repeat([1.0, 0.0, 0.5], [wins, losses, draws]))
        assert found.win_rate == pytest.approx(rate, abs=1e-6)
        assert found.standard_error == pytest.approx(error, abs=1e-6)
        assert (found.n_wins, found.n_wins_base, found.n_draws) == (wins, losses, draws)


def test_known_answers_of_version_2_with_probabilities(tmp_path: Path):
    answers = answers_to(300)
    draw = random.Random(1)
    preferences = [1 + draw.random() ** 3 for _ in answers]
    file = written(
        tmp_path / "annotations.jsonl", [annotation(a, p) for a, p in zip(answers, preferences, strict=True)]
    )
    metrics = replayed(answers, tmp_path / "judge", file)[0].metrics
    points = np.array(preferences) - 1
    assert round(metrics["eval/judge/win_rate"], 6) == round(100 * points.mean(), 6)
    assert round(metrics["eval/judge/standard_error"], 6) == round(100 * stats.sem(points), 6)
    assert round(metrics["eval/judge/discrete_win_rate"], 6) == round(100 * np.mean(points > 0.5), 6)
    assert metrics["eval/judge/win_rate_low"] < 100 * points.mean() < metrics["eval/judge/win_rate_high"]
    assert metrics["eval/judge/avg_length"] == pytest.approx(np.mean([len(answer.output) for answer in answers]))


def test_preferences_in_their_encoding():
    assert [points_of(value) for value in (1, 2, 1.5, 0, 0.0, 1.25, None, float("nan"))] == [
        0,
        1,
        0.5,
        0.5,
        0.5,
        0.25,
        None,
        None,
    ]
    for bad in (-1, 0.5, 2.5, 3, "2", True, [1]):
        with pytest.raises(NoPreference):
            points_of(bad)


def test_inputs_joined_to_the_instruction_match_and_the_other_side_is_turned_round(tmp_path: Path):
    answers = answers_to(4, given="the input")
    records = [annotation(a, 2, instruction=f"{a.instruction}\n\n{a.input}") for a in answers[:3]]
    last = answers[3]
    records.append(annotation(last, 1.2, instruction=f"{last.instruction}\n\n{last.input}",
                              output_1=last.output, output_2="another's"))  # fmt: skip
    scores, _ = replayed(answers, tmp_path / "judge", written(tmp_path / "a.json", records))
    assert [record["scores"]["win"] for record in scores.examples] == pytest.approx([1, 1, 1, 0.8])


def test_annotations_of_other_outputs_do_not_count(tmp_path: Path):
    answers = answers_to(6)
    records = [annotation(a, 2) for a in answers[:3]] + [annotation(a, 1, output_2="stale") for a in answers[3:]]
    scores, said = replayed(answers, tmp_path / "judge", written(tmp_path / "a.json", records))
    assert scores.metrics["eval/judge/n_total"] == 3
    assert scores.metrics["eval/judge/unjudged"] == 3
    assert any("3 of 6 answers have no judgement there" in line for line in said)


def test_several_annotations_of_one_answer_count_each_and_are_averaged_in_its_record(tmp_path: Path):
    answers = answers_to(2)
    records = [annotation(answers[0], value) for value in (2, 2, 1)] + [annotation(answers[1], 1)]
    scores, _ = replayed(answers, tmp_path / "judge", written(tmp_path / "a.json", records))
    assert scores.metrics["eval/judge/win_rate"] == 50.0
    assert [record["scores"]["win"] for record in scores.examples] == pytest.approx([2 / 3, 0])


def test_no_annotation_matches(tmp_path: Path):
    answers = answers_to(5)
    stale = written(tmp_path / "stale.json", [annotation(a, 2, output_2="older") for a in answers[:4]])
    assert "4 of 5 instructions overlap, but with other outputs" in refused(answers, tmp_path / "judge", stale)
    other = written(tmp_path / "other.json", [annotation(a, 2, instruction="Else.") for a in answers])
    message = refused(answers, tmp_path / "judge", other)
    assert "none of its 5 annotations judges one of these answers: 0 of 5 instructions overlap" in message
    null = written(tmp_path / "null.json", [annotation(a, None) for a in answers])
    with pytest.raises(RunFailed, match="of the 5 judgements that match none has a preference"):
        replayed(answers, tmp_path / "judge", null)


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.json", "[1, 2", "a.json, line 1: not JSON"),
        ("a.jsonl", '{"instruction": "x", "preference": 1}\n{"instr', "a.jsonl, line 2: not JSON"),
        ("a.json", "", "the file is empty"),
        ("a.json", "[1]", "a.json, row 1: a number instead of an object"),
        ("a.json", '[{"instruction": "x", "output": "y"}]', "row 1: no field 'preference'"),
        ("a.json", '[{"instruction": "x", "preference": 3}]', "row 1: preference 3 is neither from 1 to 2 nor 0"),
        ("a.json", '[{"instruction": "x", "preference": "2"}]', "row 1: preference '2' is no number"),
        ("a.json", '[{"instruction": 5, "preference": 2}]', "row 1: instruction is a number, not a text"),
        ("a.json", '[{"instruction": "x", "preference": 2, "output_2": 1}]', "row 1: output_2 is no text"),
        ("a.json", '[{"answer1_id": "a", "answer2_id": "b", "score": [8]}]', "row 1: score is [8]; it must be two"),
        ("a.json", '[{"answer1_id": "a", "answer2_id": "b", "score": [8, 11]}]', "row 1: score is [8, 11]; scores go"),
    ],
)
def test_a_bad_annotation_file_is_named_with_its_row(tmp_path: Path, name: str, content: str, expected: str):
    (tmp_path / name).write_text(content)
    message = refused(answers_to(3), tmp_path / "judge", str(tmp_path / name))
    assert message.startswith("evaluation.judge.annotations")
    assert expected in message


def test_the_files_written_are_alpacaevals_and_replay_to_the_same_numbers(tmp_path: Path):
    from biased_judge import BiasedJudge, settings
    from servers import Server

    made = BiasedJudge(20)
    with Server(made) as server:
        scores = judge(
            made.answers, settings(server.url), tmp_path / "judge", say=lambda text: None, references=made.baseline
        )
    outputs = json.loads((tmp_path / "judge" / "model_outputs.json").read_text())
    assert [set(record) for record in outputs] == [{"dataset", "instruction", "output", "generator"}] * 20
    assert {record["generator"] for record in outputs} == {"llama-run"}
    again, _ = replayed(made.answers, tmp_path / "again", str(tmp_path / "judge" / "annotations.json"))
    for name in ("win_rate", "standard_error", "win_rate_low", "length_controlled_win_rate", "n_total"):
        assert again.metrics[f"eval/judge/{name}"] == pytest.approx(scores.metrics[f"eval/judge/{name}"])


LEADERBOARD = """\
,win_rate,standard_error,mode,avg_length,n_total
gpt4,95.28,0.72,minimal,1365,805
alpaca-7b,26.46,1.54,minimal,396,805
pythia,5.0,0.7,community,500,805
"""


def test_a_run_is_placed_beside_the_public_leaderboard(tmp_path: Path):
    answers = answers_to(10)
    (tmp_path / "board.csv").write_text(LEADERBOARD)
    file = written(tmp_path / "a.json", [annotation(a, 2 if i < 3 else 1) for i, a in enumerate(answers)])
    _, said = replayed(answers, tmp_path / "judge", file, leaderboard=str(tmp_path / "board.csv"))
    assert said[-1] == "place 2 of 4 by win rate: 30.00 %, below gpt4 (95.28 %), above alpaca-7b (26.46 %)"
    with (tmp_path / "judge" / "leaderboard.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [row[""] for row in rows] == ["gpt4", "alpaca", "alpaca-7b", "pythia"]
    assert rows[1]["avg_length"] == str(int(np.mean([len(answer.output) for answer in answers])))
    assert rows[1]["n_wins"] == "3"
    assert rows[2]["standard_error"] == "1.54"
    for content, expected in (
        ("name,score\na,1\n", "line 1: no column win_rate"),
        (",win_rate\nok,5\nbad,many\n", "line 3: win_rate is 'many'"),
        (",win_rate\n", "no entry"),
    ):
        (tmp_path / "bad.csv").write_text(content)
        assert expected in refused(answers, tmp_path / "judge", file, leaderboard=str(tmp_path / "bad.csv"))


def test_the_average_length_of_a_leaderboard_is_cut_not_rounded_and_of_all_outputs(tmp_path: Path):
    """As the official tool writes it: the whole part of the mean number of characters of all outputs."""
    answers = [Answer(str(n), f"Task {n}.", "", "x" * length) for n, length in enumerate((10, 11, 11, 20))]
    (tmp_path / "board.csv").write_text(LEADERBOARD)
    file = written(tmp_path / "a.json", [annotation(a, 2) for a in answers[:3]])
    replayed(answers, tmp_path / "judge", file, leaderboard=str(tmp_path / "board.csv"))
    with (tmp_path / "judge" / "leaderboard.csv").open() as stream:
        lengths = {row[""]: row["avg_length"] for row in csv.DictReader(stream)}
    assert lengths["alpaca"] == "13"


def test_annotations_that_do_not_count_are_said_with_their_number(tmp_path: Path):
    answers = answers_to(5)
    others = [annotation(a, 2, output_2=f"another {a.output}") for a in answers[:2]]
    file = written(
        tmp_path / "a.json", [*(annotation(a, 2) for a in answers[:3]), *others, annotation(answers[0], None)]
    )
    _, said = replayed(answers, tmp_path / "judge", file)
    assert "2 of 6 annotations there judge other tasks or other outputs and do not count" in said
    assert "1 annotations have no preference and do not count" in said
    assert "2 of 5 answers have no judgement there and are left out" in said


def score(first: str, second: str, *scores: float) -> dict[str, Any]:
    return {"review_id": "r", "question_id": 1, "answer1_id": first, "answer2_id": second, "score": list(scores)}


def test_scores_in_both_orders_give_the_mean_of_two_ratios(tmp_path: Path):
    """Model first: 24 of 27; second: 18 of 25. Mean of 88.8889 % and 72 % is 80.4444 %."""
    answers = answers_to(3)
    mine, other = [answer_id(answer.output) for answer in answers], [f"gpt35-{i}" for i in range(3)]
    first = [score(m, o, *s) for m, o, s in zip(mine, other, [(8, 9), (7, 9), (9, 9)], strict=True)]
    second = [score(o, m, *s) for m, o, s in zip(mine, other, [(9, 6), (8, 8), (8, 4)], strict=True)]
    files = [written(tmp_path / "ab.jsonl", first), written(tmp_path / "ba.jsonl", second)]
    scores, said = replayed(answers, tmp_path / "judge", files)
    metrics = scores.metrics
    assert round(metrics["eval/judge/score_ratio"], 6) == round(100 * (24 / 27 + 18 / 25) / 2, 6) == 80.444444
    assert round(metrics["eval/judge/score_ratio_model_first"], 6) == round(2400 / 27, 6)
    assert round(metrics["eval/judge/score_ratio_model_second"], 6) == 72.0
    assert (
        metrics["eval/judge/score_ratio_low"]
        < metrics["eval/judge/score_ratio"]
        < metrics["eval/judge/score_ratio_high"]
    )
    assert [record["scores"]["win"] for record in scores.examples] == [0, 0.25, 0.25]
    assert metrics["eval/judge/position_bias"] == pytest.approx(
        100 * ((0 + 1) / 2 + (0 + 0.5) / 2 + (0.5 + 1) / 2) / 3 - 50
    )
    assert any(line.startswith("score 80.4 [") for line in said)


def test_scores_are_joined_by_the_id_of_the_text_as_published_files_have_it():
    """The published score files of QLoRA name this answer of Alpaca 13B so."""
    text = (
        "The most effective ways to deal with stress are to have a good support network, practice mindfulness and "
        "meditation, and find healthy ways to cope such as exercise or creative activities."
    )
    assert answer_id(text) == "69K7aj7UmkH7XaojbgzH4c"


def test_scores_that_could_not_be_read_are_left_out_and_one_order_alone_is_said(tmp_path: Path):
    answers = answers_to(3)
    mine = [answer_id(answer.output) for answer in answers]
    records = [score(mine[0], "x0", 8, 8), score(mine[1], "x1", -1, -1), score(mine[2], "x2", 4, 8)]
    scores, said = replayed(answers, tmp_path / "judge", written(tmp_path / "ab.jsonl", records))
    assert scores.metrics["eval/judge/score_ratio"] == 75.0
    assert "eval/judge/score_ratio_model_second" not in scores.metrics
    assert scores.metrics["eval/judge/unparseable"] == 1
    assert any("one order only" in line for line in said)


def test_scores_of_other_answers_are_refused_and_several_baselines_want_a_name(tmp_path: Path):
    answers = answers_to(2)
    mine = [answer_id(answer.output) for answer in answers]
    other = written(tmp_path / "other.jsonl", [score("x", "y", 8, 9)])
    assert "of its 2 answer ids 0 are those of these 2 answers" in refused(answers, tmp_path / "judge", other)
    many = written(tmp_path / "many.jsonl", [score(mine[0], "gpt35", 8, 9), score("bard", mine[0], 8, 9)])
    assert "is scored against 2 others" in refused(answers, tmp_path / "judge", many)
    baseline = written(tmp_path / "answer_gpt35.jsonl", [{"answer_id": "gpt35", "text": "t", "question_id": 1}])
    scores, _ = replayed(answers, tmp_path / "judge", many, baseline=baseline)
    assert scores.metrics["eval/judge/score_ratio"] == pytest.approx(100 * 8 / 9)
    mixed = [many, written(tmp_path / "a.json", [annotation(a, 2) for a in answers])]
    assert "give one kind at a time" in refused(answers, tmp_path / "judge", mixed)


def test_scores_belong_to_question_and_answer(tmp_path: Path):
    """One text answers two questions, and one question has two answers: no score overwrites another."""
    answers = [
        Answer("q1", "Is water wet?", "", "Yes."),
        Answer("q2", "Is fire hot?", "", "Yes."),
        Answer("q3", "Name a colour.", "", "Red."),
        Answer("q3-2", "Name a colour.", "", "Blue."),
    ]
    yes, red, blue = (answer_id(text) for text in ("Yes.", "Red.", "Blue."))
    records = [
        {**score(yes, "other", 8, 4), "question_id": 1}, {**score(yes, "other", 2, 4), "question_id": 2},
        {**score(red, "other", 6, 3), "question_id": 3}, {**score("other", blue, 3, 9), "question_id": 3},
        {**score("x", "y", 1, 9), "question_id": 4},
    ]  # fmt: skip
    scores, said = replayed(answers, tmp_path / "judge", written(tmp_path / "ab.jsonl", records))
    assert {each["id"]: each["scores"]["win"] for each in scores.examples} == {"q1": 1, "q2": 0, "q3": 1, "q3-2": 1}
    assert scores.metrics["eval/judge/n_total"] == 4
    assert "1 of 5 scores there are of other answers and do not count" in said


def test_several_answers_to_a_task_in_one_file_are_all_scored(tmp_path: Path):
    file = tmp_path / "outputs.json"
    records = [{"instruction": "Name a colour.", "output": text} for text in ("Red.", "Blue.", "Red.")]
    written(file, records)
    found = read_output_set(file)
    assert [one.text for one in found.made] == ["Red.", "Blue."]
    assert found.ids[1] == f"{found.ids[0]}-2"
    answers = [
        Answer(key, row.instruction, "", one.text)
        for key, row, one in zip(found.ids, found.rows, found.made, strict=True)
    ]
    judged = written(tmp_path / "a.json", [annotation(a, p) for a, p in zip(answers, (2, 1), strict=True)])
    scores, _ = replayed(answers, tmp_path / "judge", judged)
    assert (scores.metrics["eval/judge/win_rate"], scores.metrics["eval/judge/n_total"]) == (50.0, 2)
