"""Requests become bodies and bodies become answers, whatever dialect the server speaks."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from alpaca.engines.dialect import LEAVABLE, Dialect, body_of
from alpaca.engines.exchange import Answer, Request, Usage
from alpaca.engines.protocol import Malformed, answers_of, emptiness, is_whole, most_of
from alpaca.engines.server_errors import ErrorInBody, error_of

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
    {"message": "unexpected end of the stop sequence; the model is not available"},
    {"message": "seed 5 hit a bug"},
    {"message": "response_format.type: Input should be 'text' or 'json_object'", "param": "response_format.type"},
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


@pytest.mark.parametrize(("message", "key"), [
    ("Unrecognized request argument supplied: seed", "seed"),
    ("Unknown name \"seed\" at 'generation_config': Cannot find field.", "seed"),
    ("[{'type': 'extra_forbidden', 'loc': ('body', 'top_p'), 'msg': 'Extra inputs are not permitted'}]", "top_p"),
    ("seed: Extra inputs are not permitted", "seed"),
    ("json: unknown field \"stop\"", "stop"),
    ("create() got an unexpected keyword argument 'n'", "n"),
    ("Additional properties are not allowed ('seed' was unexpected)", "seed"),
    ("litellm.UnsupportedParamsError: m does not support parameters: ['top_p'], for model=m", "top_p"),
    ("'temperature' and 'stop' are fine; property 'seed' is unsupported", "seed"),
    ("`temperature` is deprecated for this model", "temperature"),
    ("'temperature' does not support 0.5 with this model. Only the default (1) value is supported.", "temperature"),
    ("stop is not supported by this model", "stop"),
    ("n must be 1", "n"),
    ("This model does not support temperature", "temperature"),
    ("Stop sequences are not supported by this model", "stop"),
])  # fmt: skip
def test_a_parameter_that_the_server_names_as_unknown_is_left_out(message: str, key: str):
    dialect = Dialect()
    assert dialect.learn(error_of(message), body(FULL)) == key
    assert set(body(FULL)) - set(body(FULL, dialect=dialect)) == {key}


def test_the_parameter_is_found_in_the_form_of_fastapi():
    detail = [{"type": "extra_forbidden", "loc": ["body", "seed"], "msg": "Extra inputs are not permitted", "input": 1}]
    dialect = Dialect()
    assert dialect.learn(error_of(json.dumps({"detail": detail})), body(FULL)) == "seed"
    missing = [{"type": "greater_than", "loc": ["body", "top_p"], "msg": "Input should be greater than 0"}]
    assert dialect.learn(error_of(json.dumps({"detail": missing})), body(FULL)) is None


def test_a_server_may_know_no_limit_on_the_length_under_any_name():
    dialect = Dialect()
    for key in ("max_tokens", "max_completion_tokens"):
        assert dialect.learn({"message": f"unknown field '{key}'"}, body(FULL, dialect=dialect)) == "max_tokens"
    assert not {"max_tokens", "max_completion_tokens"} & set(body(FULL, dialect=dialect))


def test_every_parameter_can_be_left_out_by_hand():
    assert set(body(FULL, dialect=Dialect(left_out=set(LEAVABLE)))) == {"model", "messages"}


@pytest.mark.parametrize(("content", "text"), [
    ([{"type": "text", "text": "one "}, {"type": "text", "text": "two"}], "one two"),
    (["one ", {"text": "two"}], "one two"),
    ({"type": "output_text", "text": "one"}, "one"),
    ([{"type": "thinking", "thinking": "hm", "text": "hm"}, {"type": "text", "text": "one"}], "one"),
    ([{"text": "hm", "thought": True}, {"text": "one"}], "one"),
    ([{"type": "reasoning_text", "text": "hm"}, {"type": "summary_text", "text": "hm"}, {"text": "one"}], "one"),
    ([{"type": "image_url", "image_url": {}}], ""), ([], ""),
])  # fmt: skip
def test_content_may_be_a_list_of_parts_of_which_the_texts_count(content: object, text: str):
    message = {"content": content, "reasoning_content": "Let me think.", "reasoning": "Let me think."}
    assert read({"choices": [{"message": message, "finish_reason": "stop"}]})[0] == (Answer(text, "stop"),)


@pytest.mark.parametrize(("reason", "name", "whole"), [
    ("STOP", "stop", True), ("Stop", "stop", True), ("end_turn", "stop", True), ("EOS_TOKEN", "stop", True),
    ("stop_sequence", "stop", True), ("COMPLETE", "stop", True), ("completed", "stop", True), (None, "stop", True),
    ("FINISH_REASON_STOP", "stop", True), ("stop_str", "stop", True), ("eos", "stop", True), ("done", "stop", True),
    ("MAX_TOKENS", "length", False), ("model_length", "length", False), ("Length", "length", False),
    ("max_output_tokens", "length", False), ("model_context_window_exceeded", "length", False),
    ("token limit", "length", False), ("incomplete", "length", False),
    ("SAFETY", "content_filter", False), ("RECITATION", "content_filter", False),
    ("guardrail_intervened", "content_filter", False), ("refusal", "refusal", True),
    ("tool_use", "tool_calls", True), ("function_call", "tool_calls", True),
    ("error", "error", False), ("FINISH_REASON_UNSPECIFIED", "finish_reason_unspecified", False),
    ("OTHER", "other", False), ("unknown", "unknown", False), ("insufficient_system_resource",
     "insufficient_system_resource", False), ("ERROR_TOXIC", "error_toxic", False), ("abort", "abort", False),
])  # fmt: skip
def test_reasons_to_end_are_read_in_the_words_of_any_vendor(reason: str | None, name: str, whole: bool):
    ((answer,), _, _) = read({"choices": [{"text": "a", "finish_reason": reason}]})
    assert answer == Answer("a", name)
    assert is_whole(str(reason or "stop")) is is_whole(name) is whole


@pytest.mark.parametrize(("payload", "status"), [
    ({"error": {"message": "insufficient credits", "code": 402}}, 402),
    ({"error": {"message": "slow down", "code": "rate_limit_exceeded"}}, 429),
    ({"error": {"message": "x", "code": "429"}, "choices": []}, 429),
    ({"error": "Model is overloaded", "choices": None}, 503),
    ([{"error": {"code": 403, "message": "no", "status": "PERMISSION_DENIED"}}], 403),
    ({"object": "error", "message": "This model's context is 4096 tokens", "code": None}, 400),
    ({"detail": "Not Found"}, 404),
    ({"detail": "Not authenticated"}, 401),
    ({"error": {"message": "it broke"}, "choices": [{"message": {"content": "half"}}]}, 500),
    ({"choices": [{"error": {"code": 502, "message": "upstream"}, "finish_reason": "error",
                   "message": {"content": ""}}]}, 502),
])  # fmt: skip
def test_an_error_in_place_of_an_answer_counts_as_its_code(payload: object, status: int):
    with pytest.raises(ErrorInBody) as found:
        read(payload)
    assert found.value.status == status


def test_a_choice_with_an_error_is_left_out_beside_others():
    choices = [{"text": "a"}, {"error": {"code": 502, "message": "x"}, "text": ""}]
    assert read({"choices": choices, "error": None})[0] == (Answer("a", "stop"),)


@pytest.mark.parametrize(("choice", "words"), [
    ({"finish_reason": "length", "message": {"content": None, "reasoning_content": "hm"}}, "raise max_tokens"),
    ({"finish_reason": "MAX_TOKENS", "message": {"content": []}}, "raise max_tokens"),
    ({"finish_reason": "content_filter", "message": {"content": ""}}, "content filter"),
    ({"finish_reason": "tool_calls", "message": {"content": None, "tool_calls": [{}]}}, "tool call"),
    ({"finish_reason": "stop", "message": {"content": None, "tool_calls": [{}]}}, "tool call"),
    ({"finish_reason": "stop", "message": {"content": " "}}, "an empty text"),
])  # fmt: skip
def test_an_answer_without_text_has_a_name(choice: dict, words: str):
    assert words in str(emptiness(read({"choices": [choice]})[0]))


def test_an_answer_with_text_is_not_empty_however_it_ended():
    assert emptiness((Answer("", "length"), Answer("a", "length"))) is None


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
    {"choices": [{"message": "text"}]}, {"choices": [{"message": {"content": [5]}}]}, {"choices": [{"text": 5}]},
])  # fmt: skip
def test_a_body_that_is_no_answer_is_said_to_be_none(payload: object):
    with pytest.raises(Malformed):
        read(payload)


@given(text=st.text(max_size=300), choices=st.integers(1, 5), longest=st.integers(1, 500))
def test_the_most_covers_a_byte_level_tokenizer_without_merges(text: str, choices: int, longest: int):
    most = most_of(Request("r", prompt=text, choices=choices, max_tokens=longest))
    assert most.prompt_tokens >= len(text.encode("utf-8")) + 16
    assert most.completion_tokens == choices * longest
