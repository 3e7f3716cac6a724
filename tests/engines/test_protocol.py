"""Requests become bodies and bodies become answers, whatever dialect the server speaks."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca.engines.exchange import Answer, Request, Usage
from alpaca.engines.protocol import Dialect, Malformed, answers_of, body_of, most_of

CHAT = Request("r", messages=({"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}))
FULL = Request("r", prompt="Hello", max_tokens=7, temperature=0.5, top_p=0.9, stop=("###", "\n"), choices=3, seed=4)


def body(request: Request, api: str = "chat", dialect: Dialect | None = None) -> dict:
    return body_of(request, model="m", api=api, dialect=dialect or Dialect())


def read(payload: object):
    return answers_of(payload, FULL)


def test_every_setting_of_a_request_reaches_the_body():
    assert body(FULL, "completions") == {
        "model": "m", "prompt": "Hello", "max_tokens": 7, "temperature": 0.5, "top_p": 0.9,
        "stop": ["###", "\n"], "n": 3, "seed": 4,
    }  # fmt: skip
    assert body(CHAT)["messages"] == list(CHAT.messages)


def test_a_prompt_is_a_users_message_to_a_chat_and_a_chat_is_one_text_to_completions():
    assert body(FULL)["messages"] == [{"role": "user", "content": "Hello"}]
    assert body(CHAT, "completions")["prompt"] == "Be kind.\n\nHello"


def test_a_schema_asks_for_structured_output():
    schema = {"type": "object", "properties": {}, "required": [], "additionalProperties": False}
    asked = body(Request("r", prompt="x", schema=schema))["response_format"]
    assert asked["type"] == "json_schema"
    assert asked["json_schema"]["schema"] == schema


@pytest.mark.parametrize("error", [
    {"message": "Unsupported parameter: 'max_tokens' is not supported with this model. Use 'max_completion_tokens'.",
     "param": "max_tokens", "code": "unsupported_parameter"},
    {"message": "'max_tokens' is not supported with this model"},
])  # fmt: skip
def test_a_model_may_want_the_length_under_its_other_name(error: dict):
    dialect = Dialect()
    assert dialect.learn(error, body(CHAT)) == "max_tokens"
    changed = body(CHAT, dialect=dialect)
    assert changed["max_completion_tokens"] == 1024
    assert "max_tokens" not in changed


def test_a_model_may_refuse_temperature_and_stop_and_answers_are_then_cut_here():
    dialect = Dialect()
    for name in ("temperature", "stop"):
        error = {"message": f"Unsupported value: '{name}'", "param": name, "code": "unsupported_value"}
        assert dialect.learn(error, body(FULL, dialect=dialect)) == name
        assert dialect.learn(error, body(FULL, dialect=dialect)) is None  # it is not sent any more
    assert not {"temperature", "stop"} & set(body(FULL, dialect=dialect))
    payload = {"choices": [{"finish_reason": "length", "message": {"content": "one ### two"}}]}
    assert read(payload)[0] == (Answer("one ", "stop"),)


@pytest.mark.parametrize("error", [
    {"message": "Unsupported parameter: 'n'", "param": "n", "code": "unsupported_parameter"},
    {"message": "Only one completion choice is allowed"},
])  # fmt: skip
def test_a_server_may_give_one_choice_at_a_time(error: dict):
    dialect = Dialect()
    assert dialect.learn(error, body(FULL)) == "n"
    assert "n" not in body(FULL, dialect=dialect)


@pytest.mark.parametrize("error", [
    {"message": "temperature must be below 2", "param": "temperature", "code": "invalid_value"},
    {"message": "Unsupported parameter", "param": "model", "code": "unsupported_parameter"},
    {"message": "this model does not support images"},
    {},
])  # fmt: skip
def test_other_errors_teach_nothing(error: dict):
    dialect = Dialect()
    assert dialect.learn(error, body(FULL)) is None
    assert dialect == Dialect()


def test_answers_usage_and_model_are_read():
    payload = {
        "model": "m-1",
        "choices": [{"finish_reason": "stop", "message": {"content": "a"}}, {"finish_reason": "length", "text": "b"},
                    {"finish_reason": "stop", "message": {"content": None, "refusal": "No."}},
                    {"message": {"content": None}}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 4},
    }  # fmt: skip
    answers, usage, model = read(payload)
    assert answers == (Answer("a", "stop"), Answer("b", "length"), Answer("No.", "refusal"), Answer("", "stop"))
    assert (usage, model) == (Usage(3, 4), "m-1")


def test_what_cannot_be_written_in_utf8_is_replaced_on_the_way_out_and_in():
    request = Request("r", prompt="half \ud83d whole \ud83d\ude00 \U0001f999")
    for api in ("chat", "completions"):
        assert "half \ufffd whole \U0001f600 \U0001f999" in json.dumps(body(request, api), ensure_ascii=False)
    assert most_of(request).prompt_tokens > 0
    answers, _, _ = read(json.loads(r'{"choices": [{"text": "a \ud83d b"}]}'))
    assert answers == (Answer("a \ufffd b", "stop"),)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        {},
        {"prompt_tokens": -1, "completion_tokens": 3},
        {"prompt_tokens": None, "completion_tokens": 3},
        {"prompt_tokens": 3},
        {"prompt_tokens": 0, "completion_tokens": 0, "total_tokens": 0},
        {"prompt_tokens": 0, "completion_tokens": 9},
        {"prompt_tokens": 9, "completion_tokens": 0},
        {"prompt_tokens": True, "completion_tokens": True},
        {"prompt_tokens": False, "completion_tokens": 3},
        {"prompt_tokens": "9", "completion_tokens": "3"},
        {"prompt_tokens": 9.0, "completion_tokens": 3.0},
        {"prompt_tokens": 9, "completion_tokens": 10**400},
        [9, 3],
    ],
)
def test_without_a_bill_the_most_is_booked(usage: dict | None):
    payload = {"choices": [{"text": "a"}], "usage": usage}
    assert read(payload)[1] == most_of(replace(FULL, choices=1))  # for the answer that came


def test_an_empty_answer_may_be_billed_for_its_prompt_alone():
    assert read({"choices": [{"text": ""}], "usage": {"prompt_tokens": 9, "completion_tokens": 0}})[1] == Usage(9, 0)


@pytest.mark.parametrize("payload", [
    [], None, {}, {"choices": []}, {"choices": None}, {"choices": ["text"]}, {"choices": [{}]},
    {"choices": [{"message": "text"}]}, {"choices": [{"message": {"content": ["part"]}}]}, {"choices": [{"text": 5}]},
])  # fmt: skip
def test_a_body_that_is_no_answer_is_said_to_be_none(payload: object):
    with pytest.raises(Malformed):
        read(payload)


@given(text=st.text(max_size=300), choices=st.integers(1, 5), longest=st.integers(1, 500))
def test_the_most_covers_a_byte_level_tokenizer_without_merges(text: str, choices: int, longest: int):
    most = most_of(Request("r", prompt=text, choices=choices, max_tokens=longest))
    assert most.prompt_tokens >= len(text.encode("utf-8")) + 16
    assert most.completion_tokens == choices * longest
