"""What each kind of failure means: for the request, for the bill, for everything that is still to be asked."""

import json

import pytest

from alpaca.engines.failures import Target, of_broken_connection, of_status, retry_after_s
from alpaca.engines.refusals import FROM_THE_START, IN_A_ROW, Refusals

TARGET = Target("m", "example.org", "sk-secret")


@pytest.mark.parametrize(("status", "billed", "throttled"), [
    (408, False, False), (409, False, False), (429, False, True), (503, False, False), (529, False, True),
    (500, True, False), (502, True, False), (504, True, False), (524, True, False),
])  # fmt: skip
def test_what_may_pass_is_retried_and_only_work_that_was_begun_is_billed(status: int, billed: bool, throttled: bool):
    failure = of_status(status, {}, '{"error": {"message": "later"}}', TARGET)
    assert (failure.next, failure.billed, failure.throttled) == ("retry", billed, throttled)


@pytest.mark.parametrize(("status", "error", "words"), [
    (401, '{"error": {"message": "Incorrect API key provided: sk-secret"}}', "OPENAI_API_KEY"),
    (403, '{"error": {"message": "no access for sk-secret"}}', "does not let this key use it"),
    (404, "<html>not here</html>", "check model, and base_url"),
    (402, "{}", "quota or credit is used up"),
    (429, '{"error": {"code": "insufficient_quota", "message": "pay"}}', "quota or credit is used up"),
    (429, '{"error": {"type": "billing_not_active"}}', "quota or credit is used up"),
    (405, '{"detail": "bad"}', "refuses the request"),
])  # fmt: skip
def test_what_no_retry_mends_stops_with_one_line_without_the_key(status: int, error: str, words: str):
    failure = of_status(status, {}, error, TARGET)
    assert (failure.next, failure.billed) == ("stop", False)
    assert words in failure.reason
    assert "\n" not in failure.reason
    assert "sk-secret" not in failure.reason


@pytest.mark.parametrize(("status", "error"), [
    (400, '{"error": {"code": "context_length_exceeded", "message": "too long"}}'),
    (400, '{"error": {"code": "content_policy_violation"}}'),
    (403, '{"error": {"message": "Your chosen model requires moderation and your input was flagged"}}'),
    (400, '{"error": {"message": "Input data may contain inappropriate content."}}'),
    (413, ""),
])  # fmt: skip
def test_a_request_that_is_itself_the_reason_is_given_up_alone(status: int, error: str):
    assert of_status(status, {}, error, TARGET).next == "lose"


@pytest.mark.parametrize(("status", "error", "words"), [
    (400, '{"error": {"message": "sk-secret is too large"}}', "is too large"),
    (422, '{"detail": "bad"}', "refuses the request"),
    (400, '{"fault": {"faultstring": "no such thing"}}', "no such thing"),
    (400, '{"error": {"message": ["one", "two"]}}', '["one", "two"]'),
])  # fmt: skip
def test_a_refused_request_is_lost_alone_until_there_are_too_many_in_a_row(status: int, error: str, words: str):
    failure = of_status(status, {}, error, TARGET)
    assert (failure.next, failure.billed) == ("lose", False)
    assert words in failure.reason
    assert "sk-secret" not in failure.reason
    refusals = Refusals()
    first = [refusals.judged(failure).next for _ in range(FROM_THE_START)]
    assert first == ["lose"] * (FROM_THE_START - 1) + ["stop"]
    refusals.answered()
    later = [refusals.judged(failure) for _ in range(IN_A_ROW)]
    assert [one.next for one in later] == ["lose"] * (IN_A_ROW - 1) + ["stop"]
    assert "50 in a row; change what it names" in later[-1].reason


def test_a_connection_that_was_never_made_costs_nothing_and_one_that_broke_may():
    unmade = of_broken_connection(["APIConnectionError", "ConnectError"], TARGET)
    assert (unmade.next, unmade.billed, unmade.reached) == ("retry", False, False)
    broken = of_broken_connection(["APIConnectionError", "ReadError"], TARGET)
    assert (broken.next, broken.billed, broken.reached) == ("retry", True, True)


@pytest.mark.parametrize(("headers", "seconds"), [
    ({"retry-after": "7"}, 7), ({"retry-after": "0.5"}, 0.5), ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
    ({"retry-after": "Thu, 01 Jan 1970 00:01:40 GMT"}, 40), ({"retry-after": "Thu, 01 Jan 1970 00:00:10 GMT"}, 0),
    ({"retry-after": "1764050000"}, 3600),
    ({"retry-after": "86400"}, 3600), ({}, None), ({"retry-after": "soon"}, None), ({"retry-after": "-5"}, None),
])  # fmt: skip
def test_retry_after_is_read_in_all_its_forms(headers: dict[str, str], seconds: float | None):
    assert retry_after_s(headers, now=60.0) == seconds


@pytest.mark.parametrize("text", ["1764050020", "1764050020000"])
def test_retry_after_may_be_a_moment_in_seconds_or_milliseconds(text: str):
    assert retry_after_s({"retry-after": text}, now=1764050000.0) == 20


@pytest.mark.parametrize("text", ["Thu, 01 Jan 2032 00:01:40 GMT", "1956528100"])
def test_a_moment_to_wait_for_is_measured_by_the_servers_own_clock(text: str):
    headers = {"retry-after": text, "date": "Thu, 01 Jan 2032 00:01:00 GMT"}
    assert retry_after_s(headers, now=60.0) == 40


def test_a_quota_that_comes_back_is_a_rate_limit():
    words = "You exceeded your current quota, please check your plan and billing details."
    assert of_status(429, {}, json.dumps({"error": {"message": words}}), TARGET).next == "stop"
    later = of_status(429, {}, json.dumps([{"error": {"message": f"{words} Please retry in 30.5s."}}]), TARGET)
    told = of_status(429, {"retry-after": "30"}, json.dumps({"error": {"message": words}}), TARGET)
    assert (later.next, later.throttled) == (told.next, told.throttled) == ("retry", True)


def test_a_rate_limit_that_advertises_payment_is_no_exhausted_quota():
    advice = "Rate limit reached for requests. You can increase your rate limit by adding a payment method to billing."
    body = json.dumps({"error": {"code": "rate_limit_exceeded", "type": "requests", "message": advice}})
    assert of_status(429, {}, body, TARGET).next == "retry"
    spent = json.dumps({"error": {"code": "insufficient_quota", "message": "You exceeded your current quota"}})
    assert of_status(429, {}, spent, TARGET).next == "stop"
