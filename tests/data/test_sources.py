"""Every file format, column mapping and conversation shape, and what each bad input is told."""

import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow
import pytest
import zstandard
from hydra import compose, initialize_config_dir
from pyarrow import parquet

from alpaca import cli, paths
from alpaca.checks import check
from alpaca.config import Config, DataSourceConfig
from alpaca.data import hub, sources
from alpaca.data.rows import Row
from alpaca.errors import UserError
from alpaca.licences import UNKNOWN
from alpaca.signature import signature

RECORDS = [
    {"instruction": "Add.", "input": "1, 2", "output": "3"},
    {"instruction": 'Grüße 🦙, "quoted"\nand more', "input": "", "output": " x\n"},
]
ROWS = [Row(**record, line=number) for number, record in enumerate(RECORDS, 1)]


def load(path: Any, **settings: Any) -> list[Row]:
    """Rows of files."""
    return sources.load(
        DataSourceConfig(name="mine", path=path if isinstance(path, list) else str(path), **settings)
    ).rows


def written(file: Path, records: list[dict[str, Any]] = RECORDS) -> Path:
    """`records` in the format the name says."""
    kind = next(suffix for suffix in file.suffixes if suffix not in (".gz", ".zst"))
    if kind == ".parquet":
        parquet.write_table(pyarrow.Table.from_pylist(records), file)
        return file
    if kind in (".csv", ".tsv"):
        lines: list[str] = []
        writer = csv.DictWriter(_Lines(lines), list(records[0]), delimiter="," if kind == ".csv" else "\t")
        writer.writeheader()
        writer.writerows(records)
        raw = "".join(lines).encode()
    elif kind == ".json":
        raw = json.dumps(records, ensure_ascii=False, indent=1).encode()
    else:
        raw = "".join(json.dumps(record) + "\n\n" for record in records).encode("utf-8-sig")
    if file.suffix == ".gz":
        raw = gzip.compress(raw)
    if file.suffix == ".zst":
        raw = zstandard.compress(raw[:10]) + zstandard.compress(raw[10:])
    file.write_bytes(raw)
    return file


class _Lines:
    """Collects what csv writes."""

    def __init__(self, lines: list[str]):
        self.write = lines.append


@pytest.mark.parametrize(
    "name",
    ["a.json", "a.jsonl", "a.csv", "a.tsv", "a.parquet", "a.json.gz", "a.jsonl.zst", "a.csv.gz", "a.ndjson"],
)
def test_every_format_gives_the_same_rows_and_content_hash(tmp_path: Path, name: str) -> None:
    source = sources.load(DataSourceConfig(name="mine", path=str(written(tmp_path / name))))
    assert [(row.instruction, row.input, row.output) for row in source.rows] == [tuple(r.values()) for r in RECORDS]
    assert source.content_hash == sources.content_hash(ROWS)


def test_the_content_hash_tells_texts_apart_that_join_to_the_same() -> None:
    hashes = [sources.content_hash([row]) for row in (Row("ab", "", "c"), Row("a", "b", "c"), Row("a", "", "bc"))]
    assert len(set(hashes)) == 3


def test_lists_globs_and_urls_are_read_in_order(tmp_path: Path) -> None:
    for number in (2, 1):
        written(tmp_path / f"part{number}.jsonl", [{"instruction": f"i{number}", "output": "o"}])
    with fsspec.open("memory://bucket/more.jsonl", "w") as stream:
        stream.write('{"instruction": "remote", "output": "o"}')
    found = load([str(tmp_path / "part*.jsonl"), "memory://bucket/*.jsonl", f"file://{tmp_path}/part1.jsonl"])
    assert [row.instruction for row in found] == ["i1", "i2", "remote", "i1"]


@pytest.mark.parametrize(
    ("record", "columns", "row"),
    [
        ({"prompt": "p", "response": "r"}, {"instruction": "prompt", "output": "response"}, ("p", "", "r")),
        ({"question": "q", "context": "c", "answer": "a"},
         {"instruction": "question", "input": "context", "output": "answer"}, ("q", "c", "a")),
        ({"instruction": "i", "input": "unused", "output": "o"}, {"input": None}, ("i", "", "o")),
        ({"instruction": "i", "input": None, "output": "o"}, {}, ("i", "", "o")),
        ({"input": "task", "output": "o"}, {"instruction": "input", "input": None}, ("task", "", "o")),
    ],
)  # fmt: skip
def test_columns_are_mapped(
    tmp_path: Path, record: dict[str, Any], columns: dict[str, Any], row: tuple[str, ...]
) -> None:
    (found,) = load(written(tmp_path / "a.jsonl", [record]), columns=columns)
    assert (found.instruction, found.input, found.output) == row


@pytest.mark.parametrize(
    ("record", "told"),
    [
        ({"prompt": "p", "response": "r"}, "'data_source.columns={instruction:prompt,output:response}'"),
        ({"Question": "q", "context": "c", "answer": "a"}, "{instruction:Question,input:context,output:answer}"),
        ({"input": "q", "output": "a"}, "{instruction:input}"),
        ({"title": "x", "body": "y"}, "no column 'instruction', it has title, body"),
    ],
)
def test_a_missing_column_is_told_with_the_mapping_the_file_suggests(tmp_path, record, told) -> None:
    with pytest.raises(UserError, match=r"a\.jsonl, line 1") as error:
        load(written(tmp_path / "a.jsonl", [record]))
    assert told in str(error.value)


TURN = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}]


@pytest.mark.parametrize(
    ("record", "instruction"),
    [
        ({"messages": TURN}, "Hi"),
        ({"messages": [{"role": "system", "content": "Be brief."}, *TURN]}, "Be brief.\n\nHi"),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "Hi"),
        ({"conversations": ["Hi", "Hello"]}, "Hi"),
        ({"id": 1, "conversation": TURN}, "Hi"),
    ],
)
def test_a_conversation_with_one_turn_is_a_row(tmp_path: Path, record: dict[str, Any], instruction: str) -> None:
    (row,) = load(written(tmp_path / "a.jsonl", [record]))
    assert (row.instruction, row.input, row.output) == (instruction, "", "Hello")


def test_several_turns_are_refused_with_the_count_or_cut_to_the_first(tmp_path: Path) -> None:
    more = [*TURN, {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    file = written(tmp_path / "a.jsonl", [{"messages": TURN}, {"messages": more}, {"messages": more}])
    with pytest.raises(UserError, match=r"2 of 3 conversations have several user turns.*data_source.turns=first"):
        load(file)
    assert [row.output for row in load(file, turns="first")] == ["Hello"] * 3
    with pytest.raises(UserError, match="no column 'instruction'"):
        load(file, columns={"messages": "chat"})


@pytest.mark.parametrize(
    "messages",
    [[], [TURN[0]], TURN[::-1], [{"role": "tool", "content": "x"}], [7], [{"role": "user"}, TURN[1]], "no list"],
)
def test_a_conversation_that_is_none_is_refused(tmp_path: Path, messages: Any) -> None:
    with pytest.raises(UserError, match="line 1"):
        load(written(tmp_path / "a.jsonl", [{"messages": messages}]), columns={"messages": "messages"})


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]}, TURN[1]],
        [{"role": "developer", "content": ""}, {"from": "human", "value": "Hi"}, TURN[1]],
    ],
)
def test_messages_of_text_parts_and_other_names_are_read(tmp_path: Path, messages: Any) -> None:
    (row,) = load(written(tmp_path / "a.jsonl", [{"messages": messages}]))
    assert (row.instruction.strip(), row.output) == ("Hi", "Hello")


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": TURN[:1], "completion": TURN[1:]},
        {"instruction": "", "input": "", "output": None, "messages": TURN},
        {"instruction": None, "output": "", "conversations": TURN},
    ],
)
def test_a_conversation_in_two_columns_or_beside_empty_ones_is_read(tmp_path: Path, record: dict[str, Any]) -> None:
    (row,) = load(written(tmp_path / "a.jsonl", [record]))
    assert (row.instruction, row.input, row.output) == ("Hi", "", "Hello")


def loaded(file: Path, records: list[dict[str, Any]], **settings: Any) -> sources.Source:
    """The source of `records` written to `file`."""
    return sources.load(DataSourceConfig(name="mine", path=str(written(file, records)), **settings))


def test_columns_that_are_not_read_are_named_once_with_their_number_of_rows(tmp_path: Path) -> None:
    row = {
        "id": 7,
        "instruction": "i",
        "output": "o",
        "text": "### i\n### o",
        "system": "",
        "history": [],
        "images": None,
    }
    said = [{**row, "system": "Rhyme.", "history": [["q", "a"]]}, {**row, "system": "Rhyme."}, row]
    source = loaded(tmp_path / "a.jsonl", said)
    (warning,) = source.warnings
    assert warning.startswith("columns that are not read: system (2 of 3 rows), history (1 of 3 rows);")
    assert "'data_source.columns={system:system}'" in warning
    mapped = loaded(tmp_path / "b.jsonl", said, columns={"system": "system"})
    assert [row.instruction for row in mapped.rows] == ["Rhyme.\n\ni", "Rhyme.\n\ni", "i"]
    assert mapped.warnings == ("columns that are not read: history (1 of 3 rows)",)


@pytest.mark.parametrize(
    ("column", "is_named"),
    [
        ({"question": "Is it so? "}, False),  # the instruction once more
        ({"text": "### Instruction:\nIs it so?\n\n### Response:\nyes</s>"}, False),
        ({"reasoning": "Is it so? I think yes, because it was so before, and nothing changed since."}, True),
        ({"system": "Answer with yes or no."}, True),
    ],
)
def test_a_column_that_repeats_the_row_is_not_named(tmp_path: Path, column: dict[str, str], is_named: bool) -> None:
    for instruction in ("Is it so?", "") if is_named else ("Is it so?",):
        source = loaded(tmp_path / "a.jsonl", [{"instruction": instruction, "input": "", "output": "yes", **column}])
        assert bool(source.warnings) == is_named


def test_what_a_message_or_a_record_holds_beside_a_conversation_is_named(tmp_path: Path) -> None:
    thought = [TURN[0], {**TURN[1], "reasoning": "Greet."}]
    source = loaded(tmp_path / "a.jsonl", [{"messages": thought, "tools": "[]", "input": "x"}, {"messages": TURN}])
    (warning,) = source.warnings
    assert (
        warning
        == "columns that are not read: message.reasoning (1 of 2 rows), tools (1 of 2 rows), input (1 of 2 rows)"
    )


BOTH = {"instruction": "i", "output": "o"}


@pytest.mark.parametrize(
    ("bad", "column"),
    [
        ({**BOTH, "label": False}, "label"),
        ({**BOTH, "label": "False"}, "label"),
        ({**BOTH, "weight": 0}, "weight"),
        ({**BOTH, "weight": "0.0"}, "weight"),
        ({**BOTH, "kto_tag": False}, "kto_tag"),
        ({"messages": TURN, "label": False}, "label"),
        ({"messages": [TURN[0], {**TURN[1], "weight": 0}]}, "message.weight"),
        ({"messages": [TURN[0], {**TURN[1], "training": False}]}, "message.training"),
    ],
)
def test_rows_marked_as_not_to_be_learnt_are_left_out_with_a_count(tmp_path: Path, bad: Any, column: str) -> None:
    source = loaded(tmp_path / "a.jsonl", [bad, {**BOTH, "label": True, "weight": 1}, bad])
    assert len(source.rows) == 1
    assert source.left_out == {f"marked as not to be learnt ({column})": 2}
    assert len(source.warnings) == 1, "and nothing else is unread"
    assert "'data_source.columns={weight:null}' trains on them too" in source.warnings[0]
    learnt = loaded(tmp_path / "a.jsonl", [bad, {**BOTH}, bad], columns={"weight": None})
    assert (len(learnt.rows), learnt.left_out) == (3, {})


def test_a_weight_column_that_no_row_has_is_refused(tmp_path: Path) -> None:
    records = [{**BOTH, "keep": 0}, BOTH]
    assert len(loaded(tmp_path / "a.jsonl", records, columns={"weight": "keep"}).rows) == 1, (
        "a row without it is learnt"
    )
    with pytest.raises(UserError, match=r"data_source.columns.weight=kept: no such column"):
        loaded(tmp_path / "a.jsonl", records, columns={"weight": "kept"})


def test_a_class_or_a_share_is_no_mark(tmp_path: Path) -> None:
    source = loaded(tmp_path / "a.jsonl", [{**BOTH, "label": 0}, {**BOTH, "label": "no", "weight": 0.5}])
    assert len(source.rows) == 2
    assert source.warnings == ("columns that are not read: label (2 of 2 rows), weight (1 of 2 rows)",)


@pytest.mark.parametrize(
    "later",
    [
        [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}],
        [{"role": "assistant", "content": "And more."}, {"role": "tool", "content": "x"}],
        [{"role": "system", "content": "Now rhyme."}, {"role": "user", "content": "Why?"}],
    ],
)
def test_no_message_is_left_out_without_a_count(tmp_path: Path, later: list[Any]) -> None:
    records = [{"messages": [*TURN, *later]}, {"messages": TURN}]
    with pytest.raises(UserError, match=r"1 of 2 conversations.*data_source.turns=first"):
        loaded(tmp_path / "a.jsonl", records)
    source = loaded(tmp_path / "a.jsonl", records, turns="first")
    assert [row.instruction for row in source.rows] == ["Hi", "Hi"]
    assert source.warnings == (
        "data_source.turns=first: 1 of 2 conversations go on after the first answer; messages not trained on: 2",
    )


@pytest.mark.parametrize(
    "text",
    ["instruction, input, output\nAdd, \"1, 2\", 3\n", " instruction ,input,output \nAdd,\"1, 2\",3\n",
     ",instruction,input,output\n0,Add,\"1, 2\",3\n"],
    ids=["spaces after commas", "spaces around names", "the index of pandas"],
)  # fmt: skip
def test_csv_as_people_and_pandas_write_it(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    source = sources.load(DataSourceConfig(name="mine", path=str(tmp_path / "a.csv")))
    assert [(row.instruction, row.input, row.output) for row in source.rows] == [("Add", "1, 2", "3")]
    assert source.warnings == ()


def test_rows_left_out_by_their_marks_are_counted_in_the_run(command: Callable[..., str], tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", [{"instruction": f"i{n}", "output": "o", "label": n > 2} for n in range(9)])
    command(
        "data_source=json", "data_source.path=a.jsonl", "train.eval_rows=2", "train.max_steps=1",
        "train.global_batch_size=2", "output_dir=run", status=0,
    )  # fmt: skip
    facts = json.loads((tmp_path / "run" / "data.json").read_text())
    assert (facts["rows_in"], facts["rows_trained"], facts["rows_evaluated"]) == (9, 4, 2)
    assert facts["rows_dropped"] == {"marked as not to be learnt (label)": 3}


BAD_FILES: dict[str, tuple[str, bytes, str]] = {
    "truncated gzip": ("a.jsonl.gz", gzip.compress(b'{"instruction": "a", "output": "b"}\n' * 99)[:-20], "cut short"),
    "damaged gzip": ("a.json.gz", gzip.compress(b"[" + b"1," * 999)[:30] + b"\xff" * 30, "damaged"),
    "truncated zst": ("a.jsonl.zst", zstandard.compress(b'{"instruction": "a", "output": "b"}')[:-4], "cut short"),
    "no gzip at all": ("a.json.gz", b'[{"instruction": "a", "output": "b"}]', "not compressed as its name says"),
    "a CSV without a header": ("a.csv", b"Add 1 and 2,3\nSay hi,hi\n", "opens with its header"),
    "a CSV with a short line": ("a.csv", b"instruction,output\na,b\nc\n", "row 2: 1 fields where the header has 2"),
    "a CSV with an open quote": ("a.csv", b'instruction,output\na,"b\n', "line 2: not CSV"),
    "a CSV with a torn header": ("a.csv", b'"instruction"x,output\na,b\n', "line 1: not CSV"),
    "NUL bytes": ("a.jsonl", b'{"instruction": "a", "output": "b"}\n\0\0\0\n', "line 2: a NUL byte"),
    "UTF-16": ("a.csv", "instruction,output\na,b\n".encode("utf-16"), "NUL byte"),
    "Latin-1": ("a.jsonl", '{"instruction": "é", "output": "b"}'.encode("latin-1"), "line 1: not UTF-8 (byte 0xe9)"),
    "a number": ("a.json", b'[{"instruction": "a", "output": "b"}, {"instruction": "a", "output": 7}]',
                 "row 2: 'output' is a number, not text; put it in quotes"),
    "null": ("a.jsonl", b'{"instruction": "a", "output": null}', "'output' is null, not text; leave the row out"),
    "half a character": ("a.jsonl", b'{"instruction": "\\ud83e", "output": "b"}', "holds \\ud83e, half of a character"),
    "an empty file": ("a.json", b"\n", "the file is empty"),
    "an empty list": ("a.json", b"[]", "no rows in it"),
    "one object": ("a.json", b'{\n"a": 1\n}', "one JSON object over many lines"),
    "cut JSON": ("a.json", b'[{"instruction": "a",\n "output": ', "line 2: not JSON"),
    "deep JSON": ("a.jsonl", b"[" * 100_000, "a.jsonl"),
    "no Parquet": ("a.parquet", b"PAR1 nothing PAR1", "not readable as Parquet"),
    "a Git LFS pointer": ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
                          "a Git LFS pointer, not the data itself"),
    "a compressed Git LFS pointer": ("a.jsonl.gz", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
                                     "a Git LFS pointer, not the data itself"),
    "a web page": ("a.jsonl", b"\n<!DOCTYPE html><html><body>Log in</body></html>", "a web page, not data"),
    "a spreadsheet": ("a.csv", b"PK\x03\x04\x14\0\x06\0", "a ZIP archive or spreadsheet"),
    "an escaped NUL": ("a.json", b'[{"instruction": "c", "output": "d"}, {"instruction": "a\\u0000b", "output": "x"}]',
                       "row 2: 'instruction' holds \\u0000"),
    "columns of pandas": ("a.json", b'{"instruction": {"0": "a", "1": "b"}, "output": {"0": "c", "1": "d"}}',
                          "orient='records'"),
    "rows under a name": ("a.json", b'{"data": [{"instruction": "a", "output": "b"}]}', "the rows stand under 'data'"),
    "nothing to learn": ("a.json", b'[{"instruction": "a", "output": ""}, {"instruction": "b", "output": " "}]',
                         "the outputs of all 2 rows are empty"),
    "only bad answers": ("a.jsonl", b'{"prompt": "q", "output": "b", "instruction": "a", "label": false}',
                         "all 1 rows are marked as not to be learnt (label)"),
    "an image": ("a.json", b'[{"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}, '
                           b'{"role": "assistant", "content": "b"}]}]', "message 1 holds a part of type 'image_url'"),
    "a chosen conversation": ("a.json", b'[{"instruction": "q", "output": [{"role": "assistant", "content": "b"}]}]',
                              "'output' is a conversation, not text; 'data_source.columns={messages:COLUMN}'"),
    "a list for a row": ("a.jsonl", b'["a", "b"]\n["c", "d"]\n', "a list where an object"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_one_line_with_its_place(command: Callable[..., str], tmp_path: Path, case: str) -> None:
    name, raw, told = BAD_FILES[case]
    (tmp_path / name).write_bytes(raw)
    error = command("data_source=json", f"data_source.path={name}", "train.eval_rows=0")
    assert name in error
    assert told in error


def test_a_single_line_of_100_mb_is_refused_without_reading_it_as_a_row(
    command: Callable[..., str], tmp_path: Path
) -> None:
    (tmp_path / "a.jsonl").write_bytes(b'{"instruction": "' + b"x" * 100_000_000 + b'", "output": "y"}')
    assert "line 1: 100,000,034 characters on one line" in command("data_source=json", "data_source.path=a.jsonl")
    (tmp_path / "a.csv").write_bytes(b"instruction,output\n" + b"x" * 20_000_000 + b",y\n")
    assert "line 2: not CSV" in command("data_source=json", "data_source.path=a.csv")


def test_parquet_with_nested_columns_is_refused(command: Callable[..., str], tmp_path: Path) -> None:
    written(tmp_path / "a.parquet", [{"instruction": "a", "output": {"text": "b"}}])
    error = command("data_source=json", "data_source.path=a.parquet")
    assert "row 1: 'output' is an object, not text; map another column" in error


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["data_source.path=missing.json"], "missing.json: no such file"),
        (["data_source.path=part*.json"], "part*.json: no such file"),
        (["data_source.path=."], "is a folder; add /*.jsonl"),
        (["data_source.path=7"], "data_source.path=7: a path or a list of paths"),
        (["data_source.path=memory://nowhere/x.json"], "memory://nowhere/x.json: could not be read"),
        (["data_source=json"], "data_source.path is missing"),
        (["data_source=mix"], "data_source.mix={alpaca_52k:3,code_alpaca:1}"),
        (["data_source=seed_tasks", "data_source.fraction=1.5"], "data_source.fraction=1.5: must be at most 1"),
        (["data_source=seed_tasks", "data_source.fraction=0"], "data_source.fraction=0.0: must be above 0"),
        (["data_source=seed_tasks", "data_source.fraktion=1"], "did you mean data_source.fraction?"),
        (["data_source=seed_tasks", "data_source.with_input=never"], "choose one of any, only, without"),
        (["data_source=seed_tasks", "data_source.deduplicate=fuzzy"], "choose one of none, exact, rouge"),
        (["data_source=seed_tasks", "data_source.rouge_threshold=2"], "data_source.rouge_threshold=2"),
        (["data_source=seed_tasks", "data_source.turns=all"], "choose one of single, first"),
        (["data_source=seed_tasks", "data_source.limit=0"], "must be at least 1"),
        (["data_source=seed_tasks", "data_source.columns={output:answer}"],
         "data_source.columns.output=answer: no such column; it has id, category, instruction, input, output"),
        (["data_source=seed_tasks", "data_source.columns={answer:output}"], "columns.answer: no such field"),
        (["data_source=seed_tasks", "data_source.columns={output:null}"], "give the name of a column"),
        (["data_source=seed_tasks", "data_source.filter.min_output=9", "data_source.filter.max_output=8"],
         "data_source.filter.min_output=9 is above max_output=8"),
        (["data_source=seed_tasks", "data_source.filter.min_output=99999"], "none of 165 rows is left"),
        (["data_source=seed_tasks", "train.eval_rows=175"], "only 175 distinct tasks"),
        (["data_source=mix", "data_source.mix={seed_taks:1}"], "no such source; did you mean seed_tasks?"),
        (["data_source=mix", "data_source.mix={seed_tasks:0}"], "data_source.mix.seed_tasks=0.0: a share is above 0"),
        (["data_source=mix", "data_source.mix={json:1}"], "data_source.mix.json: it has no path"),
        (["data_source=mix", "data_source.mix={seed_tasks:1}", "data_source.sources.seed_tasks.limit=5"],
         "set data_source.limit for the whole mix"),
        (["data_source=mix", "data_source.mix={seed_tasks:1}", "data_source.path=a.json"], "reads its parts only"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_one_line_that_names_it(command: Callable[..., str], arguments: list[str], told: str) -> None:
    source = [] if any(argument.startswith("data_source=") for argument in arguments) else ["data_source=json"]
    assert told in command(*source, "train.eval_rows=10", *[a for a in arguments if "eval_rows" not in a], *[
        a for a in arguments if "eval_rows" in a])  # fmt: skip


def test_a_hub_id_that_cannot_be_had_is_one_line(command: Callable[..., str], monkeypatch: pytest.MonkeyPatch) -> None:
    error = command("data_source=hub", "data_source.path=hub:nobody-at-all/no-such-rows-here")
    assert "data_source.path=hub:nobody-at-all/no-such-rows-here: " in error
    assert "write hub:OWNER/NAME" in command("data_source=hub", "data_source.path=hub:a/b/c/d")


def test_a_source_that_changed_under_its_name_is_told_once(own_cache: Path) -> None:
    assert hub.change_note("hub:a/b", "c1", "1" * 64) is None
    assert hub.change_note("hub:a/b", "c1", "1" * 64) is None
    assert hub.change_note("hub:a/other", "c1", "2" * 64) is None
    note = hub.change_note("hub:a/b", "c2", "2" * 64)
    assert note is not None
    assert "hub:a/b has changed since" in note
    assert "data_source.revision=c1 gives the earlier rows" in note
    assert hub.change_note("hub:a/b", "c2", "2" * 64) is None
    for file in (own_cache / "sources").glob("*.json"):
        file.write_text("damaged")
    assert hub.change_note("hub:a/b", "c3", "3" * 64) is None


def test_a_url_whose_rows_changed_is_warned_of(own_cache: Path) -> None:
    def loaded(text: str) -> tuple[str, ...]:
        with fsspec.open("memory://changing/rows.jsonl", "w") as stream:
            stream.write(json.dumps({"instruction": text, "output": "o"}))
        return sources.load(DataSourceConfig(name="m", path="memory://changing/rows.jsonl")).warnings

    assert loaded("a") == ()
    assert loaded("a") == ()
    assert "has changed since" in loaded("b")[0]
    assert loaded("b") == ()


def composed(*overrides: str) -> Config:
    """A checked config."""
    cli.register()
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        return cli.typed(compose("config", overrides=["model=tiny", *overrides]))


SOURCES = sorted(file.stem for file in (paths.conf_dir() / "data_source").glob("*.yaml"))


@pytest.mark.parametrize("name", SOURCES)
def test_every_source_composes_with_licence_and_note(name: str) -> None:
    config = composed(f"data_source={name}", "data_source.limit=3")
    assert config.data_source.name == name
    assert config.data_source.license_note
    assert bool(config.data_source.license) != (name == "mix")
    assert (config.data_source.license == UNKNOWN) == (name in ("hub", "json", "self_instruct"))
    if name not in ("hub", "json", "mix"):
        check(config)


def test_there_are_twelve_sources() -> None:
    assert len(SOURCES) == 12


def test_a_mix_reads_each_part_and_keeps_its_licence(tmp_path: Path) -> None:
    written(tmp_path / "a.jsonl", [{"q": f"question {number}", "a": "x"} for number in range(40)])
    config = composed(
        "data_source=mix",
        "data_source.mix={seed_tasks:1,json:2}",
        f"data_source.sources.json.path={tmp_path}/a.jsonl",
        "data_source.sources.json.columns={instruction:q,output:a}",
    )
    check(config)
    source = sources.load(config.data_source)
    assert [(part.name, part.rows, part.license) for part in source.parts] == [
        ("json", 40, "unknown"),
        ("seed_tasks", 175, "Apache-2.0"),
    ]
    assert {row.source for row in source.rows} == {"json", "seed_tasks"}
    before = signature(config)
    config.data_source.sources["json"]["license_note"] = "other words"
    assert signature(config) == before
    (tmp_path / "a.jsonl").write_text((tmp_path / "a.jsonl").read_text().replace("question 7", "question seven"))
    assert signature(config) != before


def test_a_file_that_is_there_is_read_whatever_its_name(tmp_path: Path):
    assert load(written(tmp_path / "a::b.json")) == ROWS
    assert load(tmp_path / "a::*.json") == ROWS, "a pattern is looked for here too"
    with pytest.raises(UserError, match=r"a::c\.json: no such file"):
        load(tmp_path / "a::c.json")
