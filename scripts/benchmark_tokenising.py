"""Time from rows to masked tokens, first and from the cache, and show which changes miss the cache.

    python scripts/benchmark_tokenising.py ROWS.json[.gz] [--rows 52000] [--model smollm2_135m] [--template alpaca]

The file's rows are repeated up to `--rows`, each repetition with its number in the instruction so that no
two are equal. Prints a table and writes outputs/benchmark_tokenising.json.
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir

from alpaca import cli, paths
from alpaca.config import Config
from alpaca.data import cache, sources
from alpaca.data.preparation import tokenised
from alpaca.data.rows import Row
from alpaca.data.selection import select
from alpaca.data.split import split


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("file", help="rows with instruction, input and output")
    parser.add_argument("--rows", type=int, default=52_000)
    parser.add_argument("--model", default="smollm2_135m")
    parser.add_argument("--template", default="alpaca")
    arguments = parser.parse_args()
    config = composed(arguments.file, arguments.model, arguments.template)

    from alpaca.modeling.base import load_tokenizer
    from alpaca.modeling.tokenizer import template_for, text_encoder

    results: dict[str, float] = {}

    def timed(what: str, work: Callable[[], Any]) -> Any:
        start = time.perf_counter()
        result = work()
        results[what] = round(time.perf_counter() - start, 3)
        print(f"{what:58} {results[what]:8.3f} s", flush=True)
        return result

    tokenizer = timed("load the tokenizer", lambda: load_tokenizer(config.model))
    encoder = timed("make the two encodings", lambda: text_encoder(tokenizer))
    template = template_for(tokenizer, config.template)
    source = timed("read the file", lambda: sources.load(config.data_source))
    rows = repeated(source.rows, arguments.rows)
    timed(f"hash {len(rows):,} rows", lambda: sources.content_hash(rows))
    halves = timed("hold out 128 rows", lambda: split(rows, 128))
    half = replace(config.data_source, fraction=0.5, deduplicate="exact", clean=True)
    timed("clean, exact duplicates, fraction 0.5", lambda: select(halves.train, half, lambda texts, threshold: None))

    with tempfile.TemporaryDirectory() as folder:
        os.environ["ALPACA_CACHE"] = folder
        train = config.train
        examples = timed("tokenise and lay out, first", lambda: tokenised(rows, template, encoder, train))
        timed("tokenise and lay out, from the cache", lambda: tokenised(rows, template, encoder, train))
        kept = len(list(cache.folder().iterdir()))
        changed = [replace(rows[0], output=rows[0].output + "."), *rows[1:]]
        timed("one character of one row changed", lambda: tokenised(changed, template, encoder, train))
        other = replace(template, prompt_without_input=template.prompt_without_input + " ")
        timed("one character of the template changed", lambda: tokenised(rows, other, encoder, train))
        longer = replace(train, max_length=train.max_length + 1)
        timed("max_length changed", lambda: tokenised(rows, template, encoder, longer))
        misses = len(list(cache.folder().iterdir())) - kept
        size = max(file.stat().st_size for file in cache.folder().iterdir())
    print(f"{misses} of 3 changes missed the cache; one file has {size / 2**20:.1f} MiB")
    print(f"{len(examples):,} examples, {examples.lengths.sum():,} tokens, {os.cpu_count()} CPUs")
    facts = {"rows": len(rows), "tokens": int(examples.lengths.sum()), "cpus": os.cpu_count(), "seconds": results}
    Path("outputs/benchmark_tokenising.json").write_text(json.dumps(facts, indent=2) + "\n")


def composed(file: str, model: str, template: str) -> Config:
    """The recipe's settings on `file`."""
    cli.register()
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        chosen = [f"model={model}", f"template={template}", "data_source=json", f"data_source.path={file}"]
        return cli.typed(compose("config", overrides=chosen))


def repeated(rows: list[Row], count: int) -> list[Row]:
    """`count` different rows."""
    return [
        replace(rows[index % len(rows)], instruction=f"{index // len(rows)} {rows[index % len(rows)].instruction}")
        for index in range(count)
    ]


if __name__ == "__main__":
    main()
