"""Everything `alpaca.inspect` reports about one configuration, computed once.

Comes in: a checked config and its tokenizer; no weights are loaded. Goes out: `Survey`. The rows and
examples are those a run would get, from the same function.
"""

from collections.abc import Callable

import numpy as np
from transformers import PreTrainedTokenizerBase

from alpaca.config import Config, TrainConfig
from alpaca.data.diversity import diversity
from alpaca.data.encoding import Examples
from alpaca.data.preparation import Data, prepare
from alpaca.data.rows import Row
from alpaca.data.statistics import Spread, packing, spread, words
from alpaca.data.steps import StepPlan, token_budget
from alpaca.data.templates import Template
from alpaca.inspection.examples import ShownExample, choose, shown
from alpaca.inspection.findings import findings
from alpaca.inspection.results import BINS, Rows, Survey
from alpaca.modeling.tokenizer import template_for, text_encoder


def survey(
    config: Config, tokenizer: PreTrainedTokenizerBase, *, signature: str, examples: int, say: Callable[[str], None]
) -> Survey:
    """Look at everything the run of `config` would train on; `examples` of it token by token.

    Args:
        signature: of the run this configuration would make.
        say: told what was just finished; the slow parts take seconds.

    Raises:
        UserError: bad data, as a run would raise it.
    """
    train = config.train
    template = template_for(tokenizer, config.template)
    data = prepare(config, template, text_encoder(tokenizer))
    facts, trained = data.facts, data.train
    say(f"{facts['rows_in']:,} rows read, {len(trained):,} tokenised for training")
    used = [*data.rows, *data.held_out_rows]
    found = findings(data.rows, data.held_out_rows)
    say("defects and near-duplicates searched")
    plan = StepPlan(len(trained), train.seed, train.epochs, train.global_batch_size, train.max_steps)
    return Survey(
        about={**_about(config, data, template, len(tokenizer)), "run signature": signature},
        warnings=data.warnings,
        facts=facts,
        rows=Rows(
            source=facts["rows_in"],
            trained=facts["rows_trained"],
            held_out=facts["rows_evaluated"],
            dropped=facts["rows_dropped"],
            truncated=facts["rows_truncated"],
            with_input=sum(bool(row.input.strip()) for row in used) / len(used),
        ),
        lengths=_lengths([data.rows[index] for index in trained.rows], trained, template),
        tokens=int(trained.lengths.sum()),
        supervised_share=float(trained.supervised.sum() / trained.lengths.sum()),
        histogram=_histogram(trained.lengths),
        max_length=train.max_length,
        packing=packing(
            trained,
            plan,
            ranks=(config.parallelism.devices or 1) * config.parallelism.nodes,
            token_budget=token_budget(train.micro_batch_tokens, train.max_length),
        ),
        defects=found,
        diversity=diversity(row.instruction for row in used),
        examples=_examples(data, tokenizer, examples, train),
    )


def _about(config: Config, data: Data, template: Template, vocabulary: int) -> dict[str, str]:
    sources = "; ".join(
        f"{part.name}, {part.path}{f' at {part.revision[:12]}' if part.revision else ''}, {part.rows:,} rows"
        for part in data.source.parts
    )
    return {
        "data source": sources,
        "data licence": _licence(data.facts["license"], data.facts["license_note"]),
        "content hash": data.source.content_hash,
        "template": f"{template.name}, hash {template.hash()[:12]}",
        "model": f"{config.model.name}, {vocabulary:,} tokens in its vocabulary",
        "model licence": _licence(config.model.license, config.model.license_note),
    }


def _licence(name: str, note: str) -> str:
    return f"{name or 'not stated'}. {note}".strip()


def _lengths(rows: list[Row], examples: Examples, template: Template) -> dict[str, Spread]:
    return {
        "prompt, tokens": spread(examples.prompt_lengths),
        "response, tokens": spread(examples.lengths - examples.prompt_lengths),
        "prompt + response, tokens": spread(examples.lengths),
        "prompt, words": spread([words(template.prompt(row)) for row in rows]),
        "instruction, words": spread([words(row.instruction) for row in rows]),
        "input where there is one, words": spread([words(row.input) for row in rows if row.input.strip()]),
        "response, words": spread([words(row.output) for row in rows]),
    }


def _histogram(lengths: np.ndarray) -> tuple[list[int], list[int]]:
    width = max(1, -(-int(lengths.max()) // BINS))
    edges = np.arange(0, BINS + 1) * width
    counts, _ = np.histogram(lengths, bins=edges + 0.5)
    return edges.tolist(), counts.tolist()


def _examples(data: Data, tokenizer: PreTrainedTokenizerBase, count: int, train: TrainConfig) -> list[ShownExample]:
    def decode(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))

    special = set(tokenizer.all_special_ids)
    eos = int(tokenizer.eos_token_id) if train.train_on_eos else None
    chosen = choose(data.rows, data.train, count, eos=eos, max_length=train.max_length)
    return [shown(index, why, data.rows, data.train, decode, special) for index, why in chosen]
