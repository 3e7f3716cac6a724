"""Requests that brought nothing, counted by reason, for whoever has to say why a job stops.

Reasons are the server's own words where it gave any. Two that differ in numbers only (lengths, ids) are one.
"""

import re
from collections import Counter

OF_A_KIND = 5  # paid answers of a kind, before any of use, after which a job stops
_NUMBERS = re.compile(r"\w*\d\w*")


class Losses:
    """Counts reasons since the last request that brought something."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._words: dict[str, str] = {}
        self._useful = False

    def useful(self) -> None:
        """A request brought something."""
        self._counts.clear()
        self._useful = True

    def add(self, reason: str) -> None:
        """A request brought nothing."""
        kind = _NUMBERS.sub("#", reason)
        self._counts[kind] += 1
        self._words.setdefault(kind, reason)

    @property
    def hopeless(self) -> str | None:
        """The reason that stood `OF_A_KIND` times before anything of use came; None where there is none."""
        if self._useful:
            return None
        return next((self._words[kind] for kind, count in self._counts.items() if count >= OF_A_KIND), None)

    def commonest(self, most: int = 3) -> str:
        """The commonest reasons with their counts, in the words they came in first."""
        listed = [f"{count:,} times: {self._words[kind]}" for kind, count in self._counts.most_common(most)]
        others = len(self._counts) - len(listed)
        return "; ".join([*listed, *([f"{others:,} other reasons"] if others else [])])
