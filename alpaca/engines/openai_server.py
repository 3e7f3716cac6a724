"""The engine `openai`: any OpenAI-compatible server, many requests at once, each retried until answered or lost."""

import asyncio
import logging
import time
from typing import Any

from alpaca.engines import failures, wire
from alpaca.engines.exchange import BeforeRetry, EngineSettings, Reply, Request, Usage
from alpaca.engines.failures import Failure
from alpaca.engines.limits import Gate, Limits
from alpaca.engines.remote import Received, Remote
from alpaca.engines.retrying import FIRST_WAIT_S, Attempts
from alpaca.errors import UserError

log = logging.getLogger(__name__)


class OpenAIServer:
    """Chat or completions of one model behind one address."""

    def __init__(self, settings: EngineSettings, *, first_wait_s: float = FIRST_WAIT_S):
        """Check address and key.

        Raises:
            UserError: see `Remote`.
        """
        self.model = settings.model
        self._settings, self._first_wait_s = settings, first_wait_s
        self._remote = Remote(settings)
        self._dialect = wire.Dialect()
        self._limits = Limits(settings.concurrency)
        self._gate = Gate(self._limits)
        self._told: set[str] = set()
        self._reached = False
        self._stopped: UserError | None = None

    def most(self, request: Request) -> Usage:
        """The most one attempt can be billed; see `wire.most_of`."""
        return wire.most_of(request)

    async def answer(self, request: Request, *, before_retry: BeforeRetry | None = None) -> Reply:
        """Send until answered.

        Raises:
            RequestLost: all retries failed, or this request alone cannot be answered.
            UserError: no request can be; said again to every request after.
        """
        attempts = Attempts(
            request.id, self.most(request), self._settings.retries, before_retry, first_wait_s=self._first_wait_s
        )
        try:
            while True:
                outcome = await self._attempt(request, attempts)
                if isinstance(outcome, Failure):
                    await asyncio.sleep(attempts.wait_after(self._worded(outcome, attempts)))
                    continue
                answers, usage, model = outcome
                return attempts.reply(answers, usage, model or self.model)
        except UserError as error:
            self._stopped = error
            raise

    async def close(self) -> None:
        """Close the connections."""
        await self._remote.close()

    async def _attempt(self, request: Request, attempts: Attempts) -> wire.Read | Failure:
        """One attempt; one more at once when the server does not take a parameter and says so."""
        while True:
            await self._gate.enter(wire.likely_tokens(request))
            try:
                if self._stopped is not None:
                    raise UserError(str(self._stopped))
                body = wire.body_of(request, model=self.model, api=self._settings.api, dialect=self._dialect)
                attempts.made += 1
                sent_at = time.monotonic()
                received = await self._remote.post(wire.PATHS[self._settings.api], body)
            finally:
                self._gate.leave()
            if isinstance(received, Failure) and self._learned(received, body):
                continue
            return self._read(received, request, sent_at)

    def _learned(self, failure: Failure, body: dict[str, Any]) -> bool:
        """Whether the server refused a parameter that the next attempt writes otherwise or leaves out."""
        key = self._dialect.learn(failure.error, body)
        if key in wire.LEAVABLE and key not in self._told:
            self._told.add(key)
            log.warning("model=%s takes no %s: its own is used", self.model, key)
        return key is not None

    def _read(self, received: Received | Failure, request: Request, sent_at: float) -> wire.Read | Failure:
        if isinstance(received, Failure):
            self._reached = self._reached or received.reached
            if received.throttled:
                self._limits.refused(sent_at, received.retry_after_s)
            return received
        self._reached = True
        self._limits.learn(received.headers)
        self._limits.succeeded()
        try:
            return wire.answers_of(received.payload, request)
        except wire.Malformed as error:
            return failures.of_bad_body(str(error))

    def _worded(self, failure: Failure, attempts: Attempts) -> Failure:
        """A server that never answered anything is a wrong address, not bad luck of one request."""
        if failure.reached or self._reached or attempts.failed < self._settings.retries:
            return failure
        return Failure("stop", f"{failure.reason}: no server answers there; start it, or mend base_url")
