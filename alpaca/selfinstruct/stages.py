"""What is asked next and what an answer means: new tasks, evolved tasks, more answers. No clock, files or network.

A stage numbers its requests from 0. Request k is a function of the settings, k and, where kept tasks are
shown, the tasks kept from requests up to k - lag. Answers are taken in the order of requests. So the
data set depends on the answers and on nothing else: not on concurrency, time or restarts.
"""

import math
import random
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from alpaca.config import GenerationConfig
from alpaca.data.rows import Row, normalise
from alpaca.engines.exchange import Answer, Request
from alpaca.engines.protocol import is_whole
from alpaca.selfinstruct import prompts
from alpaca.selfinstruct.judging import KEPT, Judge, Judged
from alpaca.selfinstruct.parsing import Parsed, parse_answer, parse_list
from alpaca.selfinstruct.parsing_json import parse_json
from alpaca.selfinstruct.seeds import short_enough

Known = Sequence[Mapping[str, Any]]


class Stage(Protocol):
    """A source of requests that learns from their answers."""

    prefix: str
    target: int
    choices: int  # answers that each request asks for

    @property
    def kept(self) -> int:
        """What counts towards `target`."""
        ...

    @property
    def done(self) -> bool:
        """Nothing more is wanted."""
        ...

    @property
    def lost(self) -> Sequence[int]:
        """Requests taken without an answer that no other request stands in for."""
        ...

    def ready(self, k: int) -> bool:
        """Whether request k can be formed from what was taken so far."""
        ...

    def request(self, k: int) -> Request:
        """Request k; the same whenever it is formed."""
        ...

    def take(self, k: int, answers: Sequence[Answer], known: Known = ()) -> list[Judged]:
        """The candidates in the answers to request k, judged; requests are taken in order, lost ones with none.

        `known` are their lines of `tasks.jsonl`, as far as an earlier process wrote them.
        """
        ...

    def take_again(self, k: int, answers: Sequence[Answer]) -> list[Judged]:
        """The candidates in the answers to request k, which was taken without any before."""
        ...

    def wanted(self) -> int:
        """About how many more answers it takes; more need not be under way."""
        ...


class TaskStage:
    """New tasks: from examples (Self-Instruct), or from one task at a time (evolve)."""

    prefix = "task"
    choices = 1
    lost: Sequence[int] = ()  # others take their place

    def __init__(self, filled: GenerationConfig, sources: Sequence[Row]):
        """`sources` are the seeds, or the rows to evolve."""
        assert filled.target is not None
        self.target = filled.target
        self.rows: list[Row] = []
        self._filled, self._sources = filled, sources
        self._examples_of = short_enough(sources, filled.max_example_words)
        self._sampling = prompts.Sampling.of(filled)
        self._judge = Judge(filled, sources)
        self._kept_after: list[int] = []  # after each request taken: how many tasks were kept

    @property
    def kept(self) -> int:
        """Tasks kept; the last response may bring more than the target."""
        return len(self.rows)

    @property
    def done(self) -> bool:
        """Whether the target is reached."""
        return self.kept >= self.target

    def ready(self, k: int) -> bool:
        """Whether the tasks that request k may show are known."""
        return not self._shows_own or k - self._filled.lag < len(self._kept_after)

    def request(self, k: int) -> Request:
        """Request k, its examples drawn by a generator of its own."""
        filled, name, seed = self._filled, f"{self.prefix}-{k:06d}", _seed(self._filled.seed, self.prefix, k)
        if filled.mode == "evolve":
            parent, operation = self._evolution(k)
            return prompts.evolved(name, parent, operation, self._sampling, seed, filled.api or "")
        return prompts.new_tasks(
            filled.prompt or "", name, self._examples(k), filled.tasks_per_request or 0, self._sampling, seed
        )

    def take(self, k: int, answers: Sequence[Answer], known: Known = ()) -> list[Judged]:
        """Judge every candidate of the answers, keep the good ones."""
        assert k == len(self._kept_after), "answers are taken in the order of requests"
        judged: list[Judged] = []
        for number, answer in enumerate(answers):
            for parsed in self._parsed(answer):
                line = known[len(judged)] if len(judged) < len(known) else None
                verdict = self._judge.task(parsed, number, line)
                if self._filled.mode == "evolve":
                    parent, operation = self._evolution(k)
                    verdict.facts.update({"operation": operation, "evolved_from": parent.instruction})
                judged.append(verdict)
                if verdict.verdict == KEPT:
                    self.rows.append(verdict.row)
        self._kept_after.append(self.kept)
        return judged

    def take_again(self, k: int, answers: Sequence[Answer]) -> list[Judged]:
        """Never: no lost request is asked for again."""
        raise AssertionError(f"request {k} is not asked again")

    def wanted(self) -> int:
        """By the yield so far, begun with one request that gives all it is asked for."""
        per_request = (self.kept + self._asked) / (len(self._kept_after) + 1)
        return max(1, math.ceil((self.target - self.kept) / per_request))

    @property
    def _asked(self) -> int:
        filled = self._filled
        if filled.mode == "evolve":
            return 1
        return (filled.tasks_per_request or 0) - (filled.seed_examples or 0) - filled.machine_examples

    @property
    def _shows_own(self) -> bool:
        return self._filled.mode == "evolve" or self._filled.machine_examples > 0

    def _visible(self, k: int) -> list[Row]:
        """Own tasks that request k may show."""
        last = k - self._filled.lag
        return self.rows[: self._kept_after[last]] if last >= 0 else []

    def _examples(self, k: int) -> list[Row]:
        """Seeds and own tasks in any order; while there are too few of its own, seeds take their place."""
        draw = random.Random(f"{self._filled.seed or 0}/{self.prefix}/{k}")
        visible = short_enough(self._visible(k), self._filled.max_example_words) if self._shows_own else []
        own = draw.sample(visible, min(self._filled.machine_examples, len(visible)))
        wanted = (self._filled.seed_examples or 0) + self._filled.machine_examples - len(own)
        shown = draw.sample(self._examples_of, min(wanted, len(self._examples_of))) + own
        draw.shuffle(shown)
        return shown

    def _evolution(self, k: int) -> tuple[Row, str]:
        draw = random.Random(f"{self._filled.seed or 0}/{self.prefix}/{k}")
        visible = self._visible(k)
        place = draw.randrange(len(self._sources) + len(visible))
        parent = self._sources[place] if place < len(self._sources) else visible[place - len(self._sources)]
        return parent, draw.choice(sorted(prompts.OPERATIONS))

    def _parsed(self, answer: Answer) -> list[Parsed]:
        filled, cut = self._filled, not is_whole(answer.finish_reason)
        if filled.mode == "evolve":
            return parse_list(answer.text, first=1 if filled.api == "completions" else None, cut=cut)
        if filled.prompt == "json":
            return parse_json(answer.text, cut=cut)
        shown = (filled.seed_examples or 0) + filled.machine_examples
        return parse_list(answer.text, first=shown + 1 if filled.api == "completions" else None, cut=cut)


class AnswerStage:
    """Answers to given instructions: a stronger model's (reanswer), or further ones for a finished set."""

    prefix = "answer"

    def __init__(self, filled: GenerationConfig, rows: Sequence[Row], choices: int, *, fresh: bool):
        """`choices` answers for each row; `fresh` ones replace its output, others must differ from it."""
        self.target = len(rows)
        self.outputs: list[list[str]] = []  # for each row taken, the outputs kept
        self.choices = choices
        self._lost: dict[int, None] = {}
        self._filled, self._given, self._fresh = filled, rows, fresh
        self._sampling = prompts.Sampling.of(filled)
        self._judge = Judge(filled, ())

    @property
    def kept(self) -> int:
        """Rows that were looked at: each counts, answered or not, so that the end is reached."""
        return len(self.outputs)

    @property
    def done(self) -> bool:
        """Whether every row had its turn."""
        return self.kept == self.target

    @property
    def lost(self) -> Sequence[int]:
        """Rows without an answer, because their requests were lost."""
        return list(self._lost)

    def ready(self, k: int) -> bool:
        """Whether there is a row k."""
        return k < self.target

    def request(self, k: int) -> Request:
        """Ask for row k."""
        seed = _seed(self._filled.seed, self.prefix, k)
        name = f"{self.prefix}-{k:06d}"
        return prompts.answer(name, self._given[k], self.choices, self._sampling, seed, self._filled.api or "")

    def take(self, k: int, answers: Sequence[Answer], known: Known = ()) -> list[Judged]:
        """Judge the answers to row k."""
        assert k == len(self.outputs), "answers are taken in the order of requests"
        self.outputs.append([])
        if answers:
            return self.take_again(k, answers)
        self._lost[k] = None
        return []

    def take_again(self, k: int, answers: Sequence[Answer]) -> list[Judged]:
        """Judge the answers to row k, which has none so far."""
        self._lost.pop(k, None)
        row = self._given[k]
        others = set() if self._fresh else {normalise(row.output)}
        judged = [
            self._judge.output(parse_answer(answer.text, row, cut=not is_whole(answer.finish_reason)), number, others)
            for number, answer in enumerate(answers)
        ]
        self.outputs[k] = [one.parsed.output for one in judged if one.verdict == KEPT]
        return judged

    def wanted(self) -> int:
        """One request for each row left."""
        return self.target - self.kept


def _seed(seed: int | None, prefix: str, k: int) -> int:
    return random.Random(f"{seed or 0}/{prefix}/{k}/sampling").getrandbits(31)
