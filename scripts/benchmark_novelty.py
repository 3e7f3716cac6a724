"""How long the novelty decisions take, against `rouge_score`: `python scripts/benchmark_novelty.py [FILE]`.

Texts of real length are made by joining the beginning of one instruction to the end of another, from
FILE (JSON or JSONL rows, plain or .gz) or from the shipped seed tasks. Prints one table: the goals
(1,000 times faster on one core for one candidate against 20,000; 37,000 against each other in
under 60 s; one candidate against 52,000 in under 10 ms) beside what was measured. `rouge_score` is called
as the original scripts do: tokenised once, then its LCS score of the candidate with every text.
"""

import random
import sys
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table
from rouge_score import rouge_scorer
from rouge_score.tokenize import tokenize

from alpaca.config import DataSourceConfig
from alpaca.data import novelty
from alpaca.data.sources import load
from alpaca.data.words import tokens

THRESHOLD = 0.7
EACH_OTHER, POOL, SMALL_POOL, CANDIDATES = 37_000, 52_000, 20_000, 200
REFERENCE_CANDIDATES = 2  # each takes rouge_score seconds against SMALL_POOL


def joined(instructions: list[str], count: int, draw: random.Random) -> list[str]:
    """`count` texts of at least four words, each the beginning of one instruction and the end of another."""
    made: list[str] = []
    while len(made) < count:
        first, second = draw.choice(instructions).split(), draw.choice(instructions).split()
        words = first[: draw.randint(0, len(first))] + second[draw.randint(0, len(second)) :]
        if len(words) >= 4:
            made.append(" ".join(words))
    return made


def seconds(call: Callable[[], object]) -> float:
    """CPU time of one call."""
    started = time.process_time()
    call()
    return time.process_time() - started


def main() -> None:
    """Measure and print."""
    path = sys.argv[1] if len(sys.argv) > 1 else "package:alpaca.data/seed_tasks.jsonl"
    draw = random.Random(0)
    instructions = [row.instruction for row in load(DataSourceConfig(name="bench", path=path)).rows]
    texts = joined(instructions, POOL + CANDIDATES, draw)
    title = f"novelty at ROUGE-L {THRESHOLD}, {mean_tokens(texts):.1f} tokens a text, one core"
    table = Table("what", "texts", "time", "wanted", title=title)

    kept = novelty.near_duplicates(texts[:EACH_OTHER], THRESHOLD) < 0
    spent = seconds(lambda: novelty.near_duplicates(texts[:EACH_OTHER], THRESHOLD))
    table.add_row(f"each against the kept ones, {(~kept).sum():,} dropped", f"{EACH_OTHER:,}", f"{spent:.1f} s", "60 s")
    asked = novelty.Pool(THRESHOLD)
    spent = seconds(lambda: [(asked.most_similar(text), asked.add(text)) for text in texts[:EACH_OTHER]])
    table.add_row("each with its most similar one before, as generate asks", f"{EACH_OTHER:,}", f"{spent:.1f} s", "")
    candidates = texts[POOL:]
    pool = novelty.Pool(THRESHOLD, texts[:POOL])
    for name, ask in (("duplicate_of", pool.duplicate_of), ("most_similar", pool.most_similar)):
        times = [seconds(lambda ask=ask, text=text: ask(text)) for text in candidates]  # type: ignore[misc]
        shown = f"median {np.median(times) * 1e3:.2f} ms, slowest {max(times) * 1e3:.2f} ms"
        table.add_row(f"Pool.{name}, one candidate", f"{POOL:,}", shown, "10 ms")

    small = novelty.Pool(THRESHOLD, texts[:SMALL_POOL])
    ours = float(np.median([seconds(lambda text=text: small.duplicate_of(text)) for text in candidates]))  # type: ignore[misc]
    table.add_row("Pool.duplicate_of, one candidate", f"{SMALL_POOL:,}", f"median {ours * 1e3:.3f} ms", "")
    tokenised = [tokenize(text, None) for text in texts[:SMALL_POOL]]
    theirs = seconds(lambda: [decided_by_rouge_score(text, tokenised) for text in candidates[:REFERENCE_CANDIDATES]])
    theirs /= REFERENCE_CANDIDATES
    table.add_row("rouge_score, one candidate", f"{SMALL_POOL:,}", f"{theirs * 1e3:,.0f} ms", "")
    table.add_row("times faster, one candidate", f"{SMALL_POOL:,}", f"{theirs / ours:,.0f}", "1,000")
    agree = sum(
        decided_by_rouge_score(text, tokenised) == (small.duplicate_of(text) >= 0)
        for text in candidates[:REFERENCE_CANDIDATES]
    )
    table.add_row("same decision", f"{SMALL_POOL:,}", f"{agree} of {REFERENCE_CANDIDATES}", "all")
    Console().print(table)


def decided_by_rouge_score(text: str, tokenised: list[list[str]]) -> bool:
    """Whether any text is above the threshold, as the original scripts ask: a score for every one."""
    candidate = tokenize(text, None)
    return max(rouge_scorer._score_lcs(candidate, other).fmeasure for other in tokenised) > THRESHOLD


def mean_tokens(texts: list[str]) -> float:
    """Mean number of tokens."""
    return float(np.mean([len(tokens(text)) for text in texts]))


if __name__ == "__main__":
    main()
