"""What a server bills above the most it should: seen once, held against every request that follows.

`Engine.most` is a bound as long as a server counts tokens as it says. One that puts a long prompt of its own
around ours, or lets a model think beyond `max_tokens`, bills more; then a budget must count on that.
"""

import math

from alpaca.engines.exchange import Usage


class Bounds:
    """The largest excess of a bill over its bound so far, as tokens more and as times as much."""

    def __init__(self) -> None:
        self._more = [0, 0]
        self._times = [1.0, 1.0]

    def learn(self, most: Usage, billed: Usage) -> bool:
        """Take a bill over `most` into account; whether it teaches anything."""
        widened = self.of(most)
        if billed.prompt_tokens <= widened.prompt_tokens and billed.completion_tokens <= widened.completion_tokens:
            return False
        for part, (bound, bill) in enumerate(zip(_parts(most), _parts(billed), strict=True)):
            self._more[part] = max(self._more[part], bill - bound)
            self._times[part] = max(self._times[part], bill / max(1, bound))
        return True

    def of(self, most: Usage) -> Usage:
        """`most` as this server must be expected to count it."""
        widened = [
            max(bound + more, math.ceil(bound * times))
            for bound, more, times in zip(_parts(most), self._more, self._times, strict=True)
        ]
        return Usage(*widened)

    def of_lost(self, most: Usage, lost: Usage) -> Usage:
        """`lost`, which an engine counts as some times `most`, in the same way."""
        times = lost.total // most.total if most.total else 0
        widened = self.of(most)
        return Usage(
            max(lost.prompt_tokens, times * widened.prompt_tokens),
            max(lost.completion_tokens, times * widened.completion_tokens),
        )


def _parts(usage: Usage) -> tuple[int, int]:
    return usage.prompt_tokens, usage.completion_tokens
