"""How much faster a batch is than one answer at a time: `python scripts/benchmark_decoding.py [--prompts 200]`.

The embedded model answers prompts of the seed tasks greedily in fp32, first in batches, then alone, and both must say
the same. Prompts are the seed tasks in the alpaca template, as often as needed. Prints seconds and the ratio.
"""

import argparse
import time

import numpy as np
import torch

from alpaca.data.encoding import encode_prompts
from alpaca.data.rows import Row
from alpaca.data.templates import Template
from alpaca.engines.local import model_of
from alpaca.evaluation.decoding import Sampling, answers
from alpaca.evaluation.instruction_sets import SEED_TASKS, rows_of
from alpaca.modeling.base import load_model, load_tokenizer
from alpaca.modeling.tokenizer import text_encoder
from alpaca.paths import packaged_file
from alpaca.training.precision import Compute
from alpaca.training.world import World

TEMPLATE = Template("alpaca", "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:\n",
                    "### Instruction:\n{instruction}\n\n### Response:\n")  # fmt: skip


def main() -> None:
    """Measure and print."""
    options = _parser().parse_args()
    config = model_of(options.model)
    tokenizer = load_tokenizer(config)
    compute = Compute(torch.device("cuda" if torch.cuda.is_available() else "cpu"), "fp32")
    model = load_model(config, tokenizer, seed=0, dtype=torch.float32, device=compute.device)
    tasks = list(rows_of(str(packaged_file(SEED_TASKS, key="seed tasks"))))
    rows = [tasks[number % len(tasks)] for number in range(options.prompts)]
    rows = [Row(row.instruction, row.input, "") for row in rows]
    prompts = [np.array(ids) for ids in encode_prompts(rows, TEMPLATE, text_encoder(tokenizer))]
    keys = [str(number) for number in range(len(rows))]
    found = {}
    seconds = {}
    for size in (options.batch_size, 1):
        started = time.perf_counter()
        found[size] = answers(
            model, tokenizer, prompts, Sampling(options.max_new_tokens), keys=keys, compute=compute, batch_size=size,
            world=World(),
        )  # fmt: skip
        seconds[size] = time.perf_counter() - started
        tokens = sum(answer.tokens for answer in found[size])
        print(f"batch {size:>3}: {seconds[size]:.1f} s, {tokens / seconds[size]:.0f} tokens/s", flush=True)
    same = sum(a == b for a, b in zip(found[1], found[options.batch_size], strict=True))
    print(f"{same} of {len(rows)} answers are the same; {seconds[1] / seconds[options.batch_size]:.2f} times as fast")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="Batched decoding against one answer at a time.")
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument("--max-new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--model", default="smollm2_135m")
    return parser


if __name__ == "__main__":
    main()
