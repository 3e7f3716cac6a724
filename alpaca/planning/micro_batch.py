"""How large the micro-batches of a GPU may be: the rule that a run follows by trying, and its plan by prediction."""

from collections.abc import Callable

LARGEST_PROBED = 1 << 16
FREE_SHARE = 0.15  # of a device's memory, which the largest micro-batch leaves free
SHARDED_TOKENS = 8192  # where the model is split: before it is, a rank holds more than it will, so nothing is tried


def largest_that_fits(fits: Callable[[int], bool], start: int, least: int) -> int:
    """The largest `start` x 2^k, k negative too, up to 65,536, for which `fits` holds; `least` where none does."""
    tokens = start
    if fits(tokens):
        while tokens * 2 <= LARGEST_PROBED and fits(tokens * 2):
            tokens *= 2
        return tokens
    while (tokens := tokens // 2) > least:
        if fits(tokens):
            return tokens
    return least
