"""A judge of known biases for the HTTP server of `engines/servers.py`, and answers whose true win rate is known.

Its verdict on a pair is drawn once for each question, so that asking again gives the same:

    P(the first answer wins) = σ(θ + φ x) + 0.12   where the model's answer stands first
                               σ(-θ - φ x) + 0.12  where it stands second

with x the length feature of `length_control`. Averaged over both orders that is σ(θ + φ x), and σ(θ) at equal length.
"""

import hashlib
import json
import random
import re
from pathlib import Path
from typing import Any

import numpy as np
from servers import question

from alpaca.config import JudgeConfig
from alpaca.data.rows import Row, example_id
from alpaca.evaluation.answers import Answer
from alpaca.evaluation.judging.length_control import length_feature

THETA, PHI, POSITION = 0.3, 1.0, 0.12
_PARTS = re.compile(
    r"^(@@\w+) task\n(.*?)\n\n\1 answer A\n(.*?)\n\n\1 answer B\n(.*?)\n\n\1 end$", re.DOTALL | re.MULTILINE
)


def asked(body: dict[str, Any]) -> tuple[str, str, str]:
    """Task, answer A and answer B of a request."""
    found = _PARTS.search(question(body))
    assert found, question(body)
    return found[2], found[3], found[4]


class BiasedJudge:
    """Answers of the model and the baseline to `count` tasks, and the responder that judges them."""

    def __init__(self, count: int, seed: int = 0):
        draw = random.Random(seed)
        self.answers: list[Answer] = []
        self.baseline: dict[str, str] = {}
        for number in range(count):
            task = f"Write about llama number {number}."
            mine, other = (
                f"{name} " + "wool " * draw.randint(*most) for name, most in (("model", (5, 60)), ("base", (5, 40)))
            )
            part = ("helpful_base", "koala")[number % 2]
            known_as = example_id(Row(task, "", ""))
            self.answers.append(Answer(known_as, task, "", mine.strip(), part, "llama-run"))
            self.baseline[known_as] = other.strip()
        texts = [self.baseline[answer.id] for answer in self.answers]
        x = length_feature(np.array([len(answer.output) for answer in self.answers]), np.array([*map(len, texts)]))
        self.share = {answer.instruction: _sigmoid(THETA + PHI * value) for answer, value in zip(self.answers, x)}
        self.truth = float(np.mean(list(self.share.values())))
        self.truth_at_equal_length = _sigmoid(THETA)

    def __call__(self, body: dict[str, Any]) -> str:
        """The answer to a request, in the form it asks for."""
        task, first, second = asked(body)
        share = self.share[task]
        chance = (share if first.startswith("model") else 1 - share) + POSITION
        drawn = random.Random(hashlib.sha256(f"{task}|{first[:5]}|{second[:5]}".encode()).hexdigest()).random()
        verdict = "A" if drawn < chance else "B"
        if "response_format" in body:
            return json.dumps({"reason": "It is better.", "verdict": verdict})
        return f"It is better.\nVerdict: {verdict}"


def settings(url: str, **changed: Any) -> JudgeConfig:
    """The judge behind `url`, no waiting longer than a test can bear."""
    given = {"base_url": url, "model": "m", "concurrency": 32, "timeout_s": 20.0, "resamples": 2000}
    return JudgeConfig(**{**given, **changed})


def ledger_lines(place: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (place / "judgements.jsonl").read_bytes().split(b"\n")[:-1]]


def _sigmoid(value: float) -> float:
    return float(1 / (1 + np.exp(-value)))
