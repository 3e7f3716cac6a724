"""Each defect is found where it is and not where it looks alike; counts agree with independent checks on real rows."""

import re

import pytest

from alpaca.data.defects import DEFECTS, found
from alpaca.data.rows import Row

FOUND = [
    ("empty output", Row("Say it.", "", " \n")),
    ("noinput-like input", Row("Say it.", "<noinput>", "a")),
    ("noinput-like input", Row("Say it.", "No input required.", "a")),
    ("noinput-like input", Row("Say it.", "N/A", "a")),
    ("noinput-like input", Row("Say it.", "(None)", "a")),
    ("leaked numbering", Row("Say it.", "", "Well.\n\n12. Instruction: Do more.")),
    ("merged tasks", Row("Say it.\n### Input:\nx", "", "a")),
    ("merged tasks", Row("Say it.", "", "a\nInstruction: another")),
    ("URL in input", Row("Summarise.", "See https://example.org/page", "a")),
    ("URL in input", Row("Summarise.", "www.example.org", "a")),
    ("image request", Row("Describe the following picture.", "", "a")),
    ("image request", Row("Draw a cat.", "", "a")),
    ("image request", Row("What is this?", "[image of a cat]", "a")),
    ("control characters", Row("Say it.", "", "a\x07")),
    ("control characters", Row("Say \ufffd it.", "", "a")),
    ("output equal to input", Row("Sort.", "a, b", " a, b\n")),
    ("answer cut mid-sentence", Row("Tell.", "", "The first reason is simple. The second one has to do with the")),
    ("answer cut mid-sentence", Row("Tell.", "", "The first reason is simple. The second one has two long causes")),
]
CLEAN = [
    Row("Name none of them.", "None of these words", "a"),
    Row("Atom with number 11?", "Na", "Sodium."),
    Row("Say what is missing.", "Input: none of the keys", "a"),
    Row("Sign this.", "+1", "a"),
    Row("Follow.", "", "1. Instruction manuals help.\n2. Read them."),
    Row("Explain image processing with a picture of health.", "", "a"),
    Row("Where is it?", "example.org", "a"),
    Row("List.", "", "Here they are:\n- a very long bullet point without a mark\n- another one of them there"),
    Row("Poem.", "", "Golden sun shines bright\nSeagulls soar the sky\nPeaceful waves come rolling"),
    Row("Tabs\tand\r\nlines", "", "a🦙\u200d"),
    Row("Repeat.", "", "a"),
]


@pytest.mark.parametrize(("name", "row"), FOUND)
def test_a_defect_is_found(name: str, row: Row) -> None:
    assert found(row) == [name]


@pytest.mark.parametrize("row", CLEAN)
def test_a_sound_row_has_none(row: Row) -> None:
    assert found(row) == []


def test_counts_on_real_rows_agree_with_other_ways_to_count(sample: list[Row]) -> None:
    counts = {name: sum(has(row) for row in sample) for name, has in DEFECTS.items()}
    assert counts["empty output"] == sum(row.output.strip() == "" for row in sample)
    assert counts["leaked numbering"] == sum(
        bool(re.search(r"\d+\. ?Instruction:", text)) for row in sample for text in (row.output,)
    )
    said = {"noinput", "noinputrequired", "noinputneeded", "none", "noinputs", "n/a", "noinput8", "hewasnoinput"}
    squeezed = (re.sub(r"[^a-z0-9/]", "", row.input.lower()) for row in sample)
    assert counts["noinput-like input"] == sum(text in said for text in squeezed)
    assert counts["URL in input"] >= sum("http" in row.input for row in sample) - 1
    assert 0.012 < counts["noinput-like input"] / len(sample) < 0.016
