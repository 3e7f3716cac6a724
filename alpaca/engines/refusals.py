"""Requests that a server refuses as such (400, 422): one bad row among good ones, or a setting that spoils them all.

The first is lost alone, with the server's words as its reason. The second shows by numbers: nothing was
answered yet, or nothing for a long time; or by the server's words, where they name what every request has.
"""

import re
from dataclasses import replace

from alpaca.engines.failures import Failure

FROM_THE_START = 5  # refusals before any answer: a setting is wrong
IN_A_ROW = 50
NO_STRUCTURE = re.compile(r"response_format|json_schema|structured output|guided", re.IGNORECASE)


class Refusals:
    """Counts refusals between answers; one for each engine."""

    def __init__(self) -> None:
        self._answered = False
        self._in_a_row = 0

    def answered(self) -> None:
        """The server answered a request."""
        self._answered, self._in_a_row = True, 0

    def judged(self, failure: Failure) -> Failure:
        """The failure as it came; one that stops everything where there were too many refusals in a row."""
        if not failure.refused:
            return failure
        if not self._answered and NO_STRUCTURE.search(failure.reason):
            return replace(failure, next="stop")
        self._in_a_row += 1
        if self._in_a_row < (IN_A_ROW if self._answered else FROM_THE_START):
            return failure
        counted = f"{self._in_a_row} in a row" if self._answered else f"the first {self._in_a_row} requests all"
        return replace(failure, next="stop", reason=f"{failure.reason}, {counted}; change what it names")
