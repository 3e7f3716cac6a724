"""How long the novelty decisions take: `python scripts/benchmark_novelty.py [FILE]`.

Texts of real length are made by joining the beginning of one instruction to the end of another, from
FILE (JSON or JSONL rows, plain or .gz) or from the shipped seed tasks. Prints one table.
"""

import random
import sys
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.table import Table
from rouge_score import rouge_scorer

from alpaca.config import DataSourceConfig
from alpaca.data import novelty
from alpaca.data.sources import load

THRESHOLD = 0.7
EACH_OTHER, POOL, CANDIDATES, REFERENCE_PAIRS = 37_000, 52_000, 200, 2_000


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
    """Wall-clock time of one call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def main() -> None:
    """Measure and print."""
    path = sys.argv[1] if len(sys.argv) > 1 else "package:alpaca.data/seed_tasks.jsonl"
    draw = random.Random(0)
    instructions = [row.instruction for row in load(DataSourceConfig(name="bench", path=path)).rows]
    texts = joined(instructions, POOL + CANDIDATES, draw)
    table = Table(
        "what", "texts", "time", title=f"novelty at ROUGE-L {THRESHOLD}, {mean_tokens(texts):.1f} tokens a text"
    )

    found = novelty.near_duplicates(texts[:EACH_OTHER], THRESHOLD)
    spent = seconds(lambda: novelty.near_duplicates(texts[:EACH_OTHER], THRESHOLD))
    table.add_row(f"each against the kept ones, {(found >= 0).sum():,} dropped", f"{EACH_OTHER:,}", f"{spent:.1f} s")

    pool = novelty.Pool(THRESHOLD, texts[:POOL])
    for name, ask in (("duplicate_of", pool.duplicate_of), ("most_similar", pool.most_similar)):
        times = [seconds(lambda ask=ask, text=text: ask(text)) for text in texts[POOL:]]  # type: ignore[misc]
        shown = f"median {np.median(times) * 1e3:.2f} ms, slowest {max(times) * 1e3:.2f} ms"
        table.add_row(f"Pool.{name}, one candidate", f"{POOL:,}", shown)

    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=False)
    pairs = [(draw.choice(texts), draw.choice(texts)) for _ in range(REFERENCE_PAIRS)]
    spent = seconds(lambda: [scorer.score(first, second) for first, second in pairs])
    table.add_row("rouge_score, one pair", "2", f"{spent / REFERENCE_PAIRS * 1e6:.0f} µs")
    Console().print(table)


def mean_tokens(texts: list[str]) -> float:
    """Mean number of tokens."""
    return float(np.mean([len(novelty.tokens(text)) for text in texts]))


if __name__ == "__main__":
    main()
