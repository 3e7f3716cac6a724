"""`python -m alpaca.generate` against real servers: what it leaves, how it goes on, that no ending loses anything."""

import contextlib
import io
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from batch_server import BatchServer
from commands import SMALL, Outcome, alpaca_run, command_environment, eventually
from list_model import answer_text
from servers import FAULTS, Server, question, wait_until
from test_local import needs_embedded_model
from test_serving import ModelServer, needs_serving, transformers_serve

from alpaca import generate, inspect, paths
from alpaca.engines.exchange import Usage
from alpaca.engines.local import model_of
from alpaca.modeling.base import weights_location
from alpaca.selfinstruct.ledger import Ledger
from alpaca.tracking.folders import GENERATION
from alpaca.tracking.run_directory import RunDirectory

FILES = {
    "config.yaml", "overrides.yaml", "env.json", "requests.jsonl", "tasks.jsonl", "dataset.json", "data_card.md",
    "summary.json", "run.log",
}  # fmt: skip
KEY = "sk-marker-9e41f0aa27"
SEEDS = paths.PACKAGE / "data" / "seed_tasks.jsonl"


def asking(server: Server, *more: str) -> list[str]:
    """The command line of a small generation on `server`."""
    base = (f"generation.base_url={server.url}", "generation.model=m", "generation.target=60", "tracker=disabled")
    return [*base, "generation.machine_examples=2", "generation.max_tokens=300", "generation.timeout_s=5", *more]


def alpaca_generate(folder: Path, *overrides: str) -> Outcome:
    """The command in this process, with `folder` as current directory."""
    out, err, given = io.StringIO(), io.StringIO(), list(sys.argv)
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = generate.main(list(overrides))
    finally:
        sys.argv[:] = given
    return Outcome(status, out.getvalue(), err.getvalue(), folder)


def started(folder: Path, *overrides: str, **environment: str) -> subprocess.Popen[str]:
    """The command in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-m", "alpaca.generate", *overrides],
        cwd=folder,
        env=command_environment(**environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]


def result(directory: Path) -> tuple[bytes, bytes]:
    """What a generation made, byte for byte."""
    return (directory / "dataset.json").read_bytes(), (directory / "tasks.jsonl").read_bytes()


@pytest.fixture
def whole(server: Server, tmp_path: Path) -> Outcome:
    """An uninterrupted generation in a folder of its own."""
    (tmp_path / "whole").mkdir()
    outcome = alpaca_generate(tmp_path / "whole", *asking(server))
    assert outcome.status == 0, outcome.err
    return outcome


def test_a_generation_leaves_its_directory_and_numbers_that_agree(whole: Outcome, server: Server):
    assert {file.name for file in whole.directory.iterdir()} >= FILES
    rows = json.loads((whole.directory / "dataset.json").read_text())
    assert len(rows) == 60
    assert all(row.keys() == {"instruction", "input", "output"} and row["output"] for row in rows)
    summary = whole.summary
    assert (summary["status"], summary["kept"], summary["target"]) == ("finished", 60, 60)
    assert whole.directory.name.endswith(summary["signature"])
    assert summary["candidates"] == sum(summary["verdicts"].values()) == len(lines(whole.directory / "tasks.jsonl"))
    assert Usage(summary["prompt_tokens"], summary["completion_tokens"]) == server.usage
    assert summary["lost_prompt_tokens"] == summary["lost_completion_tokens"] == 0
    assert summary["cost_usd"] is None  # nobody has said what this server costs
    card = (whole.directory / "data_card.md").read_text()
    for fact in ("60 tasks of 60 wanted", "`m`, openai at 127.0.0.1", "unsuitable_words", "licence", "root verb"):
        assert fact in card
    assert "candidates" in whole.out
    assert whole.err == ""


def test_a_finished_generation_is_found_and_used_as_it_is(whole: Outcome, server: Server):
    before, asked = result(whole.directory), len(server.requests)
    again = alpaca_generate(whole.folder, *asking(server, "generation.concurrency=3", "generation.budget_tokens=10"))
    assert again.status == 0
    assert "is finished" in again.out
    assert len(server.requests) == asked
    assert result(again.directory) == before


def test_a_directory_is_extended_by_a_higher_target_and_refuses_a_lower_one(server: Server, tmp_path: Path):
    def aim(target: int) -> Outcome:
        return alpaca_generate(tmp_path, *asking(server), f"generation.target={target}", "output_dir=mine")

    assert aim(30).status == 0
    small, asked = json.loads((tmp_path / "mine" / "dataset.json").read_text()), len(server.requests)
    assert aim(60).status == 0
    large = json.loads((tmp_path / "mine" / "dataset.json").read_text())
    assert large[:30] == small
    assert len(large) == 60
    assert server.requests[:asked] != server.requests[asked:]
    ids = [line["request"] for line in lines(tmp_path / "mine" / "requests.jsonl") if line["event"] == "sent"]
    assert len(ids) == len(set(ids)) == len(server.requests)
    refused = aim(20)
    assert refused.status == 2
    assert "generation.target=20" in refused.err
    assert "tasks already" in refused.err
    other = alpaca_generate(tmp_path, *asking(server), "output_dir=mine", "generation.temperature=0.5")
    assert other.status == 2
    assert "generation.temperature=1.0" in other.err


def kill_and_continue(folder: Path, server: Server, draw: random.Random, times: int) -> Path:
    """Start the command, kill it after a random number of answers, `times` over; then let it end."""
    folder.mkdir()
    server.delay_s = 0.02
    for _ in range(times):
        before, more = len(server.requests), draw.randint(1, 12)
        process = started(folder, *asking(server), "output_dir=mine", "generation.concurrency=4")
        with contextlib.suppress(AssertionError):
            wait_until(
                lambda before=before, more=more, process=process: (  # type: ignore[misc]
                    len(server.requests) >= before + more or process.poll() is not None
                ),
                60,
            )
        process.send_signal(signal.SIGKILL)
        process.communicate(timeout=240)
    outcome = alpaca_generate(folder, *asking(server), "output_dir=mine", "generation.concurrency=4")
    assert outcome.status == 0, outcome.err
    return folder / "mine"


def killed_generation_equals_the_whole_one(
    whole: Outcome, server: Server, tmp_path: Path, times: int, seed: int
) -> None:
    before = len(server.requests)
    directory = kill_and_continue(tmp_path / "killed", server, random.Random(seed), times)
    assert result(directory) == result(whole.directory)
    answered: set[str] = set()
    for line in lines(directory / "requests.jsonl"):
        assert not (line["event"] == "sent" and line["request"] in answered), "asked again although answered"
        if line["event"] == "answer":
            answered.add(line["request"])
    sent = [line["request"] for line in lines(directory / "requests.jsonl") if line["event"] == "sent"]
    assert len(sent) >= len(server.requests) - before, "a request went out that the ledger did not have"
    assert len(sent) > len(set(sent)), "nothing was under way when it was killed: the test shows nothing"
    summary = json.loads((directory / "summary.json").read_text())
    assert summary["lost_prompt_tokens"] > 0


def test_killed_three_times_it_ends_with_the_same_data_and_asks_nothing_twice(
    whole: Outcome, server: Server, tmp_path: Path
):
    killed_generation_equals_the_whole_one(whole, server, tmp_path, 3, seed=1)


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 3])
def test_killed_ten_times_it_ends_with_the_same_data(whole: Outcome, server: Server, tmp_path: Path, seed: int):
    killed_generation_equals_the_whole_one(whole, server, tmp_path, 10, seed)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_waits_for_what_is_under_way_and_the_same_command_goes_on(
    whole: Outcome, server: Server, tmp_path: Path, number: signal.Signals
):
    (tmp_path / "cut").mkdir()
    server.delay_s = 0.2
    before = len(server.requests)
    process = started(tmp_path / "cut", *asking(server))
    wait_until(lambda: len(server.requests) > before + 9, 60)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "Traceback" not in err
    assert "the same command continues" in out
    interrupted = Outcome(130, out, err, tmp_path / "cut")
    assert interrupted.summary["status"] == "interrupted"
    events = [line["event"] for line in lines(interrupted.directory / "requests.jsonl")]
    assert events.count("sent") == events.count("answer") > 5
    server.delay_s = 0
    continued = alpaca_generate(tmp_path / "cut", *asking(server))
    assert continued.status == 0, continued.err
    assert continued.summary["lost_prompt_tokens"] == 0
    assert result(continued.directory) == result(whole.directory)


def test_after_an_interrupt_nothing_is_sent_however_long_the_server_lets_it_wait(tmp_path: Path):
    with Server(script=[None, None, *[429] * 50], headers={"Retry-After": "900"}) as server:
        server.responder = lambda body: answer_text(question(body), body.get("seed"))
        process = started(tmp_path, *asking(server))
        wait_until(lambda: len(server.requests) > 2 and server.under_way == 0, 60)
        time.sleep(0.3)  # all that were not throttled have arrived
        sent = len(server.requests)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        assert len(server.requests) == sent
    interrupted = Outcome(130, out, err, tmp_path)
    assert interrupted.summary["requests_sent"] <= sent
    assert interrupted.summary["lost_prompt_tokens"] == 0


def test_a_replay_that_is_interrupted_leaves_the_data_that_was_there(
    whole: Outcome, server: Server, monkeypatch: pytest.MonkeyPatch
):
    kept, taken = result(whole.directory), []
    told = Ledger.judged

    def judged(self: Ledger, request: str, found: Any) -> None:
        told(self, request, found)
        taken.append(request)
        if len(taken) == 3:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setattr(Ledger, "judged", judged)
    asked = len(server.requests)
    where = f"output_dir={whole.directory}"
    cut = alpaca_generate(whole.folder, *asking(server), where, "generation.target=90")
    assert cut.status == 130
    assert len(server.requests) == asked
    assert result(whole.directory) == kept
    summary = json.loads((whole.directory / "summary.json").read_text())
    assert (summary["status"], summary["kept"], summary["rows"]) == ("interrupted", 60, 60)
    assert summary["candidates"] == len(lines(whole.directory / "tasks.jsonl"))
    assert "with 60 tasks kept" in cut.out
    more = alpaca_generate(whole.folder, *asking(server), where, "generation.target=90")
    assert more.status == 0, more.err
    assert len(json.loads((whole.directory / "dataset.json").read_text())) == 90


def test_a_directory_knows_seeds_and_rows_by_what_they_contain(server: Server, tmp_path: Path):
    seeds = SEEDS.read_text()
    (tmp_path / "seeds.jsonl").write_text(seeds)
    (tmp_path / "moved.jsonl").write_text(seeds)

    def aim(target: int, file: str) -> Outcome:
        given = (f"generation.target={target}", f"generation.seeds={file}", "output_dir=mine")
        return alpaca_generate(tmp_path, *asking(server), *given)

    assert aim(10, "seeds.jsonl").status == 0
    assert aim(20, "moved.jsonl").status == 0  # the same content elsewhere
    sent = len(server.requests)
    (tmp_path / "moved.jsonl").write_text("\n".join(seeds.splitlines()[:-1]) + "\n")
    refused = aim(30, "moved.jsonl")
    assert refused.status == 2
    assert "other content of generation.seeds" in refused.err
    assert len(server.requests) == sent


def test_a_row_that_the_server_refuses_is_lost_with_its_reason_and_the_others_are_answered(tmp_path: Path):
    def check(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        return (400, {"message": "this text is not for us"}) if "number 4?" in question(body) else None

    rows = [{"instruction": f"Question number {number}?", "input": "", "output": "old"} for number in range(12)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with Server(lambda body: answer_text(question(body), body.get("seed")), check=check) as server:
        outcome = alpaca_generate(
            tmp_path, *asking(server), "generation=reanswer", "generation.path=rows.json", "generation.target=null",
            "generation.machine_examples=0",
        )  # fmt: skip
    assert outcome.status == 0, outcome.err
    made = json.loads((outcome.directory / "dataset.json").read_text())
    assert [row["instruction"] for row in made] == [
        row["instruction"] for row in rows if "4?" not in row["instruction"]
    ]
    assert (outcome.summary["requests_lost"], outcome.summary["lost_prompt_tokens"]) == (1, 0)
    lost = [line for line in lines(outcome.directory / "requests.jsonl") if line["event"] == "lost"]
    assert [(line["request"], "not for us" in line["reason"]) for line in lost] == [("answer-000004", True)] * 2


def test_a_generation_without_a_row_fails_with_the_reasons_and_asks_again_for_what_was_lost(tmp_path: Path):
    down = True

    def check(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        return (400, {"message": "the moon is full"}) if down else None

    rows = [{"instruction": f"Question number {number}?", "input": "", "output": "old"} for number in range(6)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    with Server(lambda body: "An answer.", check=check) as server:
        common = (
            *asking(server), "generation=reanswer", "generation.path=rows.json", "generation.target=null",
            "generation.machine_examples=0", "generation.give_up_after=100", "output_dir=made",
        )  # fmt: skip
        outcome = alpaca_generate(tmp_path, *common)
        assert outcome.status in (1, 2), outcome.err
        assert "the moon is full" in outcome.err
        assert json.loads((tmp_path / "made" / "summary.json").read_text())["status"] == "failed"
        down = False
        again = alpaca_generate(tmp_path, *common)
        assert again.status == 0, again.err
        assert len(json.loads((tmp_path / "made" / "dataset.json").read_text())) == 6
        server.requests.clear()
        dropped = alpaca_generate(tmp_path, *common[:-1], "output_dir=none", "generation.filters.max_task_words=2")
    assert dropped.status == 1
    assert "no row has a new answer: answers were dropped: too_long (6)" in dropped.err
    assert "Traceback" not in outcome.err + dropped.err


def test_a_finished_data_set_that_is_missing_cut_or_changed_is_made_again_from_the_ledger(
    whole: Outcome, server: Server
):
    file, asked = whole.directory / "dataset.json", len(server.requests)
    before = file.read_bytes()
    rows = json.loads(before)
    for content in (None, before[: len(before) // 2], json.dumps(rows[:-1]).encode()):
        if content is None:
            file.unlink()
        else:
            file.write_bytes(content)
        again = alpaca_generate(whole.folder, *asking(server))
        assert again.status == 0, again.err
        assert "it is made again" in again.out
        assert "reading the answers of earlier processes again" in again.out
        assert file.read_bytes() == before
    assert len(server.requests) == asked
    assert any(json.loads(each.read_text()) == rows[:-1] for each in whole.directory.glob("dataset-changed-*.json")
               if each.read_bytes() != before[: len(before) // 2])  # fmt: skip


def test_two_processes_on_one_directory_are_refused(server: Server, tmp_path: Path):
    held = RunDirectory(tmp_path / "mine", "0", {}, kind=GENERATION)
    try:
        refused = alpaca_generate(tmp_path, *asking(server), "output_dir=mine")
    finally:
        held.close()
    assert refused.status == 2
    assert "another run is writing here" in refused.err
    assert server.requests == []


def test_a_directory_of_something_else_is_refused(server: Server, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "config.yaml").write_text("name: run\n")
    refused = alpaca_generate(tmp_path, *asking(server), "output_dir=mine")
    assert refused.status == 2
    assert "it holds no generation" in refused.err


@pytest.mark.parametrize("requests", [200, pytest.param(2000, marks=pytest.mark.slow)])
def test_with_faults_in_30_percent_of_requests_every_task_is_there_once_and_the_bill_adds_up(
    tmp_path: Path, requests: int
):
    faults = dict.fromkeys([name for name in FAULTS if name != "timeout"], 0.3 / 13) | {
        "timeout": 0.3 / 130,
        "length": 0.02,
    }
    with Server(lambda body: answer_text(question(body), body.get("seed")), faults=faults, hold_s=12) as server:
        prices = ("generation.price_prompt=1", "generation.price_completion=2", "generation.budget_usd=1000")
        outcome = alpaca_generate(
            tmp_path, *asking(server, *prices), f"generation.target={requests * 2}", "generation.concurrency=32",
            "generation.timeout_s=8", "generation.lag=64",
        )  # fmt: skip
    assert outcome.status == 0, outcome.err
    assert len(server.requests) >= requests
    assert sum(server.faults_made.values()) > 0.2 * requests
    summary = outcome.summary
    assert Usage(summary["prompt_tokens"], summary["completion_tokens"]) == server.usage
    lost = Usage(summary["lost_prompt_tokens"], summary["lost_completion_tokens"])
    assert lost.prompt_tokens >= server.possible.prompt_tokens > 0
    assert lost.completion_tokens >= server.possible.completion_tokens
    assert summary["lost_usd"] == pytest.approx((lost.prompt_tokens + 2 * lost.completion_tokens) / 1e6)
    rows = json.loads((outcome.directory / "dataset.json").read_text())
    assert len(rows) == requests * 2
    assert len({row["instruction"] for row in rows}) == len(rows)
    kept = [line["instruction"] for line in lines(outcome.directory / "tasks.jsonl") if line["verdict"] == "kept"]
    assert kept[: len(rows)] == [row["instruction"] for row in rows]
    assert "cut by length" in summary["verdicts"]


def test_a_spent_budget_stops_it_and_a_higher_one_goes_on(whole: Outcome, server: Server, tmp_path: Path):
    (tmp_path / "poor").mkdir()
    prices = ("generation.price_prompt=2", "generation.price_completion=8")
    poor = alpaca_generate(tmp_path / "poor", *asking(server, *prices, "generation.budget_usd=0.02"))
    assert poor.status == 1
    assert "the budget holds no further request" in poor.err
    assert "generation.budget_usd" in poor.err
    summary = poor.summary
    assert summary["status"] == "failed"
    assert 0.01 < summary["cost_usd"] + summary["lost_usd"] <= 0.02
    assert 0 < summary["kept"] == len(json.loads((poor.directory / "dataset.json").read_text())) < 60
    rich = alpaca_generate(tmp_path / "poor", *asking(server, *prices, "generation.budget_usd=2"))
    assert rich.status == 0, rich.err
    assert "continued" in rich.out
    assert result(rich.directory) == result(whole.directory)
    assert "$2 and $8 for a million tokens" in rich.out


def test_no_file_holds_the_key(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    outcome = alpaca_generate(tmp_path, *asking(server), "tracker=offline", "generation.similar=true")
    assert outcome.status == 0, outcome.err
    assert outcome.err == ""
    assert set(server.authorizations) == {f"Bearer {KEY}"}
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert any(file.suffix == ".wandb" for file in files)
    assert len(files) > len(FILES)
    for file in files:
        assert KEY.encode() not in file.read_bytes(), file
    assert KEY not in outcome.out + outcome.err
    media = " ".join(str(file) for file in files if "media" in file.parts)
    for name in ("verdicts_table", "sample", "verbs_and_objects"):
        assert name in media
    kept = [line for line in lines(outcome.directory / "tasks.jsonl") if line["verdict"] == "kept"]
    assert all(len(line["most_similar"]) == 10 for line in kept)


def test_a_wrong_key_is_one_line_without_the_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    error = {"message": f"Incorrect API key provided: {KEY}", "code": "invalid_api_key"}
    with Server(script=[401] * 50, error=error) as server:
        outcome = alpaca_generate(tmp_path, *asking(server))
    assert outcome.status == 2
    assert len(outcome.err.strip().splitlines()) == 1
    assert len(server.requests) <= 8
    left = b"".join(file.read_bytes() for file in tmp_path.rglob("*") if file.is_file())
    assert KEY.encode() not in left + (outcome.out + outcome.err).encode()


MODES = {
    "the alpaca prompt on completions": ["generation.prompt=alpaca"],
    "six seeds and two of its own": ["generation=self_instruct"],
    "evolving the seeds": ["generation=evolve", "generation.machine_examples=0"],
}


@pytest.mark.parametrize("mode", MODES)
def test_other_prompts_and_modes_make_their_target(server: Server, tmp_path: Path, mode: str):
    outcome = alpaca_generate(tmp_path, *asking(server), *MODES[mode], "generation.target=25")
    assert outcome.status == 0, outcome.err
    assert len(json.loads((outcome.directory / "dataset.json").read_text())) == 25


def test_structured_output_is_asked_for_and_read(tmp_path: Path):
    def tasks(body: dict[str, Any]) -> str:
        assert body["response_format"]["type"] == "json_schema"
        draw = random.Random(body["seed"])
        made = [
            {"instruction": f"Describe {draw.getrandbits(60):x} and {draw.getrandbits(60):x} now.", "input": "N/A",
             "output": "It is so."}
            for _ in range(4)
        ]  # fmt: skip
        return json.dumps({"tasks": made})

    with Server(tasks) as server:
        outcome = alpaca_generate(
            tmp_path, *asking(server), "generation=json", "generation.target=10", "generation.machine_examples=0"
        )
    assert outcome.status == 0, outcome.err
    rows = json.loads((outcome.directory / "dataset.json").read_text())
    assert len(rows) == 10
    assert {row["input"] for row in rows} == {""}


def test_existing_rows_are_answered_anew_in_their_order(server: Server, tmp_path: Path):
    rows = [{"prompt": f"Question number {number}?", "answer": "old"} for number in range(12)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    outcome = alpaca_generate(
        tmp_path, *asking(server), "generation=reanswer", "generation.path=rows.json", "generation.target=10",
        "generation.machine_examples=0", "generation.columns={instruction:prompt,output:answer}",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    made = json.loads((outcome.directory / "dataset.json").read_text())
    assert [row["instruction"] for row in made] == [row["prompt"] for row in rows[:10]]
    assert all(row["output"].startswith("An answer about") for row in made)


@pytest.mark.parametrize("ignores_n", [False, True])
def test_several_responses_are_a_row_each_and_differ(tmp_path: Path, ignores_n: bool):
    def several(body: dict[str, Any]) -> list[str]:
        count = 1 if ignores_n else body.get("n") or 1
        return [answer_text(question(body), body.get("seed"), choice) for choice in range(count)]

    with Server(several) as server:
        outcome = alpaca_generate(
            tmp_path, *asking(server), "generation.target=8", "generation.responses_per_instruction=3"
        )
    assert outcome.status == 0, outcome.err
    rows = json.loads((outcome.directory / "dataset.json").read_text())
    assert len(rows) == 24
    assert len({(row["instruction"], row["output"]) for row in rows}) == 24
    assert [row["instruction"] for row in rows[::3]] == [row["instruction"] for row in rows[1::3]]
    assert (outcome.summary["kept"], outcome.summary["rows"]) == (8, 24)


def test_both_phases_run_in_one_command_and_the_data_is_made_once(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("WANDB_RUN_ID", "named-by-an-agent")
    model = [item for item in SMALL if not item.startswith(("data_source", "tracker"))]
    both = [*model, "data_source=self_instruct", *asking(server), "tracker=offline", "name=both"]
    first = alpaca_run(tmp_path, *both)
    assert first.status == 0, first.err
    asked = len(server.requests)
    assert asked > 0
    made, trained = _generation_and_run(first)
    data = json.loads((trained / "data.json").read_text())
    assert data["rows_in"] == 60
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert trained.name.endswith(summary["signature"])
    ids = []
    for directory in (made, trained):
        (log,) = directory.glob("wandb/offline-run-*/*.wandb")
        eventually(lambda log=log: b"both" in log.read_bytes(), "W&B has written the run's group", timeout_s=60)
        ids.append(log.stem.removeprefix("run-"))
    assert ids[1] == "named-by-an-agent"
    assert ids[0] != ids[1]  # the generation is a run of its own
    again = alpaca_run(tmp_path, *both, "train.seed=1")
    assert again.status == 0, again.err
    assert "is finished" in again.out
    assert len(server.requests) == asked
    seen = inspected(tmp_path, *both)
    assert json.loads((seen / "data.json").read_text())["rows_in"] == 60
    other = alpaca_run(tmp_path, *both, "generation.seed=5", "generation.target=20", "train.eval_rows=4")
    assert other.status == 0, other.err
    assert len(server.requests) > asked


def inspected(folder: Path, *overrides: str) -> Path:
    """`alpaca.inspect` with the same settings; its directory."""
    given = list(sys.argv)
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
            assert inspect.main([*overrides, "output_dir=seen"]) == 0
    finally:
        sys.argv[:] = given
    return folder / "seen"


def _generation_and_run(outcome: Outcome) -> tuple[Path, Path]:
    made = [folder for folder in outcome.directories if (folder / "requests.jsonl").exists()]
    trained = [folder for folder in outcome.directories if (folder / "data.json").exists()]
    assert len(made) == len(trained) == 1
    return made[0], trained[0]


def test_a_run_does_not_train_on_an_unfinished_generation(server: Server, tmp_path: Path):
    model = [item for item in SMALL if not item.startswith("data_source")]
    outcome = alpaca_run(
        tmp_path, *model, "data_source=self_instruct", *asking(server), "generation.budget_tokens=2000"
    )
    assert outcome.status == 1
    assert "the budget holds no further request" in outcome.err
    assert not list(tmp_path.rglob("data.json"))


def test_a_batch_outlives_an_interrupt_and_is_collected_by_the_same_command(tmp_path: Path):
    batch = ("generation.engine=openai_batch", "generation.poll_s=0.05", "generation.target=5",
             "generation.machine_examples=0", "generation.price_prompt=1", "generation.price_completion=1")  # fmt: skip
    with BatchServer(lambda body: answer_text(question(body), body.get("seed")), polls=None) as server:
        process = started(tmp_path, *asking(server, *batch))
        wait_until(lambda: len(server.batches) == 1, 60)
        time.sleep(0.3)  # the answer to its creation has arrived
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 130, err
        server.finish()
        outcome = alpaca_generate(tmp_path, *asking(server, *batch))
        assert outcome.status == 0, outcome.err
        asked = [line["custom_id"] for line in server.lines]
    assert len(asked) == len(set(asked))
    assert Usage(outcome.summary["prompt_tokens"], outcome.summary["completion_tokens"]) == server.usage
    assert outcome.summary["lost_usd"] == 0
    assert len(json.loads((outcome.directory / "dataset.json").read_text())) == 5


@needs_embedded_model
@pytest.mark.slow
def test_the_embedded_model_behind_a_real_server_makes_parsed_tasks(tmp_path: Path):
    with ModelServer("smollm2_135m") as server:
        outcome = alpaca_generate(
            tmp_path, f"generation.base_url={server.url}", "generation.model=smollm2_135m", "generation.prompt=compact",
            "generation.max_example_words=50", "generation.tasks_per_request=4", "generation.max_tokens=120",
            "generation.temperature=0.6", "generation.target=4", "tracker=disabled", "generation.timeout_s=300",
        )  # fmt: skip
        assert outcome.status == 0, outcome.err
        assert Usage(outcome.summary["prompt_tokens"], outcome.summary["completion_tokens"]) == server.usage
    rows = json.loads((outcome.directory / "dataset.json").read_text())
    assert len(rows) == 4
    assert all(row["instruction"] and row["output"] for row in rows)


@needs_embedded_model
@needs_serving
@pytest.mark.slow
def test_the_embedded_model_behind_transformers_serve_makes_parsed_tasks(tmp_path: Path):
    folder = weights_location(model_of("smollm2_135m").weights)
    with transformers_serve(folder, tmp_path / "serve.log") as url:
        outcome = alpaca_generate(
            tmp_path, f"generation.base_url={url}", f"generation.model={folder}", "generation.prompt=compact",
            "generation.max_example_words=40", "generation.tasks_per_request=4", "generation.max_tokens=64",
            "generation.temperature=0.6", "generation.target=2", "generation.concurrency=2", "tracker=disabled",
            "generation.timeout_s=300",
        )  # fmt: skip
    assert outcome.status == 0, outcome.err
    rows = json.loads((outcome.directory / "dataset.json").read_text())
    assert len(rows) == 2
    assert all(row["instruction"] and row["output"] for row in rows)


@needs_embedded_model
@pytest.mark.slow
def test_the_embedded_model_makes_its_data_and_is_trained_on_it_in_one_command(tmp_path: Path):
    outcome = alpaca_run(
        tmp_path, "experiment=quickstart", "data_source=self_instruct", "generation.target=12",
        "generation.engine=local", "tracker=disabled", "train.eval_rows=4", "train.max_steps=1",
        "train.max_length=128", "evaluation.quick.generate_rows=1", "evaluation.quick.max_new_tokens=4",
    )  # fmt: skip
    assert outcome.status == 0, outcome.err
    made, trained = _generation_and_run(outcome)
    assert len(json.loads((made / "dataset.json").read_text())) == 12
    data = json.loads((trained / "data.json").read_text())
    assert (data["rows_in"], data["license"]) == (12, "Apache-2.0")


def test_a_model_that_writes_nothing_of_use_is_given_up(tmp_path: Path):
    outcome = alpaca_generate(
        tmp_path, "generation=local", "generation.model=tiny", "generation.max_tokens=4", "generation.give_up_after=10",
        "generation.max_example_words=20", "generation.seed_examples=1", "tracker=disabled",
    )  # fmt: skip
    assert outcome.status == 1
    assert "nothing was kept from the last 10 requests" in outcome.err
    assert outcome.summary["status"] == "failed"


REFUSED = {
    "no key": (["generation.base_url=null"], ["generation.engine=openai", "OPENAI_API_KEY", "generation.base_url"]),
    "bad address": (["generation.base_url=localhost:8000"], ["generation.base_url=localhost:8000", "http://"]),
    "password in the address": (
        ["generation.base_url='http://me:pw@host/v1'"],
        ["generation.base_url", "OPENAI_API_KEY"],
    ),
    "no target": (["generation.target=null"], ["generation.target", "missing"]),
    "target of none": (["generation.target=0"], ["generation.target=0", "at least 1"]),
    "budget of nothing": (["generation.budget_usd=0"], ["generation.budget_usd=0", "above 0"]),
    "budget of no tokens": (["generation.budget_tokens=0"], ["generation.budget_tokens=0", "at least 1"]),
    "unknown price": (["generation.budget_usd=5"], ["generation.budget_usd=5", "generation.price_prompt"]),
    "half a price": (["generation.price_prompt=1"], ["generation.price_completion"]),
    "unknown engine": (["generation.engine=oracle"], ["generation.engine=oracle", "local"]),
    "no seeds file": (["generation.seeds=none.jsonl"], ["generation.seeds=none.jsonl", "No such file"]),
    "damaged seeds": (["generation.seeds=bad.jsonl"], ["bad.jsonl, line 2", "not JSON"]),
    "seed without output": (["generation.seeds=half.jsonl"], ["half.jsonl, line 1", "'output' is missing"]),
    "few seeds": (["generation.seeds=few.jsonl"], ["generation.seed_examples=3", "has 1 seeds"]),
    "few short seeds": (["generation.max_example_words=10"], ["generation.seed_examples=3", "of at most 10 words"]),
    "lag": (["generation.lag=4", "generation.concurrency=8"], ["generation.lag=4", "generation.lag=8"]),
    "nothing new": (
        ["generation.tasks_per_request=5"],
        ["generation.tasks_per_request=5", "generation.tasks_per_request=6"],
    ),
    "prompt for the other api": (
        ["generation.prompt=alpaca", "generation.api=chat"],
        ["generation.prompt=alpaca", "api"],
    ),
    "words swapped": (["generation.filters.min_words=200"], ["generation.filters.min_words=200", "max_words=150"]),
    "rows missing": (["generation=reanswer", "generation.machine_examples=0"], ["generation.path is missing"]),
    "rows not there": (
        ["generation=reanswer", "generation.machine_examples=0", "generation.path=none.json"],
        ["generation.path=none.json", "no such file"],
    ),
    "misspelt": (["generation.traget=3"], ["generation.traget", "generation.target"]),
    "sweep": (["-m", "generation.seed=0,1"], ["one data set"]),
}


@pytest.fixture(scope="module")
def nowhere() -> Iterator[Server]:
    with Server() as running:
        yield running


@pytest.mark.parametrize("case", REFUSED)
def test_a_bad_setting_is_one_line_with_the_way_out(nowhere: Server, tmp_path: Path, case: str):
    (tmp_path / "bad.jsonl").write_text('{"instruction": "a", "output": "b"}\n{"instruction": \n')
    (tmp_path / "half.jsonl").write_text('{"instruction": "a"}\n')
    (tmp_path / "few.jsonl").write_text('{"instruction": "a", "output": "b"}\n')
    given, named = REFUSED[case]
    first = [given[0]] if given[0] == "-m" else []
    outcome = alpaca_generate(tmp_path, *first, *asking(nowhere), *given[len(first) :])
    assert outcome.status == 2, outcome.out
    assert len(outcome.err.strip().splitlines()) == 1, outcome.err
    for part in named:
        assert part in outcome.err
    assert nowhere.requests == []
    assert not list(tmp_path.rglob("requests.jsonl"))


def test_help_is_there_without_torch(tmp_path: Path):
    code = "import sys; from alpaca import generate; generate.main(['--help']); print('torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert "generation=local" in done.stdout
    assert done.stdout.strip().endswith("False")
