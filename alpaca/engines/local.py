"""The engine `local`: a model in this process. Requests that wait are decoded together, those of like length first.

Generation runs in a thread of its own, so the event loop lives; an answer nobody waits for any more is
not finished. Nothing is billed, so nothing is ever lost: usage counts the tokens that were computed.
"""

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import transformers
import yaml
from torch import nn
from transformers import PreTrainedTokenizerBase

from alpaca import paths
from alpaca.config import ModelConfig
from alpaca.engines.decoding import Decoded, Row, decode
from alpaca.engines.exchange import (
    NOT_SENT,
    Answer,
    BeforeRetry,
    EngineSettings,
    Reply,
    Request,
    RequestLost,
    Usage,
    Wanted,
)
from alpaca.engines.protocol import messages_of, prompt_text
from alpaca.modeling.base import load_model, load_tokenizer
from alpaca.modeling.tokenizer import render_chat, text_encoder
from alpaca.training.precision import choose

GATHER_S = 0.02  # long enough for what was asked in one go to arrive


@dataclass(frozen=True)
class _Waiting:
    request: Request
    rows: tuple[Row, ...]
    done: "asyncio.Future[list[Decoded]]"
    wanted: Wanted | None = None


def model_of(reference: str) -> ModelConfig:
    """The model that `reference` names: a file in conf/model, else weights: a hub id, folder or `package:MODULE/FILE`.

    `smollm2_135m` is the embedded model, `tiny` a random one for tests.
    """
    file = paths.conf_dir() / "model" / f"{reference}.yaml"
    if "/" not in reference and file.is_file():
        return ModelConfig(**yaml.safe_load(file.read_text(encoding="utf-8")))
    return ModelConfig(name=reference, weights=reference)


def open_local(settings: EngineSettings) -> "LocalEngine":
    """Load the model named in `settings`; `concurrency` answers are decoded at once.

    Raises:
        UserError: it cannot be loaded.
    """
    transformers.utils.logging.disable_progress_bar()
    config = model_of(settings.model)
    tokenizer = load_tokenizer(config)
    compute = choose("auto")
    # On a CPU in fp32: there bf16 would make an answer depend on those decoded beside it.
    dtype = torch.float32 if compute.device.type == "cpu" else compute.frozen_dtype
    model = load_model(config, tokenizer, seed=0, dtype=dtype, device=compute.device)
    return LocalEngine(
        model, tokenizer, name=settings.model, batch_size=settings.concurrency, gather_s=settings.gather_s
    )


class LocalEngine:
    """Answers of a loaded model."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: PreTrainedTokenizerBase,
        *,
        name: str,
        batch_size: int,
        gather_s: float | None = None,
    ):
        """Around `model` where it is; `batch_size` answers are decoded at once."""
        self.model = name
        self._model, self._tokenizer = model, tokenizer
        self._encode = text_encoder(tokenizer).prompts
        self._batch_size, self._gather_s = batch_size, GATHER_S if gather_s is None else gather_s
        self._device = next(model.parameters()).device
        self._positions = getattr(model.config, "max_position_embeddings", None)
        self._ends = _ends(model, tokenizer)
        self._waiting: list[_Waiting] = []
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="local-engine")
        self._worker: asyncio.Task[None] | None = None
        self._closed = False

    def most(self, request: Request) -> Usage:
        """Exact for the prompt; every answer at its longest."""
        return Usage(len(self._prompt_ids(request)), request.choices * request.max_tokens)

    async def answer(
        self, request: Request, *, before_retry: BeforeRetry | None = None, wanted: Wanted | None = None
    ) -> Reply:
        """Decode together with whatever else waits.

        Raises:
            RequestLost: the prompt leaves no room for an answer, not even one answer fits into memory, or the
                request is not wanted any more when its turn comes.
        """
        if self._closed:
            raise RuntimeError("this engine is closed")
        started = time.monotonic()
        ids = self._prompt_ids(request)
        room = request.max_tokens if self._positions is None else self._positions - len(ids)
        if room < 1 or not ids:
            reason = f"the prompt has {len(ids)} tokens, model={self.model} takes {self._positions}"
            raise RequestLost(request.id, reason, Usage(), 0)
        waiting = _Waiting(
            request=request,
            rows=tuple(self._row(request, ids, room, choice) for choice in range(request.choices)),
            done=asyncio.get_running_loop().create_future(),
            wanted=wanted,
        )
        self._waiting.append(waiting)
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        decoded = await waiting.done
        return Reply(
            request_id=request.id,
            answers=tuple(Answer(one.text, one.finish_reason) for one in decoded),
            usage=Usage(len(ids), sum(one.tokens for one in decoded)),
            latency_s=time.monotonic() - started,
            model=self.model,
        )

    async def close(self) -> None:
        """Stop at the next token and let the model go."""
        self._closed = True
        for waiting in self._waiting:
            waiting.done.cancel()
        if self._worker is not None:
            await asyncio.gather(self._worker, return_exceptions=True)
        self._thread.shutdown()

    def _row(self, request: Request, ids: tuple[int, ...], room: int, choice: int) -> Row:
        origin = f"seed {request.seed}" if request.seed is not None else f"request {request.id}"
        return Row(
            ids=ids,
            max_tokens=min(request.max_tokens, room),
            temperature=request.temperature,
            top_p=request.top_p,
            stop=tuple(mark for mark in request.stop if mark),
            seed=f"{origin}, choice {choice}",
        )

    def _prompt_ids(self, request: Request) -> tuple[int, ...]:
        if request.messages and self._tokenizer.chat_template:
            text = render_chat(self._tokenizer, messages_of(request))
            return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return tuple(self._encode([prompt_text(request)])[0])

    async def _work(self) -> None:
        """Decode batches until nobody waits."""
        while self._waiting and not self._closed:
            await asyncio.sleep(self._gather_s)
            batch = self._next_batch()
            loop = asyncio.get_running_loop()
            try:
                decoded = await loop.run_in_executor(self._thread, self._decode, batch)
            except Exception as error:
                for one in batch:
                    if not one.done.done():
                        one.done.set_exception(error)
                continue
            for one, answers in zip(batch, decoded, strict=True):
                if one.done.done():
                    continue
                if isinstance(answers, RequestLost):
                    one.done.set_exception(answers)
                elif None in answers:
                    one.done.cancel()
                else:
                    one.done.set_result([answer for answer in answers if answer is not None])

    def _next_batch(self) -> list[_Waiting]:
        """The request that waits longest, and those nearest to it in length, up to the batch size."""
        for one in self._waiting:
            if one.wanted is not None and not one.wanted() and not one.done.done():
                one.done.set_exception(RequestLost(one.request.id, NOT_SENT, Usage(), 0))
        self._waiting = [one for one in self._waiting if not one.done.done()]
        if not self._waiting:
            return []
        first = self._waiting[0]
        others = sorted(self._waiting[1:], key=lambda one: abs(len(one.rows[0].ids) - len(first.rows[0].ids)))
        batch, size = [first], len(first.rows)
        for one in others:
            if size + len(one.rows) <= self._batch_size:
                batch.append(one)
                size += len(one.rows)
        self._waiting = [one for one in self._waiting if one not in batch]
        return batch

    def _decode(self, batch: list[_Waiting]) -> list[list[Decoded | None] | RequestLost]:
        """In the thread: the answers of each request; a batch that does not fit into memory is halved."""
        if not batch:
            return []
        owners = [one for one in batch for _ in one.rows]
        try:
            decoded = decode(
                self._model,
                self._tokenizer,
                [row for one in batch for row in one.rows],
                ends=self._ends,
                device=self._device,
                wanted=lambda row: not (self._closed or owners[row].done.done()),
            )
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                reason = f"not enough memory on {self._device}"
                return [RequestLost(batch[0].request.id, reason, Usage(), 1)]
            torch.cuda.empty_cache()
            half = len(batch) // 2
            return self._decode(batch[:half]) + self._decode(batch[half:])
        rest = iter(decoded)
        return [[next(rest) for _ in one.rows] for one in batch]


def _ends(model: nn.Module, tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    declared = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    several = declared if isinstance(declared, list) else [declared]
    return frozenset(int(one) for one in (*several, tokenizer.eos_token_id) if one is not None)
