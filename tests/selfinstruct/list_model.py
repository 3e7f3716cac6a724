"""A model of the tests: its answers are a function of the request alone, so that any order of asking gives the same.

`answer_text` writes a list as a real model would, with the flaws a parser and filters meet; `MemoryEngine` is an
engine in this process, `answers` is the same model for the HTTP server of `engines/servers.py`.
"""

import asyncio
import hashlib
import random
import re
from dataclasses import dataclass, field

from alpaca import paths
from alpaca.engines.exchange import Answer, BeforeRetry, Reply, Request, RequestLost, Usage, Wanted

VERBS = "Describe Explain List Compare Rewrite Summarise Classify Suggest Outline Translate Count Name".split()
SEEDS = (paths.PACKAGE / "data" / "seed_tasks.jsonl").read_text(encoding="utf-8")
VOCABULARY = sorted(set(re.findall(r"[a-z]{4,}", SEEDS)))


def question(request: Request) -> str:
    """The text of a request, prompt or chat."""
    return request.prompt if request.prompt is not None else "\n".join(turn["content"] for turn in request.messages)


def answer_text(text: str, seed: int | None, choice: int = 0) -> str:
    """What the model says to `text`: the rest of a list, or a plain answer where no list is asked for."""
    draw = random.Random(f"{seed}/{choice}/{hashlib.sha256(text.encode()).hexdigest()}")
    numbers = [int(found) for found in re.findall(r"^(\d+)\. Instruction:", text, re.MULTILINE)]
    if not numbers:
        return f"An answer about {_phrase(draw, 3)} number {draw.randrange(10**6)}."
    continued = text.endswith("Instruction:")
    first = numbers[-1] if continued else numbers[-1] + 1
    records = [_record(number, draw) for number in range(first, first + draw.randint(2, 6))]
    whole = "\n###\n".join(records)
    return whole.removeprefix(f"{first}. Instruction:") if continued else f"###\n{whole}"


def _record(number: int, draw: random.Random) -> str:
    instruction = f"{draw.choice(VERBS)} the {_phrase(draw, draw.randint(3, 8))}."
    flawed = ["Draw a picture of it all.", "Go.", "Écris une phrase en français.", "Explain the usual thing again."]
    instruction = draw.choice([instruction] * 8 + flawed)
    given = draw.choice(["<noinput>", "No input.", f"The {_phrase(draw, 4)}."])
    output = draw.choice([f"Here is {_phrase(draw, 6)}: {draw.randrange(10**6)}."] * 9 + [""])
    return f"{number}. Instruction: {instruction}\n{number}. Input:\n{given}\n{number}. Output:\n{output}"


def _phrase(draw: random.Random, count: int) -> str:
    return " ".join(draw.choice(VOCABULARY) for _ in range(count))


def words(text: str) -> int:
    """Tokens as this model counts them."""
    return len(text.split())


@dataclass
class MemoryEngine:
    """An engine in this process.

    Attributes:
        shuffled: answers come after a random number of turns of the event loop, in another order for another seed.
        lose: requests by id whose answers never come.
        asked: ids in the order they were asked.
    """

    shuffled: int | None = None
    lose: frozenset[str] = frozenset()
    lost_share: float = 0.0
    model: str = "a model of the tests"
    asked: list[str] = field(default_factory=list)
    billed: Usage = field(default_factory=Usage)
    under_way: int = 0
    most_under_way: int = 0

    def __post_init__(self) -> None:
        self._draw = random.Random(self.shuffled)

    def most(self, request: Request) -> Usage:
        return Usage(words(question(request)), request.max_tokens * request.choices)

    async def answer(
        self, request: Request, *, before_retry: BeforeRetry | None = None, wanted: Wanted | None = None
    ) -> Reply:
        self.asked.append(request.id)
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            for _ in range(self._draw.randrange(30) if self.shuffled is not None else 0):
                await asyncio.sleep(0)
            return self._reply(request, before_retry)
        finally:
            self.under_way -= 1

    def _reply(self, request: Request, before_retry: BeforeRetry | None) -> Reply:
        lost, attempts = Usage(), 1
        while self._draw.random() < self.lost_share:
            lost += self.most(request)
            self.billed += self.most(request)
            if attempts == 4 or (before_retry is not None and not before_retry(lost)):
                raise RequestLost(request.id, "the tests lost it", lost, attempts)
            attempts += 1
        if request.id in self.lose:
            raise RequestLost(request.id, "the tests lost it", lost, attempts)
        texts = [answer_text(question(request), request.seed, choice) for choice in range(request.choices)]
        usage = Usage(words(question(request)), min(request.max_tokens, sum(map(words, texts))))
        self.billed += usage
        return Reply(request.id, tuple(Answer(text, "stop") for text in texts), usage, lost, attempts)

    async def close(self) -> None:
        pass
