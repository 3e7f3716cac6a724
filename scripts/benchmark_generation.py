"""CPU time and memory of a generation without a model's: `python scripts/benchmark_generation.py [TASKS]`.

An engine in this process answers at once with 20 tasks made from a fixed vocabulary. What is measured is everything
else: prompts, ledger, parser, filters and novelty; then the same generation replayed from its ledger, as a restart
does. One table: CPU seconds of making and replaying, and the peak of memory.
"""

import asyncio
import random
import resource
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.table import Table

from alpaca.config import GenerationConfig
from alpaca.engines.budget import Budget
from alpaca.engines.exchange import Answer, BeforeRetry, Reply, Request, Usage, Wanted
from alpaca.selfinstruct.ledger import Ledger
from alpaca.selfinstruct.pipeline import Pipeline
from alpaca.selfinstruct.seeds import load_seeds
from alpaca.selfinstruct.settings import resolved
from alpaca.selfinstruct.stages import TaskStage

SYLLABLES = "ba ce di fo gu ha je ki lo mu na pe ri so tu va we xi yo zu".split()
WORDS = [first + second + third for first in SYLLABLES for second in SYLLABLES for third in SYLLABLES[:5]]


class InstantEngine:
    """Answers at once; its answer depends on the request's seed alone."""

    model = "instant"

    def most(self, request: Request) -> Usage:
        return Usage(1000, request.max_tokens)

    async def answer(
        self, request: Request, *, before_retry: BeforeRetry | None = None, wanted: Wanted | None = None
    ) -> Reply:
        draw = random.Random(request.seed)
        records = []
        for number in range(4, 21):
            instruction = " ".join(draw.choices(WORDS, k=draw.randint(6, 16))).capitalize()
            output = " ".join(draw.choices(WORDS, k=draw.randint(10, 60)))
            records.append(
                f"{number}. Instruction: {instruction}.\n{number}. Input:\n<noinput>\n{number}. Output:\n{output}."
            )
        text = "\n###\n".join(records)
        return Reply(request.id, (Answer(text, "stop"),), Usage(900, 1500))

    async def close(self) -> None:
        pass


def made(folder: Path, target: int) -> tuple[float, int]:
    """CPU seconds of making `target` tasks in `folder`, or of finding them there, and the number of candidates."""
    filled = resolved(GenerationConfig(target=target))
    started = time.process_time()
    ledger = Ledger(folder, keeps_under_way=False)
    stage = TaskStage(filled, load_seeds(filled.seeds))
    pipeline = Pipeline(InstantEngine(), ledger, Budget(), None, concurrency=8, give_up_after=50)
    asyncio.run(pipeline.run(stage))
    ledger.close()
    return time.process_time() - started, pipeline.tally.candidates


def main() -> None:
    """Measure and print."""
    target = int(sys.argv[1]) if len(sys.argv) > 1 else 52_000
    table = Table("what", "tasks", "CPU s", "peak MiB", title=f"{target:,} tasks of an instant engine")
    with tempfile.TemporaryDirectory() as name:
        for what in ("made", "replayed"):
            seconds, _ = made(Path(name), target)
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
            table.add_row(what, f"{target:,}", f"{seconds:.1f}", f"{peak:.0f}")
    Console().print(table)


if __name__ == "__main__":
    main()
