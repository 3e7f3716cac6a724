"""Settings, prompt, verdicts and baselines: what is refused and how, before anything is paid for."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca.config import JudgeConfig
from alpaca.data.rows import Row, example_id
from alpaca.errors import UserError
from alpaca.evaluation.answers import Answer
from alpaca.evaluation.judging.baseline import load_baseline, pairs_with
from alpaca.evaluation.judging.command import judge
from alpaca.evaluation.judging.pairs import Pair
from alpaca.evaluation.judging.prompt import JSON, LINE, SCHEMA, question
from alpaca.evaluation.judging.settings import check_judge, check_ready
from alpaca.evaluation.judging.verdicts import points, read

ANSWERS = [Answer(example_id(Row(f"Task {i}.", "", "")), f"Task {i}.", "", f"answer {i}") for i in range(4)]


def refusal(**changed: Any) -> str:
    with pytest.raises(UserError) as error:
        check_judge(JudgeConfig(**changed))
    return str(error.value)


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"baseline": " "}, "evaluation.judge.baseline is empty"),
        ({"annotations": 5}, "evaluation.judge.annotations=5: give a file or a list of files"),
        ({"annotations": []}, "evaluation.judge.annotations=[]: give a file or a list of files"),
        ({"base_url": "localhost:8000"}, "no web address; write it as http://127.0.0.1:8000/v1"),
        ({"base_url": "http://127.0.0.1:port/v1"}, "no web address"),
        ({"base_url": "https://user:secret@host/v1"}, "must hold no password"),
        ({"base_url": "http://h/v1", "engine": "vllm"}, "evaluation.judge.engine=vllm asks no server"),
        ({"price_prompt": 1.0}, "evaluation.judge.price_prompt and evaluation.judge.price_completion go together"),
        ({"budget_usd": 1.0, "model": "unheard-of"}, "the price of evaluation.judge.model=unheard-of is not known"),
    ],
)
def test_settings_that_cannot_work_are_refused(changed: dict[str, Any], expected: str):
    message = refusal(**changed)
    assert expected in message
    assert "secret" not in message


def test_a_missing_key_is_found_before_anything_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    for chosen in (JudgeConfig(), JudgeConfig(engine="openai_batch")):
        with pytest.raises(UserError, match=r"evaluation\.judge\.engine=.*OPENAI_API_KEY is not set"):
            judge(ANSWERS, chosen, tmp_path / "judge", say=print, references={ANSWERS[0].id: "x"})
    assert not (tmp_path / "judge").exists()
    check_ready(JudgeConfig(base_url="http://127.0.0.1:9/v1"))
    check_ready(JudgeConfig(engine="local"))
    check_judge(JudgeConfig())


def test_what_a_judgement_needs_is_looked_for_before_a_training(tmp_path: Path):
    with pytest.raises(UserError, match=r"evaluation\.judge\.baseline=nowhere: no such file or folder"):
        check_ready(JudgeConfig(baseline="nowhere"))
    with pytest.raises(UserError, match=r"evaluation\.judge\.annotations=gone\.json: no such file"):
        check_ready(JudgeConfig(annotations="gone.json"))


def test_no_server_at_the_address_is_one_line_that_names_the_setting(tmp_path: Path):
    chosen = JudgeConfig(base_url="http://127.0.0.1:9/v1", model="m", retries=0)
    with pytest.raises(UserError, match=r"start it, or mend evaluation\.judge\.base_url"):
        judge(ANSWERS, chosen, tmp_path / "judge", say=print, references={ANSWERS[0].id: "x"})


PAIR = Pair("1", "Name a colour.", "", "mine", "theirs")


def asking(pair: Pair = PAIR, **changed: Any) -> Any:
    given = {"model_first": True, "form": JSON, "temperature": 0.0, "max_tokens": 64, "seed": 0, "judge": "m@"}
    return question(pair, **{**given, **changed})


def test_a_question_has_its_own_id_for_all_that_the_verdict_depends_on():
    base = asking()
    others = [
        asking(model_first=False),
        asking(form=LINE),
        asking(temperature=0.5),
        asking(max_tokens=65),
        asking(judge="another@"),
        asking(Pair("1", "Name a colour.", "", "mine", "others")),
        asking(Pair("1", "Name a color.", "", "mine", "theirs")),
    ]
    ids = {base.id, *(other.id for other in others)}
    assert len(ids) == len(others) + 1
    assert asking(seed=3).id == base.id, "greedy judgements know no seed"
    assert asking(temperature=0.5, seed=3).id != asking(temperature=0.5).id
    assert asking(Pair("another row", "Name a colour.", "", "mine", "theirs", "set")).id == base.id
    assert base.schema == SCHEMA
    assert asking(form=LINE).schema is None


def test_the_order_decides_who_is_a():
    first, second = (asking(model_first=first).messages[1]["content"] for first in (True, False))
    assert first.index("mine") < first.index("theirs")
    assert second.index("theirs") < second.index("mine")


@settings(max_examples=50)
@given(st.text(), st.text(), st.text())
def test_no_text_can_close_the_part_it_stands_in(task: str, mine: str, other: str):
    text = asking(Pair("1", task, "", mine, other)).messages[1]["content"]
    mark = next(line for line in text.splitlines() if line.startswith("@@")).split()[0]
    assert mark not in task + mine + other
    assert text.count(f"\n{mark} ") == 4


@pytest.mark.parametrize(
    ("text", "better"),
    [
        ('{"reason": "Clear.", "verdict": "A"}', "A"),
        ('```json\n{"reason": "Clear.", "verdict": "tie"}\n```', "tie"),
        ('<think>Hm, A or B?</think>\n{"reason": "Clear.", "verdict": "B"}', "B"),
        ('<think>A {set} of\n{things}.</think>\n\n{\n  "reason": "Clear.",\n  "verdict": "B"\n}', "B"),
        ('I compare.\n```json\n{\n "verdict": "A"\n}\n```', "A"),
        ('{"verdict": "A"}\n{"verdict": "B"}', None),
        ('{"verdict": "B", "reason": "Clear.", "verdict": "A"}', None),
        ('{"verdict": "A"}\nVerdict: B', None),
        ("Verdict: A\nNo.\nVerdict: B", None),
        ("Verdict: A (at first sight)\nVerdict: B", None),
        ("> Verdict: A\nVerdict: B", None),
        ("My first verdict: A\nVerdict: B", None),
        ("Verdict: A\u200b", "A"),
        ('{"reason": "It says \\"verdict\\": \\"B\\".", "verdict": "A"}', "A"),
        ('{"reason": "Two\nlines.", "verdict": "A"}', "A"),
        ('{"verdict": "B"}</think>\n{"verdict": "A"}<|im_end|>', "A"),
        ("<|channel|>analysis<|message|>Verdict: B<|end|><|channel|>final<|message|>Verdict: A<|return|>", "A"),
        ("Clear.\nVerdict: A</s>", "A"),
        ("Clear.\nVer\x00dict: A\ufffd", "A"),
        ('<think>{"verdict": "A"}', None),
        ('{"verdict": "A"}\nOn second thoughts, B.', None),
        ("B is nearly right.\nVerdict: A", "A"),
        ("Both fail.\n\n**Verdict: tie**", "tie"),
        ("verdict: b.", "B"),
        ("A is better.", None),
        ("Verdict: A or B", None),
        ("Verdict: A\nbut I am not sure", None),
        ('{"reason": "Clear.", "verdict": "C"}', None),
        ('{"reason": "Clear.", "verdict": "A"', None),
        ('{"verdict": ["A"]}', None),
        ('["A"]', None),
        ("", None),
        ("My verdict: A", None),
    ],
)
def test_verdicts_are_read_in_the_strict_form_or_not_at_all(text: str, better: str | None):
    found = read(text)
    assert (found.better if found else None) == better


@given(st.text())
def test_reading_never_fails(text: str):
    assert read(text) is None or "verdict" in text.lower()


def test_points_are_the_models():
    a, tie = read("Verdict: A"), read("Verdict: tie")
    assert a is not None
    assert tie is not None
    assert [points(a, model_first=True), points(a, model_first=False), points(tie, model_first=True)] == [1, 0, 0.5]


def run_folder(folder: Path, records: list[dict[str, Any]], name: str = "predictions.jsonl") -> Path:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("".join(json.dumps(record) + "\n" for record in records))
    return folder


def test_a_run_is_a_baseline_by_the_ids_of_its_predictions(tmp_path: Path):
    records: list[dict[str, Any]] = [
        {"id": answer.id, "prompt": "p", "output": f"other {i}"} for i, answer in enumerate(ANSWERS[:3])
    ]
    records.append({"id": ANSWERS[3].id, "prompt": "p", "output": None})
    folder = run_folder(tmp_path / "run", records)
    run_folder(folder, records[:1], "predictions-generate.jsonl")
    baseline = load_baseline(str(folder), ANSWERS, None)
    assert (baseline.name, baseline.source) == ("run", "predictions.jsonl")
    assert [pair.baseline for pair in pairs_with(ANSWERS, baseline)] == ["other 0", "other 1", "other 2"]


def test_a_file_of_outputs_is_a_baseline_by_its_instructions(tmp_path: Path):
    given = Answer("id", "Sum up.", "A text.", "mine")
    file = tmp_path / "model_outputs.json"
    file.write_text(json.dumps([{"instruction": "Sum up.\n\nA text.", "output": "other", "generator": "gpt4"}]))
    baseline = load_baseline(str(file), [given], None)
    assert baseline.name == "gpt4"
    assert pairs_with([given], baseline)[0].baseline == "other"


def test_baselines_that_cannot_serve_are_refused_in_one_line(tmp_path: Path):
    def refused(baseline: Path | str, references: dict[str, str] | None = None) -> str:
        with pytest.raises(UserError) as error:
            load_baseline(str(baseline), ANSWERS, references)
        assert "\n" not in str(error.value)
        return str(error.value)

    other = tmp_path / "other.json"
    other.write_text(json.dumps([{"instruction": f"Else {i}", "output": "x"} for i in range(7)]))
    message = refused(other)
    assert "it answers another instruction set: none of the 4 tasks answered here is among its 7" in message
    assert "another instruction set" in refused("references", {"unknown": "x"})
    assert "come without references" in refused("references")
    mixed = [{"instruction": f"Task {i}.", "output": "x", "generator": str(i)} for i in range(2)]
    (tmp_path / "mixed.json").write_text(json.dumps(mixed))
    assert "it holds the outputs of 2 generators" in refused(tmp_path / "mixed.json")
    (tmp_path / "bad.json").write_text(
        json.dumps([{"instruction": "Task 0.", "output": "x"}, {"instruction": "Task 1."}])
    )
    assert "row 2: no field 'output'; it has instruction" in refused(tmp_path / "bad.json")
    assert "no answers in it" in refused(run_folder(tmp_path / "empty", []))
    unfinished = run_folder(tmp_path / "unfinished", [])
    (unfinished / "config.yaml").write_text("name: run\n")
    assert "this run is not finished" in refused(unfinished)
