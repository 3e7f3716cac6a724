"""Instruction sets: shipped, fetched, from files; and the safety requests."""

import json
import threading
from collections import Counter
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from alpaca.config import GenerateConfig, SafetyConfig
from alpaca.data.rows import example_id
from alpaca.data.split import split
from alpaca.errors import UserError
from alpaca.evaluation import instruction_sets
from alpaca.evaluation.refusals import refuses
from alpaca.evaluation.safety import BORDERLINE, HARMFUL, requests

ALPACA_EVAL = [
    {"dataset": "koala", "instruction": f"Question {n}?", "output": "an answer", "generator": "baseline"}
    for n in range(805)
]


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[str]]:
    """A hub on this machine with AlpacaEval's file; gives the paths that were asked for."""
    asked: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            body = json.dumps(ALPACA_EVAL).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setenv("ALPACA_CACHE", str(tmp_path / "cache"))
    yield asked
    server.shutdown()
    server.server_close()


def test_the_seed_holdout_is_held_out_by_every_run_over_the_seed_tasks():
    rows = instruction_sets.load(GenerateConfig(instructions="seed_holdout"), None).rows
    assert len(rows) == 32
    assert all(row.output for row in rows)
    every = list(instruction_sets.rows_of(str(Path("alpaca/data/seed_tasks.jsonl").absolute())))
    for eval_rows in (32, 64):
        held_out = {example_id(row) for row in split(every, eval_rows).held_out}
        assert {example_id(row) for row in rows} <= held_out


def test_a_published_set_is_fetched_once_and_then_taken_from_the_cache(hub: list[str]):
    settings = GenerateConfig(instructions="alpaca_eval_805", rows=3)
    first = instruction_sets.load(settings, None)
    again = instruction_sets.load(settings, None)
    assert hub == ["/datasets/tatsu-lab/alpaca_eval/resolve/main/alpaca_eval.json"]
    assert first == again
    assert first.warnings == ()
    assert [row.instruction for row in first.rows] == ["Question 0?", "Question 1?", "Question 2?"]
    assert {row.category for row in first.rows} == {"koala"}


def test_without_network_a_published_set_is_one_line_with_the_way_out(monkeypatch, tmp_path: Path):
    monkeypatch.setenv("ALPACA_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(UserError, match=r"could not be fetched \(.*refused.*\); .*evaluation.generate.path=FILE"):
        instruction_sets.load(GenerateConfig(instructions="alpaca_eval_805"), None)
    assert not list(tmp_path.rglob("*.json"))


@pytest.mark.parametrize(
    ("name", "record", "row"),
    [
        (
            "user_252",
            {"id": "user_oriented_task_0", "motivation_app": "Mail", "instruction": "Make it polite.",
             "instances": [{"input": "Come.", "output": "Would you come?"}]},
            ("Make it polite.", "Come.", "Would you come?", "Mail"),
        ),
        (
            "vicuna_80",
            {"question_id": 1, "category": "generic", "turns": ["How do I rest?"]},
            ("How do I rest?", "", "", "generic"),
        ),
        ("vicuna_80", {"question_id": 1, "text": "How?", "category": "c"}, ("How?", "", "", "c")),
        ("file", {"instruction": "Add", "input": "1 2", "output": "3"}, ("Add", "1 2", "3", "")),
        ("file", {"prompt": "Say hi", "reference": "hi"}, ("Say hi", "", "hi", "")),
    ],
)  # fmt: skip
def test_local_copies_of_every_known_form_become_rows(name: str, record: dict, row: tuple, tmp_path: Path):
    file = tmp_path / "set.jsonl"
    file.write_text(json.dumps(record) + "\n")
    found = instruction_sets.load(GenerateConfig(instructions=name, path=str(file)), None)
    (only,) = found.rows
    assert (only.instruction, only.input, only.output, only.category) == row
    assert bool(found.warnings) == (name != "file"), "one task is not the published set"


def test_a_task_that_comes_twice_is_asked_once(tmp_path: Path):
    file = tmp_path / "set.json"
    file.write_text(json.dumps([{"instruction": "Say hi"}, {"instruction": "say  HI"}, {"instruction": "Go"}]))
    found = instruction_sets.load(GenerateConfig(instructions="file", path=str(file)), None)
    assert [row.instruction for row in found.rows] == ["Say hi", "Go"]
    assert "1 repeated" in found.warnings[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"answer": "no"}', r"line 1: no instruction in it \(it has answer\)"),
        ('{"instruction": "yes"}\n{"instruction": 3}', r"line 2: no instruction"),
        ('["a"]', r"not an object"),
        ('{"instruction"', r"line 1: not JSON"),
    ],
)
def test_a_file_that_is_no_instruction_set_is_named_with_its_line(text: str, message: str, tmp_path: Path):
    file = tmp_path / "set.jsonl"
    file.write_text(text)
    with pytest.raises(UserError, match=message):
        instruction_sets.load(GenerateConfig(instructions="file", path=str(file)), None)


def test_the_safety_requests_are_well_formed():
    rows = requests(SafetyConfig())
    kinds = Counter(row.source for row in rows)
    assert kinds[HARMFUL] == kinds[BORDERLINE] == 24
    assert len({example_id(row) for row in rows}) == len(rows)
    for row in rows:
        assert row.instruction.strip() == row.instruction
        assert 4 <= len(row.instruction.split()) <= 25, "a plain short request, nothing more"
        assert row.instruction[-1] in ".?"
        assert not row.input
        assert not row.output
        assert not refuses(row.instruction)
    topics = {kind: {row.category for row in rows if row.source == kind} for kind in kinds}
    assert topics[HARMFUL] == topics[BORDERLINE], "each topic has both kinds, or the rates do not compare"


def test_fewer_safety_requests_are_fewer_of_each_kind():
    assert Counter(row.source for row in requests(SafetyConfig(rows=2))) == {HARMFUL: 2, BORDERLINE: 2}
