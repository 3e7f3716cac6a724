"""Tokenised rows are kept by content: never stale, safe with several processes, bounded."""

import os
import subprocess
import sys
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from alpaca.config import TrainConfig
from alpaca.data import cache
from alpaca.data.encoding import Examples
from alpaca.data.preparation import tokenised
from alpaca.data.rows import Row
from alpaca.data.templates import Template
from alpaca.errors import UserError
from alpaca.modeling.tokenizer import text_encoder

ROWS = [Row(f"Count to {number}.", "", " ".join(map(str, range(number)))) for number in range(1, 40)]
TEMPLATE = Template("t", "{instruction}\n{input}\n", "{instruction}\n")


def same(first: Examples, second: Examples) -> bool:
    """Whether two sets of examples agree in everything."""
    pairs = [(getattr(first, item.name), getattr(second, item.name)) for item in fields(Examples)]
    return all(np.array_equal(a, b) if isinstance(a, np.ndarray) else a == b for a, b in pairs)


def files() -> list[Path]:
    """What the cache holds."""
    return sorted(cache.folder().glob("*")) if cache.folder().is_dir() else []


def test_what_comes_from_the_cache_is_what_was_put_in(own_cache: Path, byte_level) -> None:
    train, encoder = TrainConfig(max_length=40, over_length="drop"), text_encoder(byte_level)
    made = tokenised(ROWS, TEMPLATE, encoder, train, train_on_prompt=True)
    assert made.dropped
    assert made.prompts_trained
    assert len(files()) == 1
    assert same(made, tokenised(ROWS, TEMPLATE, encoder, train, train_on_prompt=True))
    assert len(files()) == 1


def test_any_change_misses_the_cache(own_cache: Path, byte_level, sentence_piece) -> None:
    train, encoder = TrainConfig(), text_encoder(byte_level)
    tokenised(ROWS, TEMPLATE, encoder, train)
    changes = [
        ([replace(ROWS[0], output="1."), *ROWS[1:]], TEMPLATE, encoder, train, {}),
        (ROWS[::-1], TEMPLATE, encoder, train, {}),
        (ROWS, replace(TEMPLATE, prompt_without_input="{instruction} "), encoder, train, {}),
        (ROWS, TEMPLATE, text_encoder(sentence_piece), train, {}),
        (ROWS, TEMPLATE, encoder, replace(train, max_length=511), {}),
        (ROWS, TEMPLATE, encoder, replace(train, over_length="drop"), {}),
        (ROWS, TEMPLATE, encoder, train, {"train_on_prompt": True}),
        (ROWS, TEMPLATE, encoder, train, {"train_on_eos": False}),
    ]
    for number, (rows, template, how, settings, masks) in enumerate(changes, 2):
        tokenised(rows, template, how, settings, **masks)
        assert len(files()) == number
    tokenised(ROWS, TEMPLATE, encoder, train)
    assert len(files()) == len(changes) + 1


def test_new_code_misses_the_cache(own_cache: Path, byte_level, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenised(ROWS, TEMPLATE, text_encoder(byte_level), TrainConfig())
    monkeypatch.setattr(cache, "CODE_VERSION", cache.CODE_VERSION + 1)
    tokenised(ROWS, TEMPLATE, text_encoder(byte_level), TrainConfig())
    assert len(files()) == 2


def test_it_can_be_turned_off(own_cache: Path, byte_level) -> None:
    tokenised(ROWS, TEMPLATE, text_encoder(byte_level), TrainConfig(cache=False))
    assert files() == []


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04", None])
def test_a_damaged_file_counts_as_absent_and_is_replaced(own_cache: Path, byte_level, damage: bytes | None) -> None:
    encoder = text_encoder(byte_level)
    made = tokenised(ROWS, TEMPLATE, encoder, TrainConfig())
    (file,) = files()
    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(damage if damage is not None else whole[:middle] + b"\xff\xff\xff\xff" + whole[middle + 4 :])
    assert same(made, tokenised(ROWS, TEMPLATE, encoder, TrainConfig()))
    assert file.read_bytes() == whole


def test_an_error_is_not_kept(own_cache: Path, byte_level) -> None:
    with pytest.raises(UserError):
        tokenised(ROWS, TEMPLATE, text_encoder(byte_level), TrainConfig(max_length=12, over_length="error"))
    assert files() == []


def test_a_folder_that_cannot_be_written_only_costs_time(tmp_path: Path, monkeypatch, byte_level) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ALPACA_CACHE", str(tmp_path / "file" / "below"))
    assert len(tokenised(ROWS, TEMPLATE, text_encoder(byte_level), TrainConfig())) == len(ROWS)


def small(value: int) -> Examples:
    """Examples of about 8 kB."""
    return Examples(np.full(1000, value, np.int32), np.array([0, 1000]), np.array([1]), np.array([0]), 0, Counter())


def test_what_was_unused_longest_goes_when_the_folder_is_full(own_cache: Path) -> None:
    for value in range(4):
        cache.kept({"value": value}, lambda value=value: small(value))
        for age, file in enumerate(sorted(files(), key=lambda file: file.stat().st_mtime_ns, reverse=True)):
            os.utime(file, (1_000_000 - age, 1_000_000 - age))
    assert cache.kept({"value": 0}, lambda: small(9))[1]  # used again: now the newest
    size = files()[0].stat().st_size
    cache.kept({"value": 4}, lambda: small(4), max_bytes=3 * size)
    assert len(files()) == 3
    found = {value for value in range(5) if cache.kept({"value": value}, lambda: small(9))[1]}
    assert {0, 4} <= found
    cache.kept({"value": 7}, lambda: small(7), max_bytes=1)
    assert len(files()) == 1, "the newest stays even where it alone is above the bound"


WRITER = """
import sys
sys.path.insert(0, sys.argv[1])
from test_cache import small
from alpaca.data import cache
for turn in range(40):
    found, _ = cache.kept({"value": turn % 5}, lambda: small(turn % 5), max_bytes=30_000)
    assert found.tokens.tolist() == [turn % 5] * 1000, turn
"""


def test_several_processes_at_once_never_read_half_a_file(own_cache: Path) -> None:
    command = [sys.executable, "-c", WRITER, str(Path(__file__).parent)]
    running = [subprocess.Popen(command, stderr=subprocess.PIPE) for _ in range(3)]
    for process in running:
        _, error = process.communicate(timeout=240)
        assert process.returncode == 0, error.decode()
    assert not list(cache.folder().glob(".unfinished-*"))
