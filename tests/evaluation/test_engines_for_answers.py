"""Answers of a server that has the model, and of EleutherAI's harness: what is asked, and what goes wrong."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
from commands import Outcome
from scoring_commands import alpaca_evaluate, copy_of, records

from alpaca.evaluation.harness import directions


class _Quiet(ThreadingHTTPServer):
    """A client that hangs up is no error of the server's, and its traceback none of the command's lines."""

    def handle_error(self, *_: object) -> None:
        pass


class Completions:
    """A server of OpenAI's completions on loopback; `refuse` is a status it gives instead."""

    def __init__(self, refuse: int | None = None, usage: dict[str, int] | None = None):
        self.asked: list[dict[str, Any]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append({**body, "path": self.path})
                choice = {"index": 0, "text": f" Answer {body['seed'] % 7}.", "finish_reason": "stop"}
                reply = {"id": "1", "object": "text_completion", "model": body["model"], "choices": [choice],
                         "usage": usage or {"prompt_tokens": 9, "completion_tokens": 4}}  # fmt: skip
                if refuse is not None:
                    reply = {"error": {"message": "no such model", "code": "model_not_found"}}
                data = json.dumps(reply).encode()
                self.send_response(refuse or 200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Quiet(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"

    def __enter__(self) -> "Completions":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def run(finished: Outcome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-marker")
    return copy_of(finished, tmp_path)


def engine(url: str) -> tuple[str, ...]:
    return ("evaluation=generate", "evaluation.decode.engine=openai", f"evaluation.decode.base_url={url}",
            "evaluation.decode.model=mine", "evaluation.generate.rows=5", "evaluation.decode.seed=3",
            "evaluation.decode.max_new_tokens=17", "evaluation.decode.temperature=0.5")  # fmt: skip


def test_a_server_is_asked_with_the_runs_own_prompt_and_a_seed_for_each_row(run: Path, tmp_path: Path):
    with Completions() as server:
        done = alpaca_evaluate(tmp_path, "run", *engine(server.url))
    assert done.status == 0, done.err
    answered = records(run / "predictions-generate.jsonl")
    assert sorted(body["prompt"] for body in server.asked) == sorted(record["prompt"] for record in answered)
    assert {(body["path"], body["model"], body["max_tokens"], body["temperature"]) for body in server.asked} == {
        ("/v1/completions", "mine", 17, 0.5)
    }
    seeds = {body["prompt"]: body["seed"] for body in server.asked}
    assert len(set(seeds.values())) == 5
    for record in answered:
        assert record["output"] == f"Answer {seeds[record['prompt']] % 7}."
        assert record["scores"]["tokens"] == 4
        assert record["scores"]["stopped"] == 1
    assert "sk-marker" not in "".join(file.read_text() for file in run.rglob("*.json*"))


def test_lengths_are_left_out_where_the_server_does_not_count_tokens(run: Path, tmp_path: Path):
    with Completions(usage={"prompt_tokens": 0, "completion_tokens": 0}) as server:
        done = alpaca_evaluate(tmp_path, "run", *engine(server.url))
    assert done.status == 0, done.err
    scores = [record["scores"] for record in records(run / "predictions-generate.jsonl")]
    assert [("tokens" in one, one["stopped"]) for one in scores] == [(False, 1)] * 5


def test_a_server_that_refuses_is_one_line_and_nothing_is_scored(run: Path, tmp_path: Path):
    with Completions(refuse=404) as server:
        done = alpaca_evaluate(tmp_path, "run", *engine(server.url))
    assert done.status == 2
    assert len(done.err.splitlines()) == 1
    assert "evaluation.decode.model=mine" in done.err
    assert not (run / "predictions-generate.jsonl").exists()


def test_an_adapter_is_exported_before_vllm_can_have_it(finished_lora: Outcome, tmp_path: Path):
    copy_of(finished_lora, tmp_path)
    done = alpaca_evaluate(tmp_path, "run", "evaluation=generate", "evaluation.decode.engine=vllm")
    assert done.status == 2
    assert "first python -m alpaca.export run" in done.err


@pytest.mark.skipif(find_spec("lm_eval") is not None, reason="the harness is installed")
def test_without_the_harness_the_line_says_how_to_install_it(run: Path, tmp_path: Path):
    done = alpaca_evaluate(tmp_path, "run", "evaluation=lm_eval")
    assert done.status == 2
    assert done.err == (
        "alpaca: evaluation=lm_eval: EleutherAI's harness is not installed; pip install 'alpaca-ablations[lm-eval]'\n"
    )


def test_a_task_of_the_harness_declares_its_directions_and_one_that_does_not_has_none():
    results = {
        "mine": {"wer,none": 0.3, "wer_stderr,none": 0.01, "acc,flexible": 0.5, "odd,none": 1.0, "alias": "mine"}
    }
    declared = directions(results, {"mine": {"wer": False, "acc": True, "odd": None}})
    assert declared == {
        "eval/lm_eval/mine/wer": "lower",
        "eval/lm_eval/mine/wer_stderr": "neither",
        "eval/lm_eval/mine/acc_flexible": "higher",
    }
    assert directions(results, {}) == {"eval/lm_eval/mine/wer_stderr": "neither"}


needs_harness = pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs the extra lm-eval")


@needs_harness
def test_the_harness_scores_a_task_of_our_own(run: Path, tmp_path: Path):
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    docs = [{"q": f"Which number comes after {n}?", "choices": [str(n + 1), str(n + 2)], "gold": 0} for n in range(8)]
    (tasks / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    (tasks / "counting.yaml").write_text(
        f"task: counting\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tasks / 'docs.jsonl'}\n"
        "test_split: test\noutput_type: multiple_choice\ndoc_to_text: '{{q}}'\ndoc_to_target: gold\n"
        "doc_to_choice: '{{choices}}'\n"
        "metric_list:\n  - metric: acc\n    aggregation: mean\n    higher_is_better: true\n"
    )
    own = "evaluation=lm_eval", "evaluation.lm_eval.tasks=[counting]", f"evaluation.lm_eval.include_path={tasks}"
    done = alpaca_evaluate(tmp_path, "run", *own)
    assert done.status == 0, done.err
    scores = json.loads((run / "summary.json").read_text())
    assert scores["eval/lm_eval/counting/acc"] * 8 == int(scores["eval/lm_eval/counting/acc"] * 8)
    assert scores["eval/lm_eval/counting/acc_stderr"] >= 0
    assert scores["directions"]["eval/lm_eval/counting/acc"] == "higher"
    assert scores["directions"]["eval/lm_eval/counting/acc_stderr"] == "neither"


@needs_harness
def test_an_unknown_task_is_one_line_with_the_nearest(run: Path, tmp_path: Path):
    done = alpaca_evaluate(tmp_path, "run", "evaluation=lm_eval", "evaluation.lm_eval.tasks=[hellaswagg]")
    assert done.status == 2
    assert "the harness knows no task 'hellaswagg'; did you mean hellaswag?" in done.err
