"""What keeps failing in the same way: one bad row among good ones, or a setting that spoils them all.

The first is lost alone, with the server's words as its reason. The second shows by numbers: nothing was
answered yet, or nothing for a long time; or by the server's words, where they name what every request has.
Counted are requests the server refuses as such (400, 422) and bodies that are no answers, which may be billed.
"""

import re
from collections import Counter
from dataclasses import replace

from alpaca.engines.failures import Failure
from alpaca.errors import UserError

FROM_THE_START = 5  # failures of a kind before any answer: a setting is wrong
IN_A_ROW = 50
_STRUCTURE = re.compile(
    r"response_?format|json[_ ]?schema|json_object|structured.?output|guided|grammar", re.IGNORECASE
)


class NoStructure(UserError):
    """The server gives no structured output for this model; free text may work."""


class Refusals:
    """Counts refusals and malformed bodies between answers; one for each engine."""

    def __init__(self) -> None:
        self._answered = False
        self._in_a_row = 0
        self._malformed: Counter[str] = Counter()

    def answered(self) -> None:
        """The server answered a request."""
        self._answered, self._in_a_row = True, 0

    def judged(self, failure: Failure, *, structured: bool = False) -> Failure:
        """The failure as it came; one that stops everything where there were too many of its kind.

        Args:
            structured: the request asks for structured output.

        Raises:
            NoStructure: it is refused before anything was answered.
        """
        if structured and not self._answered and _STRUCTURE.search(str(failure.error.get("message") or "")):
            raise NoStructure(f"{failure.reason}; it gives no structured output")
        if failure.malformed and not self._answered:
            return self._spoilt(failure)
        if not failure.refused:
            return failure
        self._in_a_row += 1
        if self._in_a_row < (IN_A_ROW if self._answered else FROM_THE_START):
            return failure
        counted = f"{self._in_a_row} in a row" if self._answered else f"the first {self._in_a_row} requests all"
        return replace(failure, next="stop", reason=f"{failure.reason}, {counted}; change what it names")

    def _spoilt(self, failure: Failure) -> Failure:
        self._malformed[failure.malformed] += 1
        if (count := self._malformed[failure.malformed]) < FROM_THE_START:
            return failure
        reason = f"{failure.reason}; the first {count} answers are all like this, each may be billed, and none was kept"
        return replace(
            failure, next="stop", reason=f"{reason}; check base_url, which usually ends in /v1, and the server"
        )
