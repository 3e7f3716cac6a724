"""Runs as a sweep leaves them, with numbers and texts like those of real ones, for tests that need many."""

import random
from collections.abc import Sequence

from alpaca.report.comparing import compare
from alpaca.report.reading import Found
from alpaca.report.records import FAILED, FINISHED, MISSING, Comparison, Run

SYSTEM = (
    "Below is an instruction that describes a task. Write a response that appropriately completes the request."
    "\n\n### Instruction:\n"
)
TASKS = ("Name three rivers of", "Write a short poem about", "Explain in two sentences the history of", "List facts on")
WORDS = "the river runs slowly past old houses and a quiet bridge while people walk home in early evening light".split()


def run(
    variant: int,
    seed: int,
    *,
    status: str = FINISHED,
    error: str = "",
    examples: int = 128,
    steps: int = 800,
    hostile: Sequence[str] = (),
    settings: dict[str, object] | None = None,
) -> Run:
    """One run; a higher variant is better and costs more. Its first answers are `hostile`."""
    dice = random.Random(1000 * variant + seed)
    own = settings or {"adapter.rank": 2 ** (variant + 1), "optimizer.lr": 1e-4}
    if status == MISSING:
        return Run(f"v{variant}s{seed}", "", status, seed, str(variant), own, error=error)
    shift = 0.06 * min(variant, 3) + dice.gauss(0, 0.01)
    loss, rouge, weights, texts = {}, {}, {}, {}
    for number in range(examples if status == FINISHED else 0):
        name, same = f"{number:016x}", random.Random(number)
        loss[name] = same.uniform(0.8, 2.4) - shift + dice.gauss(0, 0.05)
        rouge[name] = min(1.0, max(0.0, same.uniform(0.1, 0.6) + shift / 2 + dice.gauss(0, 0.05)))
        weights[name] = float(same.randint(20, 120))
        answer = " ".join(dice.choices(WORDS, k=dice.randint(20, 90))).capitalize() + "."
        texts[name] = {
            "prompt": f"{SYSTEM}{same.choice(TASKS)} country {number}.\n\n### Response:",
            "reference": " ".join(same.choices(WORDS, k=40)),
            "output": hostile[number] if number < len(hostile) else answer,
        }
    metrics = {}
    if loss:
        total = sum(weights.values())
        metrics = {
            "eval/loss": sum(loss[name] * weights[name] for name in loss) / total,
            "eval/rougeL": sum(rouge.values()) / len(rouge),
        }
    last = steps if status == FINISHED else steps // 3
    train = [(s, 1.1 + 1.4 * 0.995**s - shift * s / steps + dice.gauss(0, 0.08)) for s in range(1, last + 1)]
    evals = [(s, 1.6 + 0.9 * 0.99**s - shift * s / steps) for s in range(0, last + 1, max(1, steps // 8))]
    seconds = 5000 + 900 * variant + dice.gauss(0, 60)
    return Run(
        name=f"v{variant}s{seed}",
        place=f"outputs/sweeps/rank/v{variant}s{seed}",
        status=status,
        seed=seed,
        variant=str(variant),
        settings=own,
        metrics=metrics,
        curves={"train/loss": train, "eval/loss": evals},
        scores={"eval/loss": loss, "eval/rougeL": rouge} if loss else {},
        weights={"eval/loss": weights} if loss else {},
        texts=texts,
        costs={
            "wall_time_s": seconds,
            "tokens_per_s": 9000.0 - 300 * variant,
            "peak_memory_gib": 14.5 + 1.7 * variant + dice.gauss(0, 0.05),
            "trained_parameters": 4.2e6 * 2**variant,
            "dollars": seconds * 3 / 3600,
        },
        error=error,
        directions={"eval/loss": "lower", "eval/rougeL": "higher"},
        tokenizer="one",
    )


def sweep(runs: list[Run], title: str = "rank") -> Comparison:
    """The comparison of runs, the first of them in the baseline."""
    question = "Does a higher LoRA rank help on Alpaca's held-out examples?"
    return compare(Found(runs, title, question, "A rank helps if its interval lies below zero.", runs[0]))


def four_by_three(hostile: Sequence[str] = ()) -> Comparison:
    """Four variants, three seeds; one run failed and one is missing."""
    runs = [run(variant, seed, hostile=hostile) for variant in range(4) for seed in range(3)]
    runs[5] = run(1, 2, status=FAILED, error='train.micro_batch: out of memory at step 266 <of 800> & "stopped"')
    runs[10] = run(3, 1, status=MISSING, error="it has not run yet")
    return sweep(runs)
