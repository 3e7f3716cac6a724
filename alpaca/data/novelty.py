"""Near-duplicate texts by ROUGE-L, decided as `rouge_score` decides on the same tokens, thousands of times faster.

ROUGE-L of two texts with m and n tokens and a longest common subsequence of l tokens is F = 2PR/(P+R)
with P = l/m and R = l/n. A pair is a near-duplicate when F is strictly above the threshold. F is
computed in that form, not as 2l/(m+n): the two round differently, and at a tie rounding decides:
(l, m, n) = (7, 9, 11) gives 0.7000000000000001, (7, 10, 10) gives 0.7.

l is at most the overlap of the two multisets of tokens. An inverted index counts that overlap against
the whole pool at once, over the rare tokens only: the most common ones are granted to every text as
long as the bound still means something. The few survivors get their l by bit-parallel LCS
(Hyyrö 2004, in rapidfuzz), each token written as one code point.
"""

from array import array
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rapidfuzz.distance import LCSseq
from rapidfuzz.process import cdist

from alpaca.data.words import tokens

_SURROGATES = 0xD800, 0x800  # first code point no string may hold, and how many
MAX_VOCABULARY = 0x110000 - _SURROGATES[1] - 1  # code point 0 stands for every token the pool has not seen
FIRST_LOOK = 256  # texts whose LCS `most_similar` computes first


def f_measure(common: Any, length: Any, other: Any) -> Any:
    """ROUGE-L F of texts with `length` and `other` tokens (at least 1) and an LCS of `common`; arrays or numbers.

    The operations and their order are `rouge_score`'s, so the float64 is the same to the last bit.
    """
    precision, recall = common / length, common / other
    return 2 * precision * recall / np.maximum(precision + recall, np.finfo(float).tiny)


@dataclass(frozen=True)
class Match:
    """The most similar text of a pool: its index in order of adding (-1: no token in common) and ROUGE-L F."""

    index: int
    score: float


class Pool:
    """Texts that grow in number, asked whether a further one is new.

    Cost on one core against 52,000 instructions: about 0.1 ms to decide one, 0.5 ms to find the most similar.
    """

    def __init__(self, threshold: float, texts: Iterable[str] = ()):
        """A pool of `texts`; `threshold` is a ROUGE-L F from 0 to 1."""
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold={threshold}: ROUGE-L lies between 0 and 1")
        self.threshold = threshold
        self._code: dict[str, str] = {}  # token -> the code point that stands for it
        self._holders: dict[tuple[str, int], array[int]] = {}  # (token, k) -> texts that hold it at least k times
        self._written: list[str] = []  # each text as one code point a token
        self._lengths = np.zeros(1024, dtype=np.int32)
        for text in texts:
            self.add(text)

    def __len__(self) -> int:
        return len(self._written)

    def add(self, text: str) -> int:
        """Put a text into the pool, whatever its similarity; returns its index.

        Raises:
            ValueError: more distinct tokens than there are code points (1.1 million).
        """
        found, index = tokens(text), len(self._written)
        for token in found:
            if token not in self._code:
                self._code[token] = _code_point(len(self._code) + 1)
        for feature in _features(found):
            if feature not in self._holders:
                self._holders[feature] = array("i")
            self._holders[feature].append(index)
        if index == len(self._lengths):
            self._lengths = np.concatenate([self._lengths, np.zeros_like(self._lengths)])
        self._lengths[index] = len(found)
        self._written.append("".join(self._code[token] for token in found))
        return index

    def duplicate_of(self, text: str) -> int:
        """Index of the earliest text of the pool with ROUGE-L F above the threshold, or -1."""
        found = tokens(text)
        length = len(found)
        needed = self._least_overlap(length)
        if needed > length:
            return -1
        known = [self._holders[feature] for feature in _features(found) if feature in self._holders]
        if len(known) < needed:
            return -1
        known.sort(key=len)
        granted = min(needed, len(known)) // 2  # the most common features; less or more is slower
        overlap = self._count(known[: len(known) - granted])
        candidates = np.flatnonzero(overlap >= needed - granted)
        lengths = self._lengths[candidates]
        bound = np.minimum(overlap[candidates] + granted, np.minimum(lengths, length))
        candidates = candidates[f_measure(bound, length, lengths) > self.threshold]
        if not len(candidates):
            return -1
        above = self._scores(found, candidates) > self.threshold
        return int(candidates[int(above.argmax())]) if above.any() else -1

    def most_similar(self, text: str) -> Match:
        """The text of the pool with the highest ROUGE-L F, the earliest of equals; the threshold plays no part."""
        found = tokens(text)
        known = [self._holders[feature] for feature in _features(found) if feature in self._holders]
        if not known:
            return Match(-1, 0.0)
        overlap = self._count(known)
        first = np.flatnonzero(overlap == overlap.max())[:FIRST_LOOK]  # a good score soon, so that few bounds are left
        best = self._best(found, first)
        # F = 2l/(m+n) with l tokens in common is at most 2l/(m+l); one less, because F is rounded
        least = max(1, int(best.score * len(found) / (2 - best.score)) - 1)
        candidates = np.flatnonzero(overlap >= least)
        bounds = f_measure(overlap[candidates], len(found), self._lengths[candidates])
        promising = np.flatnonzero(bounds >= best.score)
        promising = promising[np.argsort(-bounds[promising], kind="stable")]
        start, look = 0, FIRST_LOOK
        while start < len(promising) and bounds[promising[start]] >= best.score:
            other = self._best(found, candidates[promising[start : start + look]])
            best = min(best, other, key=lambda match: (-match.score, match.index))
            start, look = start + look, look * 2
        return best

    def scores(self, text: str) -> np.ndarray:
        """(pool,) float64: ROUGE-L F of `text` with every text of the pool, about 0.1 µs each."""
        found, everything = tokens(text), np.arange(len(self))
        result = np.zeros(len(self))
        with_tokens = everything[self._lengths[: len(self)] > 0]
        if found and len(with_tokens):
            result[with_tokens] = self._scores(found, with_tokens)
        return result

    def _best(self, found: Sequence[str], candidates: np.ndarray) -> Match:
        scores = self._scores(found, candidates)
        return Match(int(candidates[scores == scores.max()].min()), float(scores.max()))

    def _least_overlap(self, length: int) -> int:
        """Fewest tokens in common that can reach the threshold: all of a text that short, F = 2l/(length+l)."""
        needed = max(1, int(self.threshold * length / (2 - self.threshold)) - 1)
        while needed <= length and not f_measure(needed, length, needed) > self.threshold:
            needed += 1
        return needed

    def _count(self, known: Sequence["array[int]"]) -> np.ndarray:
        """(pool,) how many of the listed features each text holds."""
        holders = np.concatenate([np.frombuffer(each, dtype=np.int32) for each in known])
        return np.bincount(holders, minlength=len(self._written))

    def _scores(self, found: Sequence[str], candidates: np.ndarray) -> np.ndarray:
        """ROUGE-L F of the tokens `found` with each candidate, by LCS."""
        query = "".join(self._code.get(token, "\0") for token in found)
        texts = [self._written[index] for index in candidates.tolist()]
        common = cdist([query], texts, scorer=LCSseq.similarity, dtype=np.int32)[0]
        return np.asarray(f_measure(common, len(found), self._lengths[candidates]))


def near_duplicates(texts: Sequence[str], threshold: float) -> np.ndarray:
    """(n,) int64: for each text the index of the earliest kept one with ROUGE-L F above `threshold`, or -1.

    Greedy in order: a text that has such a one is dropped, and later texts are not compared with it.
    """
    pool = Pool(threshold)
    kept: list[int] = []
    result = np.full(len(texts), -1, dtype=np.int64)
    for index, text in enumerate(texts):
        match = pool.duplicate_of(text)
        if match >= 0:
            result[index] = kept[match]
        else:
            pool.add(text)
            kept.append(index)
    return result


def _features(found: Sequence[str]) -> list[tuple[str, int]]:
    """(token, k) for the k-th occurrence of each token: multiset overlap becomes set overlap."""
    seen: Counter[str] = Counter()
    features = []
    for token in found:
        seen[token] += 1
        features.append((token, seen[token]))
    return features


def _code_point(number: int) -> str:
    if number > MAX_VOCABULARY:
        raise ValueError(f"a pool holds at most {MAX_VOCABULARY:,} distinct tokens")
    return chr(number if number < _SURROGATES[0] else number + _SURROGATES[1])
