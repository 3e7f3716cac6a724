"""What a generation's settings mean: values filled by rule, and a signature of what changes the data."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from alpaca.config import Config, GenerationConfig
from alpaca.selfinstruct.directories import directory
from alpaca.selfinstruct.settings import resolved
from alpaca.signature import GENERATED, generation_signature, signature

BASE = GenerationConfig(target=10)


def test_a_model_here_gets_short_requests_and_an_api_the_recipes():
    here = resolved(replace(BASE, engine="local"))
    assert (here.model, here.prompt, here.api) == ("smollm2_135m", "compact", "completions")
    assert (here.tasks_per_request, here.seed_examples, here.max_example_words) == (4, 3, 40)
    assert (here.temperature, here.max_tokens) == (0.6, 96)
    there = resolved(BASE)
    assert (there.model, there.prompt, there.concurrency, there.max_example_words) == (
        "gpt-4.1-mini", "alpaca_chat", 8, None,
    )  # fmt: skip
    assert resolved(replace(BASE, api="completions")).prompt == "alpaca"
    assert resolved(replace(BASE, seed_examples=6, machine_examples=30)).tasks_per_request == 37


def test_given_values_are_never_replaced():
    given = replace(BASE, engine="local", temperature=1.3, top_p=0.5, max_tokens=7, prompt="alpaca", concurrency=2)
    filled = resolved(given)
    assert (filled.temperature, filled.top_p, filled.max_tokens, filled.prompt, filled.concurrency) == (
        1.3, 0.5, 7, "alpaca", 2,
    )  # fmt: skip


CHANGES = {
    "target": 11, "model": "gpt-4o", "prompt": "json", "base_url": "http://127.0.0.1:1/v1", "seed_examples": 2,
    "machine_examples": 1, "tasks_per_request": 9, "temperature": 0.5, "top_p": 0.5, "max_tokens": 9, "seed": 1,
    "rouge_threshold": 0.5, "responses_per_instruction": 2, "max_example_words": 99, "engine": "openai_batch",
}  # fmt: skip
NO_CHANGES = {
    "budget_usd": 3.0, "budget_tokens": 3, "price_prompt": 1.0, "price_completion": 1.0, "concurrency": 3,
    "timeout_s": 3.0, "retries": 3, "poll_s": 3.0, "give_up_after": 3, "similar": True, "name": "other", "lag": 99,
}  # fmt: skip


@pytest.mark.parametrize("key", CHANGES)
def test_what_changes_the_data_changes_the_signature(key: str):
    assert generation_signature(replace(BASE, **{key: CHANGES[key]})) != generation_signature(BASE)


@pytest.mark.parametrize("key", NO_CHANGES)
def test_what_only_changes_cost_and_speed_does_not(key: str):
    assert generation_signature(replace(BASE, **{key: NO_CHANGES[key]})) == generation_signature(BASE)


def test_filters_and_where_it_matters_the_lag_are_in_the_signature():
    strict = replace(BASE, filters=replace(BASE.filters, min_words=5))
    assert generation_signature(strict) != generation_signature(BASE)
    own = replace(BASE, machine_examples=2)
    assert generation_signature(replace(own, lag=99)) != generation_signature(own)


def test_seeds_and_rows_count_by_their_content(tmp_path: Path):
    seeds, rows = tmp_path / "seeds.jsonl", tmp_path / "rows.json"
    task = {"instruction": "a", "input": "", "output": "b"}
    seeds.write_text(json.dumps(task))
    rows.write_text(json.dumps([task]))
    first = replace(BASE, seeds=str(seeds))
    again = replace(BASE, mode="reanswer", path=str(rows))
    marks = generation_signature(first), generation_signature(again)
    seeds.write_text(json.dumps({**task, "output": "c"}))
    rows.write_text(json.dumps([{**task, "output": "c"}]))
    assert generation_signature(first) != marks[0]
    assert generation_signature(again) != marks[1]


def test_a_training_run_has_the_signature_of_its_generation(tmp_path: Path):
    config = Config(generation=BASE)
    config.model.weights, config.data_source.path = "random", GENERATED
    before = signature(config)
    config.generation = replace(BASE, seed=1)
    assert signature(config) != before
    config.generation = replace(BASE, concurrency=3)
    assert signature(config) == before
    (tmp_path / "summary.json").write_text(json.dumps({"status": "finished", "signature": generation_signature(BASE)}))
    config.data_source.path = f"{GENERATED}{tmp_path}"
    assert signature(config) == before


def test_the_finished_directory_of_a_signature_comes_before_unfinished_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    config, mark = Config(generation=BASE, name="mine"), generation_signature(BASE)
    assert directory(config, "now") == Path(f"outputs/mine/now-{mark}")
    for name, status in (("a/1", "finished"), ("b/2", "failed"), ("c/3", None)):
        folder = Path(f"outputs/{name}-{mark}")
        folder.mkdir(parents=True)
        (folder / "config.yaml").touch()
        if status:
            (folder / "summary.json").write_text(json.dumps({"status": status}))
    assert directory(config, "now") == Path(f"outputs/a/1-{mark}")
    (Path(f"outputs/a/1-{mark}") / "config.yaml").unlink()
    assert directory(config, "now") == Path(f"outputs/c/3-{mark}")
    assert directory(config, "now", named="there") == Path("there")
