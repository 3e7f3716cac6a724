"""The engine `vllm`: vLLM inside this process, where it is installed (`pip install 'alpaca-ablations[vllm]'`).

Written against vLLM's documented interface (0.12 and later: AsyncLLM, SamplingParams, StructuredOutputsParams).
It needs a GPU and has not been run where this project's tests run. vLLM batches by itself, so every request
goes to it at once, up to `concurrency`.
"""

import asyncio
import itertools
import time
from importlib.util import find_spec
from typing import Any

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
from alpaca.errors import RunFailed, UserError


def open_vllm(settings: EngineSettings) -> "VllmOffline":
    """Start vLLM on the model named in `settings`: a conf/model name, hub id or folder.

    Raises:
        UserError: vLLM is not installed, or does not start with this model.
    """
    if find_spec("vllm") is None:
        raise UserError(
            "engine=vllm: vLLM is not installed; install it with: pip install 'alpaca-ablations[vllm]', "
            "or choose engine=local"
        )
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    from alpaca.engines.local import model_of
    from alpaca.modeling.base import load_tokenizer, weights_location

    config = model_of(settings.model)
    tokenizer = load_tokenizer(config)
    try:
        engine = AsyncLLM.from_engine_args(
            AsyncEngineArgs(
                model=weights_location(config.weights), revision=config.revision, max_num_seqs=settings.concurrency
            )
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"engine=vllm: model={settings.model} does not start ({reason}); try engine=local") from None
    return VllmOffline(engine, tokenizer, settings)


class VllmOffline:
    """Answers of a running `AsyncLLM`."""

    def __init__(self, engine: Any, tokenizer: Any, settings: EngineSettings):
        self.model = settings.model
        self._engine, self._tokenizer = engine, tokenizer
        self._places = asyncio.Semaphore(settings.concurrency)
        self._numbers = itertools.count()

    def most(self, request: Request) -> Usage:
        """Exact for the prompt; every answer at its longest."""
        return Usage(len(self._prompt_ids(request)), request.choices * request.max_tokens)

    async def answer(
        self, request: Request, *, before_retry: BeforeRetry | None = None, wanted: Wanted | None = None
    ) -> Reply:
        """Ask once; nothing is billed, so nothing is retried.

        Raises:
            RequestLost: vLLM refuses the request, as for a prompt that is too long, or fails on it, or the
                request is not wanted any more when its turn comes.
            RunFailed: vLLM is not running any more.
        """
        started = time.monotonic()
        prompt = {"prompt_token_ids": self._prompt_ids(request)}
        final = None
        async with self._places:
            if wanted is not None and not wanted():
                raise RequestLost(request.id, NOT_SENT, Usage(), 0)
            try:
                number = f"{next(self._numbers)}-{request.id}"
                async for output in self._engine.generate(prompt, sampling(request), number):
                    final = output
            except Exception as error:
                reason = " ".join(f"{type(error).__name__}: {error}".split())[:240]
                if type(error).__name__ == "EngineDeadError":
                    raise RunFailed(f"engine=vllm: vLLM's process ended ({reason}); its own output says why") from None
                raise RequestLost(request.id, reason, Usage(), 1) from None
        if final is None:
            raise RequestLost(request.id, "vLLM gave no output", Usage(), 1)
        return Reply(
            request_id=request.id,
            answers=tuple(Answer(one.text, str(one.finish_reason or "stop")) for one in final.outputs),
            usage=Usage(len(final.prompt_token_ids or ()), sum(len(one.token_ids) for one in final.outputs)),
            latency_s=time.monotonic() - started,
            model=self.model,
        )

    async def close(self) -> None:
        """Stop vLLM's processes."""
        self._engine.shutdown()

    def _prompt_ids(self, request: Request) -> list[int]:
        from alpaca.modeling.tokenizer import render_chat

        if request.messages and self._tokenizer.chat_template:
            text = render_chat(self._tokenizer, messages_of(request))
            return list(self._tokenizer(text, add_special_tokens=False)["input_ids"])
        return list(self._tokenizer(prompt_text(request))["input_ids"])


def sampling(request: Request) -> Any:
    """The request's sampling as vLLM's `SamplingParams`; only the whole answer comes back."""
    from vllm.sampling_params import RequestOutputKind, SamplingParams, StructuredOutputsParams

    return SamplingParams(
        n=request.choices,
        temperature=request.temperature,
        top_p=request.top_p,
        max_tokens=request.max_tokens,
        stop=list(request.stop) or None,
        seed=request.seed,
        structured_outputs=StructuredOutputsParams(json=request.schema) if request.schema is not None else None,
        output_kind=RequestOutputKind.FINAL_ONLY,
    )
