"""The engine `openai`: any OpenAI-compatible server, many requests at once, each retried until answered or lost."""

import json
import logging
import time
from dataclasses import replace
from typing import Any

from alpaca.engines import dialect, failures, protocol
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
from alpaca.engines.failures import Failure
from alpaca.engines.limits import Gate, Limits, patience
from alpaca.engines.refusals import Refusals
from alpaca.engines.remote import Received, Remote
from alpaca.engines.retrying import FIRST_WAIT_S, Attempts
from alpaca.engines.server_errors import ErrorInBody
from alpaca.errors import UserError

log = logging.getLogger(__name__)
SAID_FROM_S = 5.0  # waits from here on are said
_WITHOUT = {
    "n": "each response is asked for by itself",
    "stop": "answers are cut here",
    "max_tokens": "answers are as long as it likes, and a budget learns that from its bills",
}


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
        self._dialect = dialect.Dialect(left_out=set(settings.leave_out))
        self._limits = Limits(settings.concurrency)
        self._gate = Gate(self._limits)
        self._refusals = Refusals()
        self._told: set[str] = set()
        self._why = ""
        self._said_until = 0.0
        self._reached = False
        self._stopped: UserError | None = None

    def most(self, request: Request) -> Usage:
        """The most one attempt can be billed; see `protocol.most_of`."""
        return protocol.most_of(request)

    async def answer(
        self, request: Request, *, before_retry: BeforeRetry | None = None, wanted: Wanted | None = None
    ) -> Reply:
        """Send until answered; a server that gives fewer choices than asked for is asked again for the rest.

        Raises:
            RequestLost: all retries failed, this request alone cannot be answered, or it is not wanted any more.
            UserError: no request can be; said again to every request after.
        """
        attempts = Attempts(
            request.id, self.most(request), self._settings.retries, before_retry, first_wait_s=self._first_wait_s
        )
        answers: tuple[Answer, ...] = ()
        usage, model = Usage(), self.model
        try:
            while len(answers) < request.choices:
                more, billed, name = await self._answered(_rest(request, len(answers)), attempts, wanted)
                answers, usage, model = answers + more, usage + billed, name or model
                wanted = None  # half of it is there: an end waits for the rest as for all that is under way
        except UserError as error:
            self._stopped = error
            raise
        except RequestLost as lost:
            if not answers:
                raise
            attempts.lost = lost.lost  # what came is paid for, and better than nothing
        return attempts.reply(answers, usage, model)

    async def close(self) -> None:
        """Close the connections."""
        await self._remote.close()

    async def _answered(self, request: Request, attempts: Attempts, wanted: Wanted | None) -> protocol.Read:
        """What the server answers to one request, however often it must be sent."""
        while True:
            outcome = await self._attempt(request, attempts, wanted)
            if not isinstance(outcome, Failure):
                return outcome
            wait_s = attempts.wait_after(
                self._worded(self._refusals.judged(outcome, structured=request.schema is not None), attempts)
            )
            self._why = outcome.reason
            if outcome.throttled or not self._reached:
                self._say_wait(wait_s)
            if not await patience(wait_s, wanted):
                raise attempts.given_up(NOT_SENT)

    async def _attempt(self, request: Request, attempts: Attempts, wanted: Wanted | None) -> protocol.Read | Failure:
        """One attempt; one more at once when the server does not take a parameter and says so."""
        while True:
            if not await self._gate.enter(protocol.likely_tokens(request), wanted, self._say_wait):
                raise attempts.given_up(NOT_SENT)
            try:
                if self._stopped is not None:
                    raise type(self._stopped)(str(self._stopped))
                body = dialect.body_of(request, model=self.model, api=self._settings.api, dialect=self._dialect)
                attempts.made += 1
                sent_at = time.monotonic()
                received = await self._remote.post(protocol.PATHS[self._settings.api], body)
            finally:
                self._gate.leave()
            outcome = self._read(received, request)
            if isinstance(outcome, Failure):
                if self._learned(outcome, body):
                    continue
                self._reached = self._reached or outcome.reached
                self._limits.learn(outcome.headers)
                if outcome.throttled:
                    self._limits.refused(sent_at, outcome.retry_after_s)
            return outcome

    def _learned(self, failure: Failure, body: dict[str, Any]) -> bool:
        """Whether the server refused a parameter that the next attempt writes otherwise or leaves out."""
        key = self._dialect.learn(failure.error, body)
        if key in self._dialect.left_out and key not in self._told:
            self._told.add(key)
            what = _WITHOUT.get(key, "its own is used")
            log.warning("model=%s takes no %s: %s", self.model, key, what)
        return key is not None

    def _say_wait(self, seconds: float) -> None:
        """Say why nothing is sent and until when; once for each wait."""
        now = time.time()
        if seconds < SAID_FROM_S or now + seconds < self._said_until + SAID_FROM_S:
            return
        self._said_until = now + seconds
        until = time.strftime("%H:%M:%S", time.localtime(self._said_until))
        why = self._why or "its limit, as its headers state it, is used up"
        log.warning("%s: waiting until %s (%.0f s): %s", self._remote.target.host, until, seconds, why)

    def _read(self, received: Received | Failure, request: Request) -> protocol.Read | Failure:
        if isinstance(received, Failure):
            return received
        self._reached = True
        try:
            read = protocol.answers_of(received.payload, request)
        except protocol.Malformed as error:
            return failures.of_bad_body(str(error), self._remote.target.clean(json.dumps(received.payload)))
        except ErrorInBody as error:
            return failures.of_error_in_body(error, received.headers, self._remote.target)
        self._why = ""
        self._limits.learn(received.headers)
        self._limits.succeeded()
        self._refusals.answered()
        return read

    def _worded(self, failure: Failure, attempts: Attempts) -> Failure:
        """A server that never answered anything is a wrong address, not bad luck of one request."""
        if failure.reached or self._reached or attempts.failed < self._settings.retries:
            return failure
        return Failure("stop", f"{failure.reason}: no server answers there; start it, or mend base_url")


def _rest(request: Request, count: int) -> Request:
    """The request for the choices that are missing after `count` came; another seed, lest the same ones come again."""
    if not count:
        return request
    seed = None if request.seed is None else (request.seed + count) % 2**31
    return replace(request, choices=request.choices - count, seed=seed)
