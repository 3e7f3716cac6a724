"""The table of a comparison at the widths of real terminals: no name broken, nothing left out in silence."""

import io
import re

import pytest
from comparisons import run, sweep
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from alpaca.report.layout import Column, fitted, wrapped
from alpaca.report.records import Comparison
from alpaca.report.terminal import show

RANKS = [{"adapter.rank": 2 ** (variant + 1)} for variant in range(4)]
PAIRS = [{**settings, "optimizer.lr": 10.0 ** -(place + 2)} for place, settings in enumerate(RANKS)]
FILES = [{"data_source.path": f"/data/of/mine/and/others/rows_number_{place}.jsonl"} for place in range(3)]


def compared(variants: list[dict[str, object]]) -> Comparison:
    """Two seeds of each variant."""
    return sweep([run(place, seed, settings=own) for place, own in enumerate(variants) for seed in range(2)])


def printed(comparison: Comparison, width: int) -> list[str]:
    """The lines that a terminal of so many columns shows."""
    text = io.StringIO()
    show(comparison, Console(file=text, width=width, highlight=False))
    return text.getvalue().splitlines()


@pytest.mark.parametrize("width", [70, 80, 100, 140])
@pytest.mark.parametrize("variants", [RANKS, PAIRS], ids=["one setting", "two settings"])
def test_names_and_verdicts_stay_whole_at_every_width(variants: list[dict[str, object]], width: int):
    comparison = compared(variants)
    lines = printed(comparison, width)
    assert all(len(line.rstrip()) <= width for line in lines if not line.startswith("left out"))
    words = set(" ".join(lines).split())
    for each in comparison.variants:
        assert set(each.label.split()) <= words
    for metric in comparison.metrics:
        for differences in comparison.differences:
            assert set(differences[metric].verdict.split()) <= words


def test_the_least_useful_columns_go_first_and_a_line_says_so():
    comparison = compared(PAIRS)
    wide, middle, narrow = (printed(comparison, width) for width in (140, 80, 70))
    assert not [line for line in wide if line.startswith("left out")]
    assert [line for line in middle if line.startswith("left out")] == [
        "left out at 80 columns: seeds; report.csv and a wider terminal have them"
    ]
    assert "mean ± sd" in " ".join(middle)
    (said,) = [line for line in narrow if line.startswith("left out")]
    assert said.startswith("left out at 70 columns: seeds, mean ± sd, trained; ")
    assert "difference, 95 % interval" in " ".join(narrow)


def test_a_very_long_value_breaks_at_its_separators():
    lines = printed(compared(FILES), 80)
    starts = [line.split()[0] for line in lines if re.match(r"(data_source|mine|others|rows)\S*", line)]
    assert starts
    assert all(re.fullmatch(r"\S*[./=_-]|rows_number_\d\.jsonl|\S*number_\d\.jsonl|\d\.jsonl", part) for part in starts)


@given(st.text("ab.=/ ,_-", max_size=60), st.integers(1, 30))
def test_wrapped_text_loses_nothing_and_is_never_wider(text: str, width: int):
    lines = wrapped(text, width).split("\n")
    assert all(len(line) <= width for line in lines)
    assert "".join("".join(lines).split()) == "".join(text.split())


@given(st.lists(st.tuples(st.integers(1, 40), st.booleans(), st.integers(0, 3)), min_size=1, max_size=6),
       st.integers(60, 160))  # fmt: skip
def test_columns_fit_unless_only_indispensable_ones_are_left(shapes: list[tuple[int, bool, int]], width: int):
    columns = [Column(f"c{place}", ("x" * size,), *rest) for place, (size, *rest) in enumerate(shapes)]
    kept, left_out = fitted(columns, width)
    assert {column.head for column, _ in kept} | set(left_out) == {column.head for column in columns}
    assert all(column.dispensable for column in columns if column.head in left_out)
    taken = sum(size for _, size in kept) + 2 * (len(kept) - 1)
    assert taken <= width or not any(column.dispensable for column, _ in kept)
