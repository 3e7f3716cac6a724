"""The account of one request over its attempts: what was lost, how long to wait, when to give up.

Waits double from one second to a minute, with full jitter (a random share of the wait, so that requests
that failed together do not come back together), and are never shorter than the server asked for.
"""

import random
import time
from dataclasses import dataclass, field

from alpaca.engines.exchange import Answer, BeforeRetry, Reply, RequestLost, Usage
from alpaca.engines.failures import Failure
from alpaca.errors import UserError

FIRST_WAIT_S = 1.0
LONGEST_WAIT_S = 60.0


@dataclass
class Attempts:
    """What has happened to one request so far.

    Attributes:
        most: the most one attempt can be billed.
        retries: attempts after the first.
        first_wait_s: before the first retry, at most.
    """

    request_id: str
    most: Usage
    retries: int
    before_retry: BeforeRetry | None = None
    first_wait_s: float = FIRST_WAIT_S
    draw: random.Random = field(default_factory=random.Random)
    made: int = 0
    failed: int = 0
    lost: Usage = field(default_factory=Usage)
    started: float = field(default_factory=time.monotonic)

    def wait_after(self, failure: Failure) -> float:
        """Book a failed attempt and return the seconds to wait before the next one.

        Raises:
            UserError: no request can succeed.
            RequestLost: this one cannot, has used up its retries, or has no money left for another.
        """
        self.failed += 1
        if failure.billed:
            self.lost += self.most
        if failure.next == "stop":
            raise UserError(failure.reason)
        if failure.next == "lose" or self.failed > self.retries:
            raise RequestLost(self.request_id, failure.reason, self.lost, self.made)
        self.check_retry(failure.reason)
        ceiling = min(LONGEST_WAIT_S, self.first_wait_s * 2 ** (self.failed - 1))
        return max(failure.retry_after_s or 0.0, self.draw.uniform(0, ceiling))

    def reply(self, answers: tuple[Answer, ...], usage: Usage, model: str) -> Reply:
        """The account closed by answers that arrived; the latency counts from its opening."""
        return Reply(
            request_id=self.request_id,
            answers=answers,
            usage=usage,
            lost=self.lost,
            attempts=self.made,
            latency_s=time.monotonic() - self.started,
            model=model,
        )

    def given_up(self, reason: str) -> RequestLost:
        """The request as it is lost now, for a reason of the asker's own."""
        return RequestLost(self.request_id, reason, self.lost, self.made)

    def check_retry(self, reason: str) -> None:
        """Ask whether one more attempt may be paid for.

        Raises:
            RequestLost: it may not.
        """
        if self.before_retry is not None and not self.before_retry(self.lost):
            raise RequestLost(self.request_id, f"{reason}; no budget for another attempt", self.lost, self.made)
