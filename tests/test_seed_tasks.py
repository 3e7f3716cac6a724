"""The shipped seed tasks: 175, of many kinds, none like another."""

import json
from collections import Counter

import numpy as np
from rapidfuzz.distance import Indel
from rapidfuzz.process import cdist
from rouge_score.tokenize import tokenize

from alpaca import paths

LINES = (paths.PACKAGE / "data" / "seed_tasks.jsonl").read_text(encoding="utf-8").splitlines()
TASKS = [json.loads(line) for line in LINES]


def test_there_are_175_tasks_with_the_fields_of_a_row():
    assert len(TASKS) == 175
    assert all(task.keys() == {"id", "category", "instruction", "input", "output"} for task in TASKS)
    assert all(isinstance(value, str) for task in TASKS for value in task.values())
    assert all(task["id"] and task["category"] and task["instruction"].strip() for task in TASKS)


def test_ids_and_instructions_are_unique():
    assert len({task["id"] for task in TASKS}) == len(TASKS)
    assert len({(task["instruction"].casefold(), task["input"]) for task in TASKS}) == len(TASKS)


def test_the_kinds_of_tasks_are_spread():
    categories = Counter(task["category"] for task in TASKS)
    assert len(categories) >= 20
    assert 0.10 <= categories["classification"] / len(TASKS) <= 0.20
    assert 0.35 <= sum(bool(task["input"].strip()) for task in TASKS) / len(TASKS) <= 0.45


def test_outputs_have_1_to_150_words():
    lengths = [len(task["output"].split()) for task in TASKS]
    assert 1 <= min(lengths) <= 3
    assert 100 <= max(lengths) <= 150


def test_no_two_instructions_are_above_rouge_l_0_7():
    numbers: dict[str, int] = {}
    texts = [
        "".join(chr(numbers.setdefault(word, len(numbers) + 1)) for word in tokenize(task["instruction"], None))
        for task in TASKS
    ]
    similar = cdist(texts, texts, scorer=Indel.normalized_similarity)  # equals ROUGE-L F1 over words
    np.fill_diagonal(similar, 0)
    first, second = np.unravel_index(similar.argmax(), similar.shape)
    assert similar.max() <= 0.7, (TASKS[first]["instruction"], TASKS[second]["instruction"])


def test_no_task_needs_a_picture_a_file_or_the_web():
    for task in TASKS:
        words = set(tokenize(task["instruction"], None))
        assert words.isdisjoint({"image", "images", "picture", "pictures", "photo", "video", "audio", "website", "url"})
