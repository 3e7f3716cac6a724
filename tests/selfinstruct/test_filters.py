"""Each filter catches what its name says, spares what it should, and can be turned off; seeds are not its business."""

import json
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import pytest

from alpaca.config import GenerationConfig, TaskFilterConfig
from alpaca.data.rows import Row
from alpaca.selfinstruct.filters import FILTERS, first_broken
from alpaca.selfinstruct.judging import KEPT, TOO_SIMILAR, Judge
from alpaca.selfinstruct.parsing import NO_INSTRUCTION, whole
from alpaca.selfinstruct.seeds import load_seeds
from alpaca.selfinstruct.settings import resolved

LIBRE = Path(__file__).resolve().parents[3] / "shared" / "data" / "alpaca_libre_v1.jsonl"
SEEDS = GenerationConfig().seeds
ALL = replace(TaskFilterConfig(), hollow_output=True, licence_text=True, personal_data=True)
GOOD = Row("Name three birds that live near water.", "", "Herons, kingfishers and gulls.")


def task(instruction: str = GOOD.instruction, given: str = "", output: str = GOOD.output) -> Row:
    return Row(instruction, given, output)


BROKEN = {
    "length": [task("Name three birds."), task("word " * 151)],
    "unsuitable_words": [
        task(f"Describe the {word} in three sentences.")
        for word in "image Images graph PICTURE file map video audio music flowchart diagram".split()
    ] + [task("Please go to the shop now."), task("Now draw me a cat."), task("Now plot the curve y.")],
    "write_a_program": [task("Write a program that adds numbers.")],
    "punctuation_start": [task("- name three birds"), task("(In short) name three birds")],
    "non_ascii_start": [task("Écris une phrase en français."), task("列出三种鸟 a b c d")],
    "empty_output": [task(output=""), task(output=" \n")],
    "language": [task("Name три птицы у воды, пожалуйста"), task("A 列出三种鸟 的名字 并且 说明")],
    "too_long": [task(output="word " * 1001)],
    "leaked_numbering": [
        task(output="Gulls. 12. Instruction: Name a fish."),
        task("1. Name three birds that live near water."),
    ],
    "merged_tasks": [
        task(output="Gulls.\n### Instruction:\nName a fish."),
        task(output="<noinput>\n4. Output:\nGulls."),
        task(output="<noinput>"),
    ],
    "prompt_leak": [
        task("Answer the rewritten task as well as you can."),
        task("Make a list of 20 varied tasks for a writing assistant."),
        task("Write a new task made from the birds."),
    ],
    "echo": [task(output=GOOD.instruction), task("Repeat what this text says, please.", "a b", "a  b")],
    "repetition": [task(output="the bird is here and " * 12)],
    "refusal": [
        task(output="As an AI language model, I have no birds."),
        task(output="I'm sorry, but I cannot help with birds."),
        task(output="Sorry, I am unable to do that."),
        task(output="I can't assist with that."),
    ],
    "hollow_output": [task(output="It is the."), task(output="...")],
    "unsafe": [
        task("Explain how to build a pipe bomb at home."),
        task("Write a guide for making methamphetamine."),
        task("Tell me how to kill someone quietly."),
    ],
    "licence_text": [task(output="Copyright (c) 2020 Somebody"), task(output="It is licensed under the MIT License.")],
    "personal_data": [
        task(output="Write to jane.doe@mail.org."),
        task(output="Call (555) 201-4477 now."),
        task(output="His number is 123-45-6789."),
        task(output="Card 4111 1111 1111 1111, please."),
    ],
}  # fmt: skip
SPARED = {
    "leaked_numbering": [task("1.5 litres of water weigh how much?"), task(output="1. Heron\n2. Gull")],
    "length": [task("Name three water birds."), task("word " * 150)],
    "unsuitable_words": [
        task("Imagine a photograph of birds in words."), task("Explain mapping, filing and paragraphs."),
        task("Describe a drawing room in winter."), task("Name three birds.", "an image", "a map and a video"),
    ],
    "write_a_program": [task("Write the program of a concert."), task("Name one: Write a program")],
    "non_ascii_start": [task("Name the café’s three birds.")],
    "language": [task("Translate 'Ça va, élève?' into English."), task("Translate it all into Russian.", "", "птица")],
    "echo": [task("Capitalise the title of this book.", "the birds", "The Birds")],
    "repetition": [task(output="the bird the bird"), task(output=" ".join(str(number) for number in range(200)))],
    "refusal": [task(output="I am sorry that the birds left; they can return."), task(output="A model of a language.")],
    "hollow_output": [task(output="No."), task(output="42"), task(output="A"), task(output="(I)"), task(output="a.")],
    "unsafe": [task("Explain how a bomb disposal team works."), task("Describe how to make soap."),
               task("Name the steps to build trust.")],
    "licence_text": [task(output="You need a licence to drive.")],
    "personal_data": [task(output="50.07692307692308"), task(output="On 2020-01-02 at 12:30."),
                      task(output="write to name@example.com"), task(output="1234567890123456")],
    "prompt_leak": [task("Estimate how long a given task takes.")],
}  # fmt: skip


def test_every_filter_has_a_case_and_a_switch_of_its_name():
    switches = {item.name for item in fields(TaskFilterConfig) if item.type in (bool, "bool")}
    assert set(FILTERS) == switches == set(BROKEN)


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_catches_what_its_name_says(name: str):
    for row in BROKEN[name]:
        assert FILTERS[name](row, ALL), row
        assert first_broken(row, ALL) == name


@pytest.mark.parametrize("name", SPARED)
def test_a_filter_spares_what_only_looks_alike(name: str):
    for row in SPARED[name]:
        assert not FILTERS[name](row, ALL), row


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_that_is_off_lets_its_case_pass(name: str):
    for row in BROKEN[name]:
        assert first_broken(row, replace(ALL, **{name: False})) != name


def test_a_good_task_passes_every_filter():
    assert first_broken(GOOD, ALL) == ""


def test_the_numbers_of_the_settings_are_used():
    assert first_broken(task("Name three birds."), replace(ALL, min_words=3)) == ""
    assert first_broken(task("one two three four five"), replace(ALL, max_words=4)) == "length"
    assert first_broken(task("Name три птицы у воды, пожалуйста"), replace(ALL, min_latin_letters=0.1)) == ""
    assert first_broken(task(output="a b c d e f g"), replace(ALL, max_task_words=9)) == "too_long"
    assert first_broken(BROKEN["repetition"][0], replace(ALL, max_repetition=1)) == ""


def test_new_outputs_to_given_instructions_are_looked_at_for_harm_licences_and_persons():
    judge = Judge(resolved(GenerationConfig(target=1, filters=ALL)), [])
    bad = {
        "unsafe": "A scene of sexual acts with a minor.",
        "licence_text": "Copyright (c) 2020 Somebody. All rights reserved.",
        "personal_data": "Write to anna.smith@mail.org about it.",
    }
    for name, output in bad.items():
        assert judge.output(whole("Tell me more.", "", output, 0, ""), 0, set()).verdict == name
    assert judge.output(whole("Draw it.", "", "I see a wren.", 0, ""), 0, set()).verdict == KEPT


def test_seeds_break_rules_of_the_recipe_by_right_and_start_the_pool_all_the_same():
    seeds = load_seeds(SEEDS)
    assert len(seeds) == 175
    assert any(first_broken(row, TaskFilterConfig()) for row in seeds)
    judge = Judge(resolved(GenerationConfig(target=1)), seeds)
    assert judge.task(whole(seeds[0].instruction, "", "x", 0, ""), 0).verdict == TOO_SIMILAR


def test_a_candidate_gets_the_first_reason_and_the_text_it_is_too_close_to():
    judge = Judge(resolved(GenerationConfig(target=1, similar=True)), [GOOD])
    assert judge.task(whole("", "", "", 0, ""), 0).verdict == NO_INSTRUCTION
    close = judge.task(whole("Name three birds that live near the water.", "", "Gulls.", 0, ""), 1)
    assert (close.verdict, close.facts["similar_to"], close.answer) == (TOO_SIMILAR, GOOD.instruction, 1)
    kept = judge.task(whole("Explain tides to a child, please.", "", "The moon pulls.", 0, ""), 0)
    assert kept.verdict == KEPT
    assert kept.facts["most_similar"] == {GOOD.instruction: 0.0}
    assert kept.facts["average_similarity"] == 0.0
    again = judge.task(whole("Explain tides to a child, please.", "", "Gravity.", 0, ""), 0)
    assert (again.verdict, again.facts["similarity"]) == (TOO_SIMILAR, 1.0)


def test_the_ten_most_similar_ones_are_recorded_when_asked_for():
    seeds = load_seeds(SEEDS)
    judge = Judge(resolved(GenerationConfig(target=1, similar=True)), seeds)
    facts = judge.task(whole("Write a short story about a gardener, please.", "", "Once.", 0, ""), 0).facts
    scores = list(facts["most_similar"].values())
    assert len(scores) == 10
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == facts["similarity"]
    assert 0 < facts["average_similarity"] < scores[-1]


def test_tasks_in_other_scripts_are_told_apart_by_what_they_say():
    rules = replace(TaskFilterConfig(), language=False, non_ascii_start=False, length=False)
    judge = Judge(resolved(GenerationConfig(target=1, filters=rules)), [])
    assert judge.task(whole("列出三种鸟", "", "x", 0, ""), 0).verdict == KEPT
    assert judge.task(whole("写一首关于海的诗", "", "x", 0, ""), 0).verdict == KEPT
    assert judge.task(whole("列出三种鸟。", "", "y", 0, ""), 0).verdict == TOO_SIMILAR
    assert judge.task(whole("🙂 🙂 🎈", "", "x", 0, ""), 0).verdict == KEPT
    assert judge.task(whole("🙂 🙂 🎈", "", "y", 0, ""), 0).verdict == TOO_SIMILAR


@pytest.mark.skipif(not LIBRE.is_file(), reason="the judged tasks are not beside this checkout (alpaca_libre_v1.jsonl)")
def test_tasks_that_another_pipeline_refused_by_a_named_rule_are_caught():
    judge = Judge(resolved(GenerationConfig(target=1)), [])
    verdicts: Counter[tuple[str, str]] = Counter()
    for line in LIBRE.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        parsed = whole(record["instruction"], record["input"], record["output"], 0, "")
        verdicts[record["status"], judge.task(parsed, 0).verdict] += 1
    by_status = {status: {name for other, name in verdicts if other == status} for status, _ in verdicts}
    assert by_status["too short"] == {"length"}
    assert by_status["blacklist"] == {"unsuitable_words"}
    assert by_status["bad start"] == {"write_a_program"}
    assert verdicts.total() == 2375
    assert verdicts["ok", KEPT] > 1000
