"""A price is known from a dated list, from the user, or not at all."""

import datetime

import pytest
import yaml

from alpaca.engines.exchange import EngineSettings, Usage
from alpaca.engines.prices import LIST, prices_of
from alpaca.errors import UserError

MILLION = Usage(1_000_000, 1_000_000)


def cost(name: str, model: str, **given: float) -> float | None:
    prices = prices_of(EngineSettings(name, model), **given)
    return None if prices is None else prices.cost(MILLION)


def test_the_list_says_when_and_where_its_figures_come_from():
    listed = yaml.safe_load(LIST.read_text())
    assert isinstance(listed["date"], datetime.date)
    assert listed["source"].startswith("https://")
    assert all(set(line) == {"prompt", "completion"} and min(line.values()) > 0 for line in listed["models"].values())
    prices = prices_of(EngineSettings("openai", "gpt-4.1-mini"))
    assert prices is not None
    assert str(listed["date"]) in prices.source


def test_a_listed_model_costs_what_the_list_says_and_half_in_a_batch():
    assert cost("openai", "gpt-4.1-mini") == 2.0
    assert cost("openai_batch", "gpt-4.1-mini") == 1.0


def test_a_snapshot_costs_what_its_model_costs_unless_it_has_its_own_line():
    assert cost("openai", "gpt-4o-2024-08-06") == 12.5
    assert cost("openai", "gpt-4o-2024-05-13") == 20.0


def test_this_machine_costs_nothing():
    assert cost("local", "smollm2_135m") == 0
    assert cost("vllm", "meta/llama") == 0


def test_an_unknown_price_is_unknown():
    assert cost("openai", "gpt-99") is None
    elsewhere = EngineSettings("openai", "gpt-4.1-mini", base_url="https://api.openai.com.example.org/v1")
    assert prices_of(elsewhere) is None


def test_the_users_prices_win_and_come_in_pairs():
    assert cost("openai", "gpt-4.1-mini", price_prompt=1, price_completion=2) == 3
    assert cost("openai", "gpt-99", price_prompt=0, price_completion=0) == 0
    with pytest.raises(UserError, match="price_completion is missing"):
        cost("openai", "gpt-99", price_prompt=1)
    with pytest.raises(UserError, match="price_prompt=-1"):
        cost("openai", "gpt-99", price_prompt=-1, price_completion=1)
