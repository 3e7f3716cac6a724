"""What models put between and around tasks stays out of them; the same inside an output stays in it."""

import json
import time
from itertools import product

import pytest

from alpaca.data.rows import Row
from alpaca.selfinstruct.parsing import CUT, NO_OUTPUT, OTHER_LABEL, OUTSIDE, TWICE, Parsed, parse_answer, parse_list
from alpaca.selfinstruct.parsing_json import parse_json

ROWS = [
    Row("Name the capital of Peru.", "", "Lima"),
    Row("Add the numbers.", "2 and 3", "5"),
    Row("Round the value to one digit after the point.", "6.83", "6.8"),
    Row("List the steps of making tea.", "", "1. Boil.\n2. Add tea.\n3. Wait\n   - three minutes\n4. Pour."),
    Row("Count from one to six.", "", "1\n2\n3\n4\n5\n6"),
    Row("Number six empty lines.", "", "1.\n2.\n3.\n4.\n5.\n6."),
    Row("Write a page about whales.", "", "# Whales\n\n## Food\nKrill.\n\n### Size\nBlue whales are 30 m long."),
    Row("Write two scenes.", "The sea", "Scene one.\n\n---\n\nScene two.\n\n***\n\nThe end."),
    Row("Make a table of animals.", "", "| animal | sound |\n| --- | --- |\n| cow | moo |"),
    Row("Draw a box around the word.", "stop", "======\n stop\n======"),
    Row("Write front matter for a post.", "", "---\ntitle: Tea\n---"),
    Row("Write a loop in Python.", "", "```python\nfor i in range(3):\n    ###\n    print(i)\n```"),
    Row("Fix the function.", "def f(x) return x", "def f(x):\n    return x\n"),
    Row("Close a letter.", "", "Let me know if you have any questions.\n\nKind regards,\nAda\n____"),
    Row("Make a worksheet.", "", "Exercise A: add.\nExercise B: subtract.\n\nNote: this list is not complete."),
    Row("Which task of the plan is hardest?", "Task 1: walk\nTask 2: fly", "Task 2"),
    Row("Give a slogan.", "", '"Tea, now."'),
    Row("Write a haiku.", "", "Old pond, a frog leaps.\nWater.\n\nSilence after that."),
    Row("Say it in Greek.", "good day", "Καλημέρα"),
    Row("Strike the old price.", "", "<s>20</s> 15 euros"),
    Row("Which mark ends a turn in this template?", "", "The token `<|im_end|>` does."),
    Row("Explain the tag.", "", "The page puts notes between <think> and </think>."),
    Row("Give a temperature of Mars in winter.", "in °C", "-125"),
    Row("Write a dialogue.", "", "A: Is it 5?\nB: No, it is 6.\nA: I hope this helps you."),
]
HEADINGS = [
    "",
    "###\n",
    "### Task {n}\n",
    "### {n}\n",
    "###\nTask {n}\n",
    "\n**Task {n}:**\n",
    "{n}.\n",
    "\n### Task {n}: A title\n",
    "---\n",
    "\n---\n\n",
    "***\n",
    "=====\n",
    "# TASK {n}\n",
    "\n---\n### Task {n}\n",
    "({n})\n",
    "**{n}.**\n",
    "{n}\n",
    "===== Task {n} =====\n",
    "\n\nTask {n} of 20\n\n",
    "- - -\n",
    "**Example {n}**\n",
    "### Aufgabe {n}\n",
    "任务 {n}\n",
    "—————\n",
    "=-=-=-=\n",
    "• • •\n",
    "\\#\\#\\#\n",
    "**Task {n}:** Tea\n",
    "Task: {n}\n",
    "🔹 Task {n}\n",
    "<h3>Task {n}</h3>\n",
    "\nQ{n}.\n",
    "第{n}题\n",
]
ENDINGS = [
    "",
    "\n###",
    "\n---",
    "\n###\n{n}.",
    "\n\nI hope these tasks are helpful!",
    "<|im_end|>",
    "</s>",
    "<|im_end|>\n<|im_start|>user\nMore!",
    "\n\n(Note: all requirements are met.)",
    "\n###\n[END]",
    "\n\n### Task {n}\n",
    "\n###\n\nThank you for reading.",
]
NUMBERED = "{n}. Instruction: {row.instruction}\n{n}. Input:\n{given}\n{n}. Output:\n{row.output}\n"
BARE = "Instruction: {row.instruction}\nInput: {given}\nOutput:\n{row.output}\n"


def written(form: str, heading: str, ending: str, rows: list[Row], first: int) -> str:
    records = [
        heading.format(n=n) + form.format(n=n, row=row, given=row.input or "<noinput>")
        for n, row in enumerate(rows, first)
    ]
    return "".join(records).removesuffix("\n") + ending.format(n=first + len(rows))


@pytest.mark.parametrize("heading", HEADINGS)
def test_no_row_is_lost_or_contaminated_whatever_stands_between_and_after_the_tasks(heading: str):
    forms = [NUMBERED] if heading in ("{n}\n", "({n})\n", "") else [NUMBERED, BARE]
    for number, (ending, form) in enumerate(product(ENDINGS, forms)):
        start = number * 5 % len(ROWS)
        rows = [*ROWS[start:], *ROWS[:start]]
        for chosen, first in ((rows, 4), (rows[:2], 4), (rows[2:5], 1)):
            text = written(form, heading, ending, chosen, first)
            found = [one for one in parse_list(text, first=None, cut=False) if one.problem != OUTSIDE]
            got = [(one.instruction, one.input, one.output.strip()) for one in found]
            assert got == [(row.instruction, row.input, row.output.strip()) for row in chosen], (heading, ending, text)
            if "{n}" in heading or form is NUMBERED:
                assert [one.number for one in found] == [*range(first, first + len(chosen))]


@pytest.mark.parametrize("heading", ["### Next task\n", "<br>\n", "\n##\n"])
def test_a_line_before_nearly_every_task_is_part_of_none(heading: str):
    found = parse_list(written(NUMBERED, heading, "", ROWS, 4), first=None, cut=False)
    assert [(one.number, one.output) for one in found] == [(n, row.output.strip()) for n, row in enumerate(ROWS, 4)]


@pytest.mark.parametrize(
    "output", ["Answer:\nC", "Plan:\n- Task 1: walk\n- Task 2: fly", "**Task 1:** Walk\n**Task 2:** Fly", "Sum:\n5"]
)
@pytest.mark.parametrize("heading", ["", "###\n", "\n"])
def test_a_last_line_that_only_looks_like_a_heading_stays(output: str, heading: str):
    rows = [Row("Do it.", "", output), *ROWS]
    found = parse_list(written(NUMBERED, heading, "", rows, 7), first=None, cut=False)
    assert found[0].output == output


def test_answers_that_are_numbers_are_no_headings_of_the_next_tasks():
    rows = [Row(f"Add {n} and 2.", "", f"They are added.\nAnswer: {n + 2}") for n in (9, 3, 4, 7)]
    for form in (NUMBERED, BARE):
        found = parse_list(written(form, "", "", rows, 1), first=None, cut=False)
        assert [one.output for one in found] == [row.output for row in rows]


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_prompt_that_wrote_the_first_label_changes_nothing(heading: str):
    text = written(NUMBERED, heading, "", ROWS, 4)
    text = text[text.index("Instruction:") + len("Instruction:") :]
    found = parse_list(text, first=4, cut=False)
    assert [(one.number, one.output) for one in found] == [(n, row.output.strip()) for n, row in enumerate(ROWS, 4)]


def test_talk_after_the_last_separator_comes_out_beside_the_tasks():
    text = "1. Instruction: Go.\n1. Output:\nGone.\n###\nThank you!"
    assert [(one.output, one.problem) for one in parse_list(text, first=None, cut=False)] == [
        ("Gone.", ""),
        ("", OUTSIDE),
    ]


def test_a_list_cut_after_a_separator_does_not_pass_off_half_an_output_as_whole():
    found = parse_list("1. Instruction: Write a page.\n1. Output:\nOne.\n###\nTwo", first=None, cut=True)
    assert [one.problem for one in found] == [CUT]


RECORD = "4. Instruction: Name a bird.\n4. Input:\n<noinput>\n4. Output:\nA wren."
THOUGHT = [
    "<think>\nPerhaps:\n1. Instruction: a draft\n1. Output: no\n</think>\n\n",
    "Hm, a draft.\n</think>\n",
    "<think>\n\n</think>\n\n",
    "[THINK]draft[/THINK]",
    "<seed:think>draft</seed:think>",
    "◁think▷draft◁/think▷",
    "<|begin_of_thought|>a<|end_of_thought|>\n",
    "<|channel|>analysis<|message|>draft<|end|><|start|>assistant<|channel|>final<|message|>",
    "analysisDraft it.assistantfinal",
    "<|im_start|>assistant\n<think>draft</think>",
    "<think>one</think>two</think>\n",
    "<reasoning>x</reasoning>",
    "<inner_thoughts>x</inner_thoughts>",
    "<reasoning_content>x</reasoning_content>",
]


@pytest.mark.parametrize("thought", THOUGHT)
def test_leading_thoughts_are_no_part_of_any_answer(thought: str):
    task = Parsed("Name a bird.", "", "A wren.")
    given = {"instruction": "Name a bird.", "input": "", "output": "A wren."}
    assert [one.output for one in parse_list(thought + RECORD, first=None, cut=False)] == ["A wren."]
    assert parse_json(thought + json.dumps({"tasks": [given]}), cut=False) == [task]
    assert parse_json(json.dumps([{**given, "output": f"{thought}A wren."}]), cut=False) == [task]
    assert parse_answer(f"{thought}A wren.", Row("Name a bird.", "", ""), cut=False) == task


@pytest.mark.parametrize(
    "opening", ["<think>", "\n<thinking>\n", "[THINK]", "<|channel|>analysis<|message|>", "analysisThe"]
)
def test_thoughts_that_never_end_are_a_cut_answer(opening: str):
    for found in (
        parse_list(opening + RECORD, first=None, cut=False),
        parse_json(opening + '{"instruction": "a", "output": "b"}', cut=False),
        [parse_answer(f"{opening}A wren.", Row("Name a bird.", "", ""), cut=False)],
    ):
        assert [one.problem for one in found] == [CUT]
        assert not found[0].output


def test_a_block_of_thinking_that_is_closed_once_more_behind_the_answer_loses_no_answer():
    said = "<think>draft</think>\n\nA wren.\n</think>"
    assert parse_answer(said, Row("Name a bird.", "", ""), cut=False).output == "A wren."


def test_an_answer_about_thinking_tags_is_kept():
    for text in ("HTML has no <think> tag, nor </think>.", "Close it with `</think>`.", "Analysis of the poem: good."):
        assert parse_answer(text, Row("Explain.", "", ""), cut=False).output == text


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        ("Yes.<|im_end|>", "Yes."),
        ("Yes.</s></s>", "Yes."),
        ("Yes.<|eot_id|>\nuser\nGo on", "Yes."),
        ("Ye\x00s.", "Yes."),
        ("Yes.\ufffd", "Yes."),
        ("\x1b[1mYes.\x1b[0m", "Yes."),
        ('"Yes."<|endoftext|>', '"Yes."'),
        ("Yes.<end_of_turn>\n", "Yes."),
        ("<s>Yes.</s>", "Yes."),
        ("Yes.<turn|>", "Yes."),
        ("Yes.<EOT>", "Yes."),
        ("Yes.<end_of_utterance>", "Yes."),
        ("Yes. [end of text]", "Yes."),
        ("Yes.[|endofturn|]", "Yes."),
        ("Yes.<|im_end", "Yes."),
        ("Yes.</s", "Yes."),
        ("Yes.<unk>\n", "Yes."),
        ("\ufeffYes.\u200b", "Yes."),
        ("\u0e2a\u200b\u0e27", "\u0e2a\u200b\u0e27"),
        ("Fill in <unk> here.", "Fill in <unk> here."),
        ("if [|a| > 1]", "if [|a| > 1]"),
        ("One\u2028two\x85three", "One\ntwo\nthree"),
        ("a <| b |> c", "a <| b |> c"),
        ("<s>old</s> new", "<s>old</s> new"),
        ("tab\there", "tab\there"),
    ],
)
def test_end_tokens_and_control_characters_do_not_reach_an_output(said: str, meant: str):
    assert parse_answer(said, Row("Say yes.", "", ""), cut=False) == Parsed("Say yes.", "", meant)
    assert parse_list(f"1. Instruction: Say yes.\n1. Output: {said}", first=None, cut=False)[0].output == meant


def test_a_word_with_lost_bytes_is_no_text():
    assert parse_answer("na\ufffdve", Row("Say it.", "", ""), cut=False).problem == "not valid Unicode"


@pytest.mark.parametrize(
    "nothing",
    [
        "\\<noinput\\>",
        "&lt;noinput&gt;",
        "＜noinput＞",
        "<ｎｏｉｎｐｕｔ>",
        "“no input”",
        "(no input)",
        "（No input）",
        "<no\u200binput>",
        "‘None’",
        "<|noinput|>",
        "[<noinput>]",
        "**No input**",
        "`<noinput>`",
        "<无输入>",
        "(keine Eingabe)",
        "Sin entrada.",
        "There is no input for this task.",
        "Input not required",
        "《无输入》",
        "〈no\u2011input〉",
        "なし",
        "(blank)",
        "…",
        "\u2060",
        "&nbsp;",
        "<input></input>",
    ],
)
def test_no_input_is_none_in_any_dress(nothing: str):
    assert (
        parse_list(f"1. Instruction: Sing.\n1. Input: {nothing}\n1. Output: la", first=None, cut=False)[0].input == ""
    )


def test_several_inputs_belong_to_the_input():
    text = "4. Instruction: Compare.\n4. Input 1: I love it.\n4. Input 2: I hate it.\n4. Output:\nThey differ."
    assert parse_list(text, first=None, cut=False)[0].input == "Input 1: I love it.\nInput 2: I hate it."
    assert (
        parse_list(text.replace(" 1:", ":").replace(" 2:", ":"), first=None, cut=False)[0].input
        == "I love it.\nI hate it."
    )


@pytest.mark.parametrize("parts", [("#1", "#2"), ("(1)", "(2)"), ("A", "B"), ("1\u00a0", "2\u00a0")])
def test_several_inputs_are_known_by_any_mark(parts: tuple[str, str]):
    text = "4. Instruction: Compare.\n4. Input {}: I love it.\n4. Input {}: I hate it.\n4. Output:\nThey differ."
    ((given, instruction),) = [
        (one.input, one.instruction) for one in parse_list(text.format(*parts), first=None, cut=False)
    ]
    assert instruction == "Compare."
    assert [words in given for words in ("I love it.", "I hate it.")] == [True, True]


def test_a_second_output_is_no_part_of_the_first():
    for labels in (("4. Output:", "4. Output:"), ("4. Output 1:", "4. Output 2:")):
        text = "4. Instruction: Name a bird.\n{}\nA wren.\n{}\nA robin.".format(*labels)
        assert [one.problem for one in parse_list(text, first=None, cut=False)] == [TWICE]


def test_a_label_inside_an_input_is_text_where_the_numbered_one_follows():
    text = "4. Instruction: Explain.\n4. Input:\nInput: 5\nOutput: 7\n4. Output:\nIt printed 7."
    assert parse_list(text, first=None, cut=False) == [Parsed("Explain.", "5\nOutput: 7", "It printed 7.", 4)]


OTHER = [
    ("指令", "输入", "输出"),
    ("Anweisung", "Eingabe", "Ausgabe"),
    ("Instrucción", "Entrada", "Salida"),
    ("指示", "入力", "出力"),
    ("Инструкция", "Ввод", "Вывод"),
    ("명령", "입력", "출력"),
    ("Inštrukcia", "Vstup", "Výstup"),
    ("Ohjeistus", "Syöte", "Tuloste"),
    ("Consigne\u00a0", "Entrée\u00a0", "Sortie\u00a0"),
    ("คำสั่ง", "อินพุต", "เอาต์พุต"),
]


@pytest.mark.parametrize("labels", OTHER)
@pytest.mark.parametrize("separator", ["###\n", ""])
def test_labels_of_other_languages_are_read_or_lost_and_never_part_of_another_task(
    labels: tuple[str, ...], separator: str
):
    foreign = "5. {}：Zwei\n5. {}：\nx\n5. {}：\nDrei\n".format(*labels)
    text = f"{RECORD}\n{separator}{foreign}{separator}6. Instruction: Add.\n6. Input:\n1, 2\n6. Output:\n3"
    found = parse_list(text, first=None, cut=False)
    assert (found[0].output, found[-1].output) == ("A wren.", "3")
    assert [one.problem for one in found[1:-1]] in ([""], [OUTSIDE])
    assert all((one.instruction, one.input, one.output) == ("Zwei", "x", "Drei") for one in found if one.number == 5)


def test_a_task_with_one_unknown_label_is_not_half_read():
    text = "4. Instruction: Name a bird.\n4. Vstup:\nnone\n4. Output:\nA wren."
    assert [one.problem for one in parse_list(text, first=None, cut=False)] == [OTHER_LABEL]
    text = "4. Instruction: Name a bird.\n4. ข้อมูล:\nnone\n4. Output:\nA wren."
    assert [one.problem for one in parse_list(text, first=None, cut=False)] == [OTHER_LABEL]
    text = "4. Instruction: Name a bird.\n4. Input:\nnone\n4. Výstup:\nA wren."
    assert parse_list(text, first=None, cut=False)[0].problem in (OTHER_LABEL, NO_OUTPUT)


def test_two_tasks_in_one_object_are_no_task():
    text = '{"tasks": [{"instruction": "a", "output": "b", "instruction": "c", "output": "d"}]}'
    assert [one.problem for one in parse_json(text, cut=False)] == [TWICE]


@pytest.mark.parametrize(
    "piece",
    [
        "{",
        '{"a":',
        '{"instruction": "',
        "Instruction:\n",
        "###\n",
        "---\n",
        "### Task 5\n5. Instruction:\n",
        "\n\nI hope these tasks help.\n",
        "<think>",
        "</think>",
        "<|a|>",
        "</s>",
    ],
)
def test_a_response_of_one_piece_repeated_is_read_in_linear_time(piece: str):
    def seconds(count: int) -> float:
        text = "1. Instruction: Go.\n1. Output:\nyes\n" + piece * count
        started = time.process_time()
        parse_list(text, first=None, cut=False)
        parse_json(text, cut=False)
        return time.process_time() - started

    # 16 times as much text: 256 times were it quadratic. The better of two: a busy machine once made 42 of the 16.
    longest = min(seconds(16_000) for _ in range(2))
    assert longest < 40 * max(seconds(1_000), 0.01)
