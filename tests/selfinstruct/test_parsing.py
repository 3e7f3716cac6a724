"""Responses as models write them become tasks: nothing vanishes, nothing is made up, nothing raises."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca.data.rows import Row
from alpaca.engines.content import plain
from alpaca.selfinstruct.parsing import (
    BAD_TEXT,
    CUT,
    NO_INSTRUCTION,
    NO_OUTPUT,
    NOT_TEXT,
    OUTSIDE,
    Parsed,
    parse_answer,
    parse_list,
)
from alpaca.selfinstruct.parsing_json import NOT_JSON, parse_json
from alpaca.selfinstruct.prompts import as_record

TWO = (
    "4. Instruction: Name a bird.\n4. Input:\n<noinput>\n4. Output:\nA wren.\n###\n"
    "5. Instruction: Add.\n5. Input:\n1, 2\n5. Output:\n3"
)


def tasks(text: str, first: int | None = None, cut: bool = False) -> list[tuple[str, str, str]]:
    found = parse_list(text, first=first, cut=cut)
    assert all(not one.problem for one in found), found
    return [(one.instruction, one.input, one.output) for one in found]


def problems(text: str, first: int | None = None, cut: bool = False) -> list[str]:
    return [one.problem for one in parse_list(text, first=first, cut=cut)]


def test_a_list_becomes_tasks_in_order():
    assert tasks(TWO) == [("Name a bird.", "", "A wren."), ("Add.", "1, 2", "3")]
    assert [one.number for one in parse_list(TWO, first=None, cut=False)] == [4, 5]


def test_a_response_that_goes_on_inside_the_first_instruction_is_read_the_same():
    continued = TWO.removeprefix("4. Instruction:")
    assert tasks(continued, first=4) == tasks(TWO)
    assert parse_list(continued, first=4, cut=False)[0].number == 4


def test_a_response_that_repeats_the_label_it_was_given_is_read_the_same():
    assert tasks(f"\n{TWO}", first=4) == tasks(TWO)


@given(st.lists(st.tuples(*[st.text(alphabet="abc äÖ.,?", min_size=3).filter(str.strip)] * 3), min_size=1, max_size=5))
def test_what_the_prompt_shows_is_read_back(texts: list[tuple[str, str, str]]):
    rows = [Row(*(text.strip() for text in three)) for three in texts]
    shown = "\n###\n".join(as_record(number, row) for number, row in enumerate(rows, 1))
    found = parse_list(shown, first=None, cut=False)
    assert [(one.instruction, one.output) for one in found] == [(row.instruction, row.output) for row in rows]


def test_markdown_headings_and_bare_hashes_inside_an_output_stay_in_it():
    output = "# Title\n### Part one\ntext\n\n###\n\nmore text\n#### Deeper"
    first = f"1. Instruction: Write a page.\n1. Input:\nnone\n1. Output:\n{output}"
    text = f"{first}\n###\n2. Instruction: Go on.\n2. Output:\nyes"
    assert tasks(text) == [("Write a page.", "", output), ("Go on.", "", "yes")]


def test_numbers_in_an_output_do_not_end_it():
    output = "\n".join(f"{number}. item" for number in range(1, 31))
    assert tasks(f"1. Instruction: Count.\n1. Input:\n\n1. Output:\n{output}") == [("Count.", "", output)]


@pytest.mark.parametrize("numbers", [(4, 6, 9), (4, 4, 4), (7, 3, 1)])
def test_skipped_repeated_and_falling_numbers_lose_no_task(numbers: tuple[int, ...]):
    text = "\n###\n".join(f"{number}. Instruction: Do {place}.\n{number}. Input:\n{number}. Output:\ndone {place}"
                          for place, number in enumerate(numbers))  # fmt: skip
    assert tasks(text) == [(f"Do {place}.", "", f"done {place}") for place in range(3)]


def test_a_missing_separator_loses_no_task():
    assert tasks(TWO.replace("###\n", "")) == tasks(TWO)


@pytest.mark.parametrize(
    "dress",
    ["{n}. {label}:", "**{n}. {label}:**", "{n}. **{label}:**", "{n}) {label}:", "### {n}. {label}:",
     "{n}. {label} :", "{n}. {upper}:", "Task {n}. {label}:", "- {n}. {label}:"],
)  # fmt: skip
def test_labels_are_read_in_any_usual_dress(dress: str):
    text = "\n".join(
        dress.format(n=3, label=label, upper=label.upper()) + f" {label.lower()} text"
        for label in ("Instruction", "Input", "Output")
    )
    assert tasks(text) == [("instruction text", "input text", "output text")]


def test_bold_text_after_a_plain_label_keeps_its_marks():
    assert tasks("1. Instruction: **Now** go\n1. Output: **yes**") == [("**Now** go", "", "**yes**")]


def test_lists_without_numbers_are_read():
    text = "Instruction: one\nInput: N/A\nOutput: 1\n\nInstruction: two\nResponse: 2"
    assert tasks(text) == [("one", "", "1"), ("two", "", "2")]


def test_labels_that_belong_to_an_output_stay_in_it():
    output = "Input: 3\nOutput: 9\nInstruction: none"
    assert tasks(f"1. Instruction: Show a sample run.\n1. Input:\nx\n1. Output:\n{output}")[0][2] == output


@pytest.mark.parametrize(
    "nothing",
    ["<noinput>", "<NoInput>", "< no input >", "<noinput/>", "noinput", "No input", "No input.", "no input required",
     "N/A", "n/a", "NA", "None", "none.", "(none)", "No additional input is needed.", "-", "", "  ",
     "\"\"", "[No input]"],
)  # fmt: skip
def test_an_input_that_says_in_any_dress_that_there_is_none_becomes_empty(nothing: str):
    assert tasks(f"1. Instruction: Sing.\n1. Input:\n{nothing}\n1. Output:\nla")[0][1] == ""


@pytest.mark.parametrize("real", ["No input device was found.", "Na", "None of them came.", "3", "?", "no", "-5"])
def test_an_input_that_only_looks_like_none_is_kept(real: str):
    assert tasks(f"1. Instruction: Translate.\n1. Input:\n{real}\n1. Output:\nla")[0][1] == real


def test_a_label_that_is_written_twice_counts_once():
    text = "1. Instruction: Name a bird.\n1. Input: <noinput>\n1. Output:\n1. Output: A wren."
    assert tasks(text) == [("Name a bird.", "", "A wren.")]


def test_windows_line_ends_are_read():
    assert tasks(TWO.replace("\n", "\r\n")) == tasks(TWO)


def test_a_list_in_a_code_fence_is_read_without_the_fence():
    assert tasks(f"```text\n{TWO}\n```") == tasks(TWO)


def test_a_code_fence_of_an_output_is_kept():
    output = "Here:\n```python\nprint(1)\n```"
    assert tasks(f"1. Instruction: Print one.\n1. Output:\n{output}")[0][2] == output


def test_a_response_cut_by_length_loses_its_last_task_and_says_so():
    found = parse_list(TWO, first=None, cut=True)
    assert [one.problem for one in found] == ["", CUT]
    assert found[1].output == "3"
    assert problems("4. Instruction: Only one", cut=True) == [CUT]


def test_text_around_the_list_and_broken_records_are_reported():
    assert problems(f"Sure, here they are:\n\n{TWO}") == [OUTSIDE, "", ""]
    assert problems("1. Instruction: Half a task.") == [NO_OUTPUT]
    assert problems("1. Instruction:\n1. Output: something") == [NO_INSTRUCTION]
    assert problems("I cannot do that.") == [OUTSIDE]
    assert problems("") == problems("###\n\n###") == []


def test_half_a_surrogate_pair_is_no_text():
    assert problems("1. Instruction: Say \ud83d.\n1. Output: no") == [BAD_TEXT]


def test_an_answer_is_the_whole_response_even_when_it_looks_like_a_list():
    row = Row("Write a task.", "", "")
    assert parse_answer(f" {TWO}\r\n", row, cut=False) == Parsed("Write a task.", "", TWO, 0)
    assert parse_answer("half", row, cut=True).problem == CUT


@pytest.mark.parametrize("opening", ["", "#", "- ", "1.", "###", "```", "**"])
def test_a_hundred_thousand_blanks_are_read_at_once(opening: str):
    blanks = opening + " " * 100_000 + "x!"
    assert problems(blanks) == [OUTSIDE]
    assert tasks(f"1. Instruction: Be quiet.\n1. Output:\nyes\n{blanks}")[0][2].endswith("x!")


RECORD = {"instruction": "Name a bird.", "input": "N/A", "output": "A wren, ]"}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps({"tasks": [RECORD]}),
        json.dumps([RECORD]),
        json.dumps(RECORD),
        f"Here you are:\n```json\n{json.dumps({'tasks': [RECORD]}, indent=2)}\n```\nEnjoy!",
        '{"tasks": [{"instruction": "Name a bird.", "input": "none", "output": "A wren, ]",}, ], }',
        json.dumps({"tasks": {"first": RECORD}}),
    ],
)
def test_json_is_read_with_fences_talk_and_trailing_commas(text: str):
    assert parse_json(text, cut=False) == [Parsed("Name a bird.", "", "A wren, ]")]


def test_json_cut_by_length_loses_the_incomplete_task_only():
    text = json.dumps({"tasks": [RECORD, RECORD]})
    found = parse_json(text[:-10], cut=True)
    assert [one.problem for one in found] == ["", CUT]
    assert found[1].raw


def test_json_objects_without_an_instruction_are_reported_beside_good_ones():
    lacking = {"input": "x", "output": "y"}
    found = parse_json(json.dumps({"tasks": [RECORD, lacking, "and so on", RECORD, {}], "count": 2}), cut=False)
    assert [one.problem for one in found] == ["", NO_INSTRUCTION, OUTSIDE, "", NO_INSTRUCTION]
    assert json.loads(found[1].raw) == lacking
    assert found[2].raw == '"and so on"'
    misspelt = parse_json(json.dumps({"instructions": "Name a bird.", "output": "A wren."}), cut=False)
    assert [one.problem for one in misspelt] == [NO_INSTRUCTION]
    nested = parse_json(json.dumps({"output": "see below", "tasks": [RECORD]}), cut=False)
    assert [one.problem for one in nested] == [NO_INSTRUCTION, ""]


def test_json_that_is_no_task_is_reported():
    assert [one.problem for one in parse_json("not JSON at all", cut=False)] == [OUTSIDE]
    assert [one.problem for one in parse_json('[{"instruction": "a", "output": 3}]', cut=False)] == [NOT_TEXT]
    assert [one.problem for one in parse_json('{"instruction": "a" "output": "b"}', cut=False)] == [NOT_JSON]
    assert [one.problem for one in parse_json('{"instruction": "a\\ud83d", "output": "b"}', cut=False)] == [BAD_TEXT]
    assert parse_json("  ", cut=False) == []
    assert parse_json("[" * 100_000 + "{" * 1000, cut=False)[0].problem == OUTSIDE


PIECES = st.one_of(
    st.sampled_from(
        [
            "###",
            "### ",
            "\n",
            "\r\n",
            "\n\n",
            "1. Instruction:",
            "2. Instruction: ",
            "**3. Instruction:**",
            "3. Input:",
            "Input:",
            "Output:",
            "4. Output:",
            "### Response:",
            "```",
            "```json",
            "<noinput>",
            "N/A",
            "20.",
            "Instruction:",
            '{"instruction": "',
            '", "input": "',
            '", "output": "',
            '"}',
            ",",
            "]",
            "[",
            "{",
            "}",
            "\\",
            '"',
            ":",
            "tasks",
        ]
    ),
    st.text(max_size=12),
)
RESPONSES = st.lists(PIECES, max_size=30).map("".join)


def never_raises_and_never_invents(text: str, first: int | None, cut: bool) -> None:
    said = "".join(plain(text).split())
    for one in parse_list(text, first=first, cut=cut):
        for part in (one.instruction, one.input, one.output, one.raw):
            assert "".join(part.split()) in said
    for one in parse_json(text, cut=cut):
        assert one.problem or one.instruction
        if "\\" not in text:  # else a text is what its escapes mean
            for part in (one.instruction, one.input, one.output):
                assert "".join(plain(part).split()) in said
        if one.raw and one.problem not in (NOT_TEXT, NO_INSTRUCTION) and not one.raw.startswith('"'):
            assert "".join(one.raw.split()) in "".join(text.replace(",", " ").split()) or one.raw in text


@settings(max_examples=1000)
@given(RESPONSES, st.one_of(st.none(), st.integers(1, 9)), st.booleans())
def test_any_response_is_parsed_without_error_or_invention(text: str, first: int | None, cut: bool):
    never_raises_and_never_invents(text, first, cut)


@pytest.mark.slow
@settings(max_examples=10_000)
@given(RESPONSES, st.one_of(st.none(), st.integers(1, 9)), st.booleans())
def test_ten_thousand_responses_are_parsed_without_error_or_invention(text: str, first: int | None, cut: bool):
    never_raises_and_never_invents(text, first, cut)


@given(st.lists(st.sampled_from(["alpha", "beta\n", "###\n", "1. Instruction: ", "gamma", "\n1. Output: ", " delta "])))
def test_every_word_of_a_response_comes_out_somewhere(pieces: list[str]):
    text = "".join(pieces)
    found = parse_list(text, first=None, cut=False)
    said = " ".join(" ".join((one.instruction, one.input, one.output, one.raw)) for one in found)
    for word in ("alpha", "beta", "gamma", "delta"):
        assert said.count(word) >= text.count(word)
