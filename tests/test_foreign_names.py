"""Names of other trainers are answered with settings that exist here."""

import re

import pytest

from alpaca import foreign_names
from alpaca.config import Config
from alpaca.explaining import _keys, option_hint
from alpaca.help import groups

KEYS = set(_keys(Config))


@pytest.mark.parametrize("name", foreign_names.SETTINGS)
def test_every_answer_is_a_setting_or_an_option_that_exists(name: str):
    answer = foreign_names.SETTINGS[name].partition(" (")[0]
    for part in answer.split():
        key, equals, option = part.partition("=")
        assert key in KEYS or key in groups(), part
        if equals and key in groups() and option != "NAME":
            assert option in groups()[key], part


@pytest.mark.parametrize("group", foreign_names.OPTIONS)
def test_every_option_meant_exists(group: str):
    for meant in foreign_names.OPTIONS[group].values():
        assert set(re.findall(r"\w+", meant)) <= set(groups()[group])
    assert not set(foreign_names.OPTIONS[group]) & set(groups()[group])


def test_no_name_that_is_a_key_here_is_in_the_table_for_something_else():
    assert {name: answer for name, answer in foreign_names.SETTINGS.items() if name in KEYS and answer != name} == {}


@pytest.mark.parametrize(
    ("key", "meant"),
    [
        ("lora_r", "adapter.rank"),
        ("adapter.r", "adapter.rank"),
        ("training.Learning-Rate", "optimizer.lr"),
        ("evaluation.quick.batch_size", None),
        ("something_else", None),
    ],
)
def test_a_name_counts_alone_and_below_a_section(key: str, meant: str | None):
    assert foreign_names.setting(key) == meant


@pytest.mark.parametrize(
    ("argument", "following", "hint"),
    [
        ("--learning_rate", "1e-4", "optimizer.lr=1e-4"),
        ("--learning-rate=1e-4", None, "optimizer.lr=1e-4"),
        ("-lr", "1e-4", "optimizer.lr=1e-4"),
        ("--train.seed", "1", "train.seed=1"),
        ("--bf16", "--fsdp", "train.precision=bf16"),
        ("--model", None, "model=VALUE"),
        ("--verbose", "1", None),
    ],
)
def test_an_option_with_dashes_is_shown_as_it_is_written_here(argument: str, following: str | None, hint: str | None):
    assert option_hint(argument, following) == hint
