"""A section's engine: the same checks and the same words, whichever section asks."""

from dataclasses import replace
from typing import Any

import pytest

from alpaca.config import EngineConfig, GenerationConfig, JudgeConfig
from alpaca.engines.section import check_engine, engine_settings, in_words_of, prices
from alpaca.errors import UserError
from alpaca.evaluation.judging.settings import resolved as judge_settings_of
from alpaca.selfinstruct.settings import resolved as generation_settings_of

SECTIONS: dict[str, EngineConfig] = {
    "generation": GenerationConfig(model="gpt-4.1-mini"),
    "evaluation.judge": JudgeConfig(model="gpt-4.1-mini"),
}
every_section = pytest.mark.parametrize("section", SECTIONS)


@every_section
@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"base_url": "localhost:8000"}, ".base_url=localhost:8000: no web address"),
        ({"base_url": "http://127.0.0.1:port/v1"}, ".base_url=http://127.0.0.1:port/v1: no web address"),
        ({"base_url": "http://[::1/v1"}, "no web address"),
        ({"base_url": "https://user:secret@host/v1"}, "must hold no password"),
        ({"base_url": "http://h/v1", "engine": "vllm"}, ".engine=vllm asks no server"),
        ({"price_completion": 1.0}, ".price_completion go together"),
        ({"budget_usd": 1.0, "model": "unheard-of"}, ".model=unheard-of is not known"),
    ],
)
def test_what_cannot_work_is_refused_in_the_sections_words(section: str, changed: dict[str, Any], expected: str):
    with pytest.raises(UserError) as error:
        check_engine(replace(SECTIONS[section], **changed), section)
    assert str(error.value).startswith(f"{section}.")
    assert expected in str(error.value)
    assert "secret" not in str(error.value)


@every_section
def test_what_can_work_passes_and_has_its_price(section: str):
    chosen = SECTIONS[section]
    check_engine(chosen, section)
    listed = prices(chosen)
    assert listed is not None
    own = prices(replace(chosen, price_prompt=1.0, price_completion=2.0))
    assert own is not None
    assert (own.prompt, own.completion) == (1.0, 2.0) != (listed.prompt, listed.completion)
    assert prices(replace(chosen, base_url="http://127.0.0.1:1/v1")) is None


@every_section
def test_every_setting_reaches_the_engine(section: str):
    chosen = replace(
        SECTIONS[section],
        engine="openai_batch",
        base_url="http://h/v1",
        concurrency=3,
        timeout_s=4.0,
        retries=5,
        poll_s=6,
        leave_out=["top_p"],
    )
    made = engine_settings(chosen, api="completions", state_dir="there")
    assert vars(made) == {
        "name": "openai_batch", "model": "gpt-4.1-mini", "base_url": "http://h/v1", "api": "completions",
        "concurrency": 3, "timeout_s": 4.0, "retries": 5, "state_dir": "there", "poll_s": 6, "gather_s": None,
        "leave_out": ("top_p",),
    }  # fmt: skip


def test_the_environment_names_the_server_where_the_config_does_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_BASE_URL", "http://h:1/v1")
    assert generation_settings_of(GenerationConfig()).base_url == "http://h:1/v1"
    assert generation_settings_of(GenerationConfig(base_url="http://g/v1")).base_url == "http://g/v1"
    assert generation_settings_of(GenerationConfig(engine="local")).base_url is None
    assert judge_settings_of(JudgeConfig()).base_url == "http://h:1/v1"
    assert prices(generation_settings_of(GenerationConfig())) is None, "another seller's price is not known"


def test_no_seed_is_sent_where_it_is_null():
    assert engine_settings(GenerationConfig(seed=None, concurrency=1)).leave_out == ("seed",)


@every_section
def test_what_cannot_be_left_out_is_said(section: str):
    with pytest.raises(UserError, match=rf"{section}.leave_out=\['model'\]: choose from temperature"):
        check_engine(replace(SECTIONS[section], leave_out=["seed", "model"]), section)


@pytest.mark.parametrize(
    ("said", "heard"),
    [
        ("engine=openai: give base_url or set model=NAME", "s.engine=openai: give s.base_url or set s.model=NAME"),
        ("model.weights=here: no loadable model", "s.model=here: no loadable model"),
        ("s.base_url is there, and other.model=x", "s.base_url is there, and other.model=x"),
        ("the model said timeout", "the model said timeout"),
    ],
)
def test_an_engines_own_keys_get_the_section_in_front(said: str, heard: str):
    assert str(in_words_of("s", UserError(said))) == heard
