"""Requests say what the recipe asks, in our words, and stop at record separators only."""

import pytest

from alpaca.config import GenerationConfig
from alpaca.data.rows import Row
from alpaca.engines.exchange import Request
from alpaca.selfinstruct import prompts
from alpaca.selfinstruct.parsing import parse_list
from alpaca.selfinstruct.settings import resolved

ROWS = [Row("Name a bird.", "", "A wren."), Row("Add the numbers.", "1, 2", "3"), Row("Sing.", "  ", "La.")]
SAMPLING = prompts.Sampling(max_tokens=100, temperature=0.5, top_p=0.9)


def asked(form: str, tasks_per_request: int = 20) -> Request:
    return prompts.new_tasks(form, "task-000007", ROWS, tasks_per_request, SAMPLING, 5)


def text(request: Request) -> str:
    return request.prompt if request.prompt is not None else request.messages[0]["content"]


@pytest.mark.parametrize("form", ["alpaca", "alpaca_chat", "json", "compact"])
def test_every_form_shows_the_examples_and_carries_the_sampling(form: str):
    request = asked(form)
    assert (request.id, request.max_tokens, request.temperature, request.top_p, request.seed) == (
        "task-000007", 100, 0.5, 0.9, 5,
    )  # fmt: skip
    for row in ROWS:
        assert row.instruction in text(request)
        assert row.output in text(request)
    assert bool(request.schema) == (form == "json")


@pytest.mark.parametrize("form", ["alpaca", "alpaca_chat", "compact"])
def test_a_list_stops_at_a_separator_and_the_number_after_the_last_never_at_a_bare_number(form: str):
    (stop,) = asked(form).stop
    assert stop == "\n###\n21."
    assert asked("json").stop == ()


@pytest.mark.parametrize("form", ["alpaca", "compact"])
def test_a_completion_goes_on_where_the_prompt_ends(form: str):
    request = asked(form)
    assert request.messages == ()
    assert text(request).endswith("###\n4. Instruction:")
    assert asked("compact", 4).stop == ("\n###",)


@pytest.mark.parametrize("form", ["alpaca", "alpaca_chat"])
def test_the_shown_list_is_read_back_by_the_parser(form: str):
    shown = text(asked(form)).split("\n\n###\n", 1)[1].split("\n\nGo on")[0].removesuffix("\n###\n4. Instruction:")
    found = parse_list(f"###\n{shown}", first=None, cut=False)
    assert [(one.instruction, one.input, one.output) for one in found] == [
        (row.instruction, row.input.strip(), row.output) for row in ROWS
    ]


@pytest.mark.parametrize("form", ["alpaca", "alpaca_chat", "json"])
def test_the_recipes_requirements_are_in_the_prompt(form: str):
    for word in ("verbs", "questions", "classification", "reads and writes text", "English", "one or two sentences",
                 "100 words", "input"):  # fmt: skip
        assert word in text(asked(form)), word
    assert "20 varied tasks" in text(asked(form)) or "17 varied tasks" in text(asked(form))


def test_json_shows_an_empty_input_as_one_and_asks_for_the_new_tasks_alone():
    shown = text(asked("json"))
    assert "<noinput>" not in shown
    assert "Make 17 varied tasks" in shown


def test_an_answer_is_asked_for_with_the_texts_as_they_are():
    row = Row("Fill {input} in.", "{instruction}", "")
    chat = prompts.answer("a", row, 3, SAMPLING, 1, "chat")
    assert chat.messages == ({"role": "user", "content": "Fill {input} in.\n\n{instruction}"},)
    assert chat.choices == 3
    completion = prompts.answer("a", row, 1, SAMPLING, 1, "completions").prompt or ""
    assert "Fill {input} in." in completion
    assert "{instruction}" in completion


@pytest.mark.parametrize("operation", prompts.OPERATIONS)
def test_an_evolution_shows_the_task_and_names_the_change(operation: str):
    row = Row("Use {operation} here.", "an {task} input", "")
    shown = text(prompts.evolved("e", row, operation, SAMPLING, 1, "chat"))
    assert "Use {operation} here." in shown
    assert "an {task} input" in shown
    assert prompts.OPERATIONS[operation] in shown
    completion = prompts.evolved("e", row, operation, SAMPLING, 1, "completions").prompt or ""
    assert completion.endswith("1. Instruction:")


def test_the_recipe_asks_an_api_for_twenty_tasks_with_three_seeds():
    filled = resolved(GenerationConfig(target=1))
    assert (filled.prompt, filled.seed_examples, filled.tasks_per_request) == ("alpaca_chat", 3, 20)
    assert (filled.temperature, filled.top_p, filled.max_tokens, filled.api) == (1.0, 1.0, 3072, "chat")
    assert filled.rouge_threshold == 0.7
