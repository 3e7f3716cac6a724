"""Who answers an instruction set: a model in this process, spread over the ranks, or an engine that has the same model.

Both are given the prompt that training taught and end at the template's stop strings.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from transformers import PreTrainedTokenizerBase

from alpaca.config import DecodeConfig
from alpaca.data.encoding import encode_prompts
from alpaca.data.rows import Row, example_id
from alpaca.data.templates import Template
from alpaca.engines.exchange import EngineSettings, Reply, Request, RequestLost, Usage
from alpaca.engines.losses import Losses
from alpaca.engines.opening import open_engine
from alpaca.engines.section import in_words_of
from alpaca.errors import RunFailed, UserError
from alpaca.evaluation.decoding import Sampling, answers, request_seed
from alpaca.modeling.tokenizer import text_encoder
from alpaca.training.precision import Compute
from alpaca.training.world import World

SECTION = "evaluation.decode"
OnDone = Callable[[int], None]


@dataclass(frozen=True)
class Made:
    """An answer: its text, its tokens (EOS included) and whether it ended by itself, where known."""

    text: str
    tokens: int | None
    stopped: bool | None


class Answerer(Protocol):
    """Answers rows; the output of a row is not looked at."""

    def __call__(self, rows: Sequence[Row], on_done: OnDone) -> list[Made]:
        """One answer for each row, in order; `on_done` is told how many more are there."""
        ...


@dataclass(frozen=True)
class ModelAnswerer:
    """A model in this process."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    template: Template
    settings: DecodeConfig
    compute: Compute
    world: World

    def __call__(self, rows: Sequence[Row], on_done: OnDone) -> list[Made]:
        """Decode in batches; every rank gets all answers."""
        chosen = self.settings
        prompts = encode_prompts(rows, self.template, text_encoder(self.tokenizer))
        decoded = answers(
            self.model,
            self.tokenizer,
            [np.array(ids, dtype=np.int64) for ids in prompts],
            Sampling(chosen.max_new_tokens, chosen.temperature, chosen.top_p, chosen.seed),
            keys=[example_id(row) for row in rows],
            compute=self.compute,
            batch_size=chosen.batch_size,
            stop=self.template.stop,
            world=self.world,
            on_done=on_done,
        )
        return [Made(one.text, one.tokens, one.finish_reason == "stop") for one in decoded]


@dataclass(frozen=True)
class EngineAnswerer:
    """vLLM, or a server that speaks OpenAI's completions: the prompt is ours, not the server's chat template."""

    template: Template
    settings: DecodeConfig
    model: str

    def __call__(self, rows: Sequence[Row], on_done: OnDone) -> list[Made]:
        """Ask for all rows at once.

        Raises:
            UserError: the engine cannot be opened or refuses what it is asked.
            RunFailed: answers were lost after all retries.
        """
        try:
            return asyncio.run(self._asked(rows, on_done))
        except UserError as error:
            raise in_words_of(SECTION, error) from None

    async def _asked(self, rows: Sequence[Row], on_done: OnDone) -> list[Made]:
        chosen = self.settings
        engine = open_engine(
            EngineSettings(
                name=chosen.engine,
                model=self.model,
                base_url=chosen.base_url,
                api="completions",
                concurrency=chosen.concurrency,
            )
        )
        places = asyncio.Semaphore(chosen.concurrency)

        async def one(row: Row) -> Reply | RequestLost:
            async with places:
                try:
                    return await engine.answer(self._request(row))
                except RequestLost as error:
                    return error
                finally:
                    on_done(1)

        try:
            replies = await _all(one, rows)
        finally:
            await engine.close()
        lost = [reply for reply in replies if isinstance(reply, RequestLost)]
        if lost:
            reasons = Losses()
            for one_lost in lost:
                reasons.add(one_lost.reason)
            raise RunFailed(
                f"{SECTION}.engine={chosen.engine}: {len(lost)} of {len(rows)} answers were lost "
                f"({reasons.commonest()}); nothing was scored, the same command asks again"
            )
        return [
            _made(reply, engine.most(self._request(row)) if chosen.engine == "openai" else None)
            for reply, row in zip(replies, rows, strict=True)
            if isinstance(reply, Reply)
        ]

    def _request(self, row: Row) -> Request:
        chosen, key = self.settings, example_id(row)
        return Request(
            id=key,
            prompt=self.template.prompt(row),
            max_tokens=chosen.max_new_tokens,
            temperature=chosen.temperature,
            top_p=chosen.top_p,
            stop=self.template.stop,
            seed=request_seed(chosen.seed, key),
        )


async def _all(ask: Callable[[Row], Any], rows: Sequence[Row]) -> list[Any]:
    """All at once; the first error that no retry mends ends the others."""
    tasks = [asyncio.ensure_future(ask(row)) for row in rows]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise


def _made(reply: Reply, most: Usage | None) -> Made:
    """The answer; a server for which the `most` was booked has not said how many tokens it was."""
    first = reply.answers[0]
    tokens = None if reply.usage == most else reply.usage.completion_tokens
    return Made(first.text.strip(), tokens, first.finish_reason == "stop")


def engine_model(settings: DecodeConfig, folders: Sequence[Path]) -> str:
    """What the engine is to load or ask for: as set, else the first of `folders` that holds a whole model.

    Raises:
        UserError: openai without a model's name or address; no folder that vLLM could load.
    """
    if settings.engine == "openai":
        if not settings.model or not settings.base_url:
            raise UserError(
                f"{SECTION}.engine=openai: set {SECTION}.base_url to the server that has this model and "
                f"{SECTION}.model to its name there"
            )
        return settings.model
    if settings.model:
        return settings.model
    for folder in folders:
        if (folder / "config.json").is_file():
            return str(folder)
    raise UserError(
        f"{SECTION}.engine={settings.engine}: the result is an adapter, which it cannot load alone; first "
        f"python -m alpaca.export {folders[0].parent if folders else 'RUN'}, or set {SECTION}.model=FOLDER"
    )
