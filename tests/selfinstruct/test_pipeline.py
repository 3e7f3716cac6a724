"""The pipeline with a model in memory: one data set in any order, nothing lost or paid twice, no budget broken."""

import asyncio
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from list_model import MemoryEngine, answer_text
from servers import Server, question

from alpaca.config import GenerationConfig
from alpaca.data.rows import Row
from alpaca.engines.budget import Budget
from alpaca.engines.exchange import Engine, EngineSettings, Usage
from alpaca.engines.openai_server import OpenAIServer
from alpaca.engines.prices import Prices
from alpaca.errors import RunFailed, UserError
from alpaca.selfinstruct.judging import KEPT
from alpaca.selfinstruct.ledger import Ledger
from alpaca.selfinstruct.pipeline import BudgetSpent, Pipeline
from alpaca.selfinstruct.seeds import load_seeds
from alpaca.selfinstruct.settings import resolved
from alpaca.selfinstruct.stages import AnswerStage, Stage, TaskStage

SETTINGS = GenerationConfig(target=120, machine_examples=2, lag=64, max_tokens=200)
ROWS = [Row(f"Answer question number {number}.", "", "before") for number in range(30)]
PRICES = Prices(2.0, 8.0, "the tests")


def stage_of(settings: GenerationConfig) -> Stage:
    filled = resolved(settings)
    if filled.mode == "reanswer":
        return AnswerStage(filled, ROWS, filled.responses_per_instruction, fresh=True)
    return TaskStage(filled, load_seeds(filled.seeds) if filled.mode == "self_instruct" else ROWS)


def generate(
    folder: Path,
    settings: GenerationConfig = SETTINGS,
    engine: MemoryEngine | Callable[[], Engine] | None = None,
    *,
    concurrency: int = 8,
    budget: Budget | None = None,
    **options: Any,
) -> tuple[Stage, Pipeline]:
    folder.mkdir(exist_ok=True)
    ledger = Ledger(folder, keeps_under_way=False)
    stage = stage_of(settings)

    async def whole() -> Pipeline:
        opened = engine() if callable(engine) else engine or MemoryEngine()
        pipeline = Pipeline(
            opened,
            ledger,
            budget or Budget(),
            PRICES,
            concurrency=concurrency,
            **{"give_up_after": 50, **options},
        )
        try:
            await pipeline.run(stage)
        finally:
            await opened.close()
        return pipeline

    try:
        return stage, asyncio.run(whole())
    finally:
        ledger.close()


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.parametrize(
    "settings",
    [
        SETTINGS,
        replace(SETTINGS, machine_examples=0, prompt="alpaca"),
        replace(SETTINGS, mode="evolve", machine_examples=0),
        replace(SETTINGS, mode="reanswer", machine_examples=0, target=None, responses_per_instruction=3),
    ],
    ids=["self_instruct with own tasks", "the recipe", "evolve", "reanswer"],
)
def test_one_8_and_64_requests_at_once_make_the_same_data(tmp_path: Path, settings: GenerationConfig):
    made = {}
    for concurrency in (1, 8, 64):
        engine = MemoryEngine(shuffled=concurrency)
        generate(tmp_path / str(concurrency), settings, engine, concurrency=concurrency)
        made[concurrency] = (tmp_path / str(concurrency) / "tasks.jsonl").read_bytes()
        assert min(concurrency, 8) <= engine.most_under_way <= concurrency
    assert made[1] == made[8] == made[64]
    assert made[1].count(b'"verdict": "kept"') >= 30


def test_another_seed_makes_other_data(tmp_path: Path):
    generate(tmp_path / "a")
    generate(tmp_path / "b", replace(SETTINGS, seed=1))
    assert (tmp_path / "a" / "tasks.jsonl").read_bytes() != (tmp_path / "b" / "tasks.jsonl").read_bytes()


def test_a_smaller_target_gives_the_beginning_of_the_same_data(tmp_path: Path):
    small, _ = generate(tmp_path / "a", replace(SETTINGS, target=40))
    large, _ = generate(tmp_path / "b")
    assert isinstance(small, TaskStage)
    assert isinstance(large, TaskStage)
    assert small.rows[:40] == large.rows[:40]


def test_own_tasks_are_shown_once_they_are_lag_requests_old(tmp_path: Path):
    settings = replace(SETTINGS, target=60, lag=3)
    generate(tmp_path, settings, concurrency=3)
    kept: dict[int, list[str]] = {}
    for line in lines(tmp_path / "tasks.jsonl"):
        if line["verdict"] == KEPT:
            kept.setdefault(int(line["request"].removeprefix("task-")), []).append(line["instruction"])
    shown_late = 0
    for line in lines(tmp_path / "requests.jsonl"):
        if line["event"] != "sent":
            continue
        k, text = int(line["request"].removeprefix("task-")), line["messages"][0]["content"]
        shown = [number for number, tasks in kept.items() for task in tasks if f"Instruction: {task}\n" in text]
        assert all(number <= k - settings.lag for number in shown)
        shown_late += len(shown)
        assert text.count(". Instruction: ") == 5
    assert shown_late > 10


def test_every_candidate_is_in_the_ledger_with_its_verdict(tmp_path: Path):
    stage, pipeline = generate(tmp_path)
    judged = lines(tmp_path / "tasks.jsonl")
    assert len(judged) == pipeline.tally.candidates
    assert sum(line["verdict"] == KEPT for line in judged) == stage.kept >= 120
    reasons = {line["verdict"] for line in judged}
    assert reasons >= {KEPT, "unsuitable_words", "length", "non_ascii_start", "empty_output", "too similar"}
    answered = {line["request"] for line in lines(tmp_path / "requests.jsonl") if line["event"] == "answer"}
    assert {line["request"] for line in judged} <= answered


def test_a_ledger_cut_anywhere_is_continued_to_the_same_data_without_asking_twice(tmp_path: Path):
    generate(tmp_path / "whole")
    requests = (tmp_path / "whole" / "requests.jsonl").read_bytes()
    tasks = (tmp_path / "whole" / "tasks.jsonl").read_bytes()
    draw = random.Random(0)
    for number in range(12):
        folder = tmp_path / str(number)
        folder.mkdir()
        begun = requests[: draw.randrange(len(requests))]
        (folder / "requests.jsonl").write_bytes(begun)
        answered = {line["request"] for line in map(json.loads, begun.split(b"\n")[:-1]) if line["event"] == "answer"}
        known = b"".join(line for line in tasks.splitlines(True) if json.loads(line)["request"] in answered)
        (folder / "tasks.jsonl").write_bytes(known[: draw.randrange(len(known) + 1)])
        engine = MemoryEngine(shuffled=number)
        generate(folder, engine=engine)
        assert (folder / "tasks.jsonl").read_bytes() == tasks
        assert not answered & set(engine.asked)
    assert len(answered) > 5


def test_a_request_that_was_under_way_at_the_end_is_booked_at_its_most(tmp_path: Path):
    generate(tmp_path / "whole", replace(SETTINGS, target=20), concurrency=1)
    records = (tmp_path / "whole" / "requests.jsonl").read_bytes().splitlines(True)
    assert [json.loads(line)["event"] for line in records[:4]] == ["sent", "answer", "sent", "answer"]
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / "requests.jsonl").write_bytes(b"".join(records[:3]))
    most = json.loads(records[2])["most"]
    for keeps, lost in ((False, Usage(**most)), (True, Usage())):
        ledger = Ledger(tmp_path / "killed", keeps_under_way=keeps)
        assert ledger.past.lost == lost
        assert set(ledger.past.outcomes) == {"task-000000"}
        ledger.close()
    _, pipeline = generate(tmp_path / "killed", replace(SETTINGS, target=20), concurrency=1)
    assert pipeline._budget.lost == Usage(**most)


def test_a_finished_ledger_asks_for_nothing(tmp_path: Path):
    generate(tmp_path)
    engine = MemoryEngine()
    stage, pipeline = generate(tmp_path, engine=engine)
    assert engine.asked == []
    assert stage.done
    assert pipeline.tally.replayed > 0


def test_a_ledger_of_other_settings_is_refused(tmp_path: Path):
    generate(tmp_path)
    with pytest.raises(UserError, match="task-000000 asked something else"):
        generate(tmp_path, replace(SETTINGS, seed=1))


def test_verdicts_of_other_rules_are_refused(tmp_path: Path):
    generate(tmp_path)
    with pytest.raises(UserError, match=r"tasks\.jsonl: the candidates of task-\d+ were judged by other rules"):
        generate(tmp_path, replace(SETTINGS, filters=replace(SETTINGS.filters, unsuitable_words=False)))


def test_a_damaged_line_is_named(tmp_path: Path):
    generate(tmp_path)
    file = tmp_path / "requests.jsonl"
    file.write_bytes(file.read_bytes().replace(b'{"event": "answer"', b'{"event" "answer"', 1))
    with pytest.raises(UserError, match=r"requests\.jsonl, line \d+: not JSON"):
        generate(tmp_path)


def test_a_replay_takes_what_novelty_found_from_the_ledger_unless_it_contradicts_itself(tmp_path: Path):
    generate(tmp_path)
    file = tmp_path / "tasks.jsonl"
    judged = lines(file)
    number = next(k for k, line in enumerate(judged) if line["verdict"] == KEPT and 0 < line["similarity"] < 0.5)

    def replayed(**changed: Any) -> list[float]:
        told = [*judged[:number], judged[number] | changed, *judged[number + 1 :]]
        file.write_text("".join(json.dumps(line) + "\n" for line in told))
        _, pipeline = generate(tmp_path, engine=MemoryEngine(lose=frozenset({"all of them"})))
        return [similarity for similarity, _ in pipeline.tally.similarities]

    found = [line["similarity"] for line in judged if "similarity" in line]
    assert replayed() == found
    assert 0.1234 in replayed(similarity=0.1234)
    with pytest.raises(UserError, match="were judged by other rules"):
        replayed(verdict="too similar")


def test_a_foreign_line_among_the_candidates_is_named(tmp_path: Path):
    generate(tmp_path)
    with (tmp_path / "tasks.jsonl").open("a") as file:
        file.write('{"instruction": "Mine."}\n')
    count = len(lines(tmp_path / "tasks.jsonl"))
    with pytest.raises(UserError, match=rf"tasks\.jsonl, line {count}: no line of a ledger; use another output_dir"):
        generate(tmp_path)


@pytest.mark.parametrize("seed", range(50))
def test_the_budget_holds_in_every_order_with_losses_and_restarts(tmp_path: Path, seed: int):
    draw = random.Random(seed)
    limit = draw.uniform(0.005, 0.08)
    settings = replace(SETTINGS, target=100_000)
    spent, billed = 0.0, Usage()
    for part in (0.5, 1.0):
        engine = MemoryEngine(shuffled=draw.randrange(10**6), lost_share=0.15)
        budget = Budget(usd=limit * part, prices=PRICES)
        with pytest.raises(BudgetSpent):
            generate(tmp_path, settings, engine, concurrency=draw.choice([1, 3, 16, 64]), budget=budget)
        billed += engine.billed
        spent = PRICES.cost(budget.spent + budget.lost)
        assert spent == pytest.approx(PRICES.cost(billed))
        assert spent <= limit * part
    assert spent > limit * 0.5


def test_tokens_are_a_budget_too(tmp_path: Path):
    engine = MemoryEngine(shuffled=1)
    budget = Budget(tokens=20_000, prices=PRICES)
    with pytest.raises(BudgetSpent, match=r"raise generation\.budget_usd or generation\.budget_tokens"):
        generate(tmp_path, replace(SETTINGS, target=100_000), engine, concurrency=16, budget=budget)
    assert 15_000 < engine.billed.total <= 20_000


def test_lost_answers_are_in_their_own_column_and_the_rest_adds_up(tmp_path: Path):
    engine = MemoryEngine(shuffled=3, lost_share=0.6)
    _, pipeline = generate(tmp_path, engine=engine, concurrency=32)
    records = lines(tmp_path / "requests.jsonl")
    delivered = sum((Usage(**line["usage"]) for line in records if line["event"] == "answer"), Usage())
    lost = sum((Usage(**line["lost"]) for line in records if line["event"] in ("answer", "lost", "refused")), Usage())
    assert delivered + lost == engine.billed
    assert (pipeline._budget.spent, pipeline._budget.lost) == (delivered, lost)
    assert lost.total > 0
    assert pipeline.tally.unanswered > 0


def test_responses_that_did_not_come_are_counted_and_said(tmp_path: Path):
    class Sparing(MemoryEngine):
        async def answer(self, request: Any, **given: Any) -> Any:
            reply = await super().answer(request, **given)
            return replace(reply, answers=reply.answers[:1])

    said: list[str] = []
    settings = replace(SETTINGS, mode="reanswer", machine_examples=0, target=None, responses_per_instruction=3)
    _, pipeline = generate(tmp_path, settings, Sparing(), say=said.append)
    assert pipeline.tally.missing == 2 * len(ROWS)
    assert said == [
        "the server gave 1 of 3 responses asked for in one request; the missing ones are counted as responses_missing"
    ]


def test_requests_that_wait_when_the_target_is_reached_are_not_sent(tmp_path: Path):
    """A stage takes its last answers while other requests wait at the gate of a server that lets one in at a time."""
    with Server(lambda body: answer_text(question(body), body.get("seed")), delay_s=0.02) as server:
        settings = EngineSettings("openai", "m", base_url=server.url, concurrency=1)
        stage, pipeline = generate(
            tmp_path,
            replace(SETTINGS, target=30, tasks_per_request=6),
            concurrency=16,
            engine=lambda: OpenAIServer(settings),
        )
        assert stage.done
        assert pipeline.sent == len(server.requests)
    events = lines(tmp_path / "requests.jsonl")
    waited = [line for line in events if line["event"] == "refused"]
    assert waited, "nothing waited: the test shows nothing"
    assert all(line["attempts"] == 0 and line["lost"]["prompt_tokens"] == 0 for line in waited)
    assert pipeline._budget.lost == Usage()


def test_a_lost_request_is_passed_over_and_the_others_count(tmp_path: Path):
    engine = MemoryEngine(lose=frozenset({"task-000001"}))
    stage, _ = generate(tmp_path, engine=engine)
    assert stage.done
    again = MemoryEngine()
    generate(tmp_path, engine=again)
    assert again.asked == []


def test_requests_lost_at_the_very_end_are_asked_again(tmp_path: Path):
    lost = frozenset(f"task-{k:06d}" for k in range(3, 100))
    with pytest.raises(RunFailed, match="5 requests in a row were lost after all their retries"):
        generate(tmp_path, engine=MemoryEngine(lose=lost), concurrency=2, give_up_after=5)
    engine = MemoryEngine()
    generate(tmp_path, engine=engine)
    assert engine.asked[0] == "task-000003"
    generate(tmp_path / "whole")
    assert (tmp_path / "tasks.jsonl").read_bytes() == (tmp_path / "whole" / "tasks.jsonl").read_bytes()


@pytest.mark.parametrize(("choice", "words"), [
    ({"message": {"content": None, "reasoning_content": "hm"}, "finish_reason": "length"}, "raise max_tokens"),
    ({"message": {"content": "<think>\nOkay, let me"}, "finish_reason": "length"}, "raise max_tokens"),
    ({"message": {"content": ""}, "finish_reason": "SAFETY"}, "content filter"),
    ({"message": {"content": None, "tool_calls": [{}]}, "finish_reason": "tool_calls"}, "tool call"),
])  # fmt: skip
def test_answers_without_text_are_not_paid_for_longer_than_five_times(
    tmp_path: Path, choice: dict[str, Any], words: str
):
    def engine() -> OpenAIServer:
        return OpenAIServer(EngineSettings("openai", "m", base_url=server.url))

    with Server(lambda body: {"choices": [choice]}) as server:
        with pytest.raises(RunFailed, match=words):
            generate(tmp_path, replace(SETTINGS, prompt="alpaca_chat"), engine, concurrency=1)
        assert len(server.requests) == 5


def test_lost_requests_are_counted_by_the_servers_words(tmp_path: Path):
    def check(body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        number = len(server.requests)
        return (413, {"message": f"{number} bytes are too many"}) if number % 3 else (503, {"message": "later"})

    def engine() -> OpenAIServer:
        return OpenAIServer(EngineSettings("openai", "m", base_url=server.url, retries=0))

    with Server(check=check) as server, pytest.raises(RunFailed) as failed:
        generate(tmp_path, replace(SETTINGS, prompt="alpaca_chat"), engine, concurrency=1, give_up_after=6)
    words = "4 times: status 413 (1 bytes are too many); 2 times: status 503 (later); 0 candidates are kept"
    assert words in str(failed.value)


class LosesOnce(MemoryEngine):
    """Loses each of the requests in `lose` the first time."""

    def _reply(self, request: Any, before_retry: Any) -> Any:
        try:
            return super()._reply(request, before_retry)
        finally:
            self.lose -= {request.id}


REANSWER = replace(SETTINGS, mode="reanswer", machine_examples=0, target=None)


def test_rows_whose_requests_were_lost_are_asked_once_more_before_the_end(tmp_path: Path):
    lost = frozenset(f"answer-{k:06d}" for k in (0, 7, 29))
    engine = LosesOnce(lose=lost)
    stage, pipeline = generate(tmp_path / "once", REANSWER, engine)
    assert sorted(engine.asked[-3:]) == sorted(lost)
    assert (pipeline.tally.answered, pipeline.tally.unanswered) == (30, 0)
    whole, _ = generate(tmp_path / "whole", REANSWER)
    assert stage.outputs == whole.outputs  # type: ignore[attr-defined]
    again = MemoryEngine()
    replayed, _ = generate(tmp_path / "once", REANSWER, again)
    assert again.asked == []
    assert replayed.outputs == whole.outputs  # type: ignore[attr-defined]


def test_rows_lost_twice_are_asked_again_by_the_next_command(tmp_path: Path):
    lost = frozenset({"answer-000003", "answer-000004"})
    stage, pipeline = generate(tmp_path, REANSWER, MemoryEngine(lose=lost))
    assert (list(stage.lost), pipeline.tally.unanswered) == ([3, 4], 2)
    assert "the tests lost it" in pipeline.losses
    engine = MemoryEngine()
    stage, _ = generate(tmp_path, REANSWER, engine)
    assert (set(engine.asked), list(stage.lost)) == (lost, [])


def test_a_generation_that_keeps_nothing_stops_and_says_what_was_wrong(tmp_path: Path):
    strict = replace(SETTINGS, filters=replace(SETTINGS.filters, min_words=100))
    with pytest.raises(RunFailed, match=r"nothing was kept from the last 50 requests .* most often: length") as stopped:
        generate(tmp_path, strict)
    assert "generation.give_up_after=200" in str(stopped.value)


def test_no_more_requests_go_out_than_the_target_is_likely_to_need(tmp_path: Path):
    engine = MemoryEngine()
    stage, _ = generate(tmp_path, replace(SETTINGS, target=10), engine, concurrency=64)
    assert stage.done
    assert len(engine.asked) < 15


def test_a_server_that_refuses_ends_it_at_once_and_the_request_can_be_asked_again(tmp_path: Path):
    class Refusing(MemoryEngine):
        async def answer(self, request: Any, **given: Any) -> Any:
            if request.id == "task-000004":
                raise UserError("the quota is used up")
            return await super().answer(request, **given)

    engine = Refusing()
    with pytest.raises(UserError, match="quota"):
        generate(tmp_path, engine=engine, concurrency=2)
    assert len(engine.asked) < 10
    generate(tmp_path)
    generate(tmp_path / "whole")
    assert (tmp_path / "tasks.jsonl").read_bytes() == (tmp_path / "whole" / "tasks.jsonl").read_bytes()
