"""From the config's data settings to examples with their mask, and to the account of every row.

Rows are loaded, held-out ones split off, the knobs applied, the rest tokenised (or taken from the cache).
`Data.facts` is what `data.json` records: rows in = trained + evaluated + dropped, each drop with a reason.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from alpaca.config import Config, TrainConfig
from alpaca.data import cache, sources
from alpaca.data.encoding import Examples, TextEncoder, encode
from alpaca.data.rows import Row
from alpaca.data.selection import select
from alpaca.data.sources import Source, content_hash
from alpaca.data.split import split
from alpaca.data.templates import Template
from alpaca.errors import UserError
from alpaca.licences import Licensed, non_commercial, warning


@dataclass(frozen=True)
class Data:
    """The rows of a run as examples.

    Attributes:
        rows: training rows; `train.rows` indexes them.
        held_out_rows: `held_out.rows` indexes them.
        held_out: examples to score, always with labels on response and EOS alone; None when none are held out.
        facts: plain values for `data.json`.
        warnings: what the user should know, one sentence each.
    """

    source: Source
    rows: list[Row]
    train: Examples
    held_out_rows: list[Row]
    held_out: Examples | None
    facts: dict[str, Any]
    warnings: tuple[str, ...]


def prepare(config: Config, template: Template, encoder: TextEncoder) -> Data:
    """Load, split, select and tokenise.

    Raises:
        UserError: bad data, or settings that leave no row.
    """
    train = config.train
    source = sources.load(config.data_source)
    if not any(row.output.strip() for row in source.rows):
        raise UserError(
            f"data_source.path={source.path}: the outputs of all {len(source.rows):,} rows are empty; "
            "name the column with the answers, 'data_source.columns={output:THEIRS}'"
        )
    halves = split(source.rows, train.eval_rows)
    rows, unused = select(halves.train, config.data_source, near_duplicates)
    training = tokenised(
        rows, template, encoder, train, train_on_prompt=train.train_on_prompt, train_on_eos=train.train_on_eos
    )
    held_out = tokenised(halves.held_out, template, encoder, train) if halves.held_out else None
    evaluated = held_out if held_out is not None and len(held_out) else None
    dropped = (
        source.left_out + halves.dropped + unused + training.dropped + (held_out.dropped if held_out else Counter())
    )
    licensed = [Licensed(f"data_source {part.name}", part.license, part.license_note) for part in source.parts]
    licensed.append(Licensed(f"model {config.model.name}", config.model.license, config.model.license_note))
    facts = {
        "source": source.name,
        "path": source.path,
        "revision": source.revision,
        "content_hash": source.content_hash,
        "license": ", ".join(dict.fromkeys(part.license for part in source.parts)),
        "license_note": " ".join(dict.fromkeys(part.license_note for part in source.parts)),
        "non_commercial": any(non_commercial(part.license) for part in licensed),
        "template": template.name,
        "template_hash": template.hash(),
        "rows_in": len(source.rows) + source.left_out.total(),
        "rows_trained": len(training),
        "rows_evaluated": len(evaluated) if evaluated else 0,
        "rows_dropped": dict(dropped),
        "rows_truncated": training.truncated + (evaluated.truncated if evaluated else 0),
        "rows_trained_of": dict(Counter(rows[index].source or source.name for index in training.rows.tolist())),
        "logical_tokens": int(training.lengths.sum()),
        "supervised_tokens": int(training.supervised.sum()),
        "lineage": lineage(config, source, template),
    }
    notes = [*source.warnings, warning(licensed)]
    return Data(source, rows, training, halves.held_out, evaluated, facts, tuple(filter(None, notes)))


def tokenised(
    rows: list[Row],
    template: Template,
    encoder: TextEncoder,
    train: TrainConfig,
    *,
    train_on_prompt: bool = False,
    train_on_eos: bool = True,
) -> Examples:
    """`encode` through the cache."""
    settings: dict[str, Any] = {
        "max_length": train.max_length,
        "over_length": train.over_length,
        "train_on_prompt": train_on_prompt,
        "train_on_eos": train_on_eos,
    }
    key = {
        **settings,
        "rows": content_hash(rows),
        "template": template.hash(),
        "tokenizer": encoder.fingerprint,
    }
    return cache.kept(key, lambda: encode(rows, template, encoder, **settings), enabled=train.cache)[0]


def lineage(config: Config, source: Source, template: Template) -> dict[str, Any]:
    """What the result is made from: every part of the data, the template, the base model, with their licences."""
    return {
        "data": [
            {
                "name": part.name,
                "path": part.path,
                "revision": part.revision,
                "content_hash": part.content_hash,
                "rows": part.rows,
                "license": part.license,
                "license_note": part.license_note,
            }
            for part in source.parts
        ],
        "template": {"name": template.name, "hash": template.hash()},
        "model": {
            "name": config.model.name,
            "weights": config.model.weights,
            "revision": config.model.revision,
            "license": config.model.license,
            "license_note": config.model.license_note,
        },
    }


def near_duplicates(texts: Sequence[str], threshold: float) -> np.ndarray:
    """The exact ROUGE-L search, imported only where it is asked for."""
    from alpaca.data import novelty

    return novelty.near_duplicates(texts, threshold)
