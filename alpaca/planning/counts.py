"""How many examples and tokens a run trains on: counted where the rows are here, else known or assumed.

Rows of local and packaged files are read. Where the model's tokenizer is on this machine too they go
through the run's own preparation, so every count is exact; else their tokens are estimated from their
characters. Hub data sets are not downloaded: `datasets.yaml` knows the usual ones.
"""

import functools
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from alpaca import paths
from alpaca.config import Config, DataSourceConfig
from alpaca.data.encoding import Examples
from alpaca.data.mix import part_settings, rows_of_parts
from alpaca.errors import UserError
from alpaca.planning.architecture import sizes_of, weights_folder
from alpaca.signature import GENERATED, HUB_PREFIX, RANDOM

LIST = Path(__file__).with_name("datasets.yaml")
STANDARD = "hub:tatsu-lab/alpaca"  # its lengths stand in where none are known
CHARACTERS_PER_TOKEN = 4.2  # English instruction data under vocabularies of 32,000 to 152,000: 3.9 to 4.6
USUAL = "gpt2"  # family of tokenizers that stands in for an unknown one
DRAWN = 8192  # lengths drawn where only their distribution is known


@dataclass(frozen=True)
class Counts:
    """Rows and tokens of a run.

    Attributes:
        rows: rows of the data source.
        examples: rows that are trained on.
        held_out: rows that are scored.
        lengths: tokens of examples; all of them where `exact`, else a sample that has the distribution.
        supervised: labels of the same.
        opening: tokens that every example begins with alike, where `examples` are not at hand.
        tokenised: the examples themselves where they were counted.
        exact: whether every number is what the run will have.
        source: where the numbers come from, in words.
    """

    rows: int
    examples: int
    held_out: int
    lengths: np.ndarray
    supervised: np.ndarray
    opening: int
    exact: bool
    source: str
    tokenised: Examples | None = None

    @property
    def logical(self) -> int:
        """Tokens of one epoch."""
        return self._whole(self.lengths)

    @property
    def labels(self) -> int:
        """Supervised tokens of one epoch."""
        return self._whole(self.supervised)

    def _whole(self, values: np.ndarray) -> int:
        return int(values.sum()) if self.exact else round(float(values.mean()) * self.examples)


def of_examples(examples: Examples, *, rows: int = 0, held_out: int = 0, source: str = "counted") -> Counts:
    """Counts of examples that are there; `rows` and `held_out` where they are asked for."""
    return Counts(rows, len(examples), held_out, examples.lengths, examples.supervised, 0, True, source, examples)


def count(config: Config) -> Counts:
    """The counts of `config`'s run.

    Raises:
        UserError: a file that cannot be read, or a data set whose size is not known here.
    """
    source = config.data_source
    if source.mix:
        parts = {name: part_settings(name, source.sources.get(name, {})) for name in source.mix}
        if all(_is_local(part) for part in parts.values()):
            return _counted(config)
        return _of_mix(config, parts)
    if source.path == GENERATED:
        rows = config.generation.target or 0
        if not rows:
            raise UserError("generation.target is missing: a plan needs the number of tasks, generation.target=1000")
        facts = _known()[STANDARD]
        return _assumed(config, rows, facts, f"{rows:,} generated rows, each as long as one of alpaca_52k (assumed)")
    if _is_local(source):
        return _counted(config)
    facts, words = _published(source)
    return _assumed(config, facts["rows"], facts, words)


def _is_local(source: DataSourceConfig) -> bool:
    return not (isinstance(source.path, str) and source.path.startswith(HUB_PREFIX))


def _counted(config: Config) -> Counts:
    """From the rows themselves."""
    if (where := tokenizer_folder(config.model.weights)) is not None:
        from alpaca.planning.exact import counted

        return counted(config, where)
    return _from_characters(config)


def _from_characters(config: Config) -> Counts:
    """Rows split and selected as in a run; tokens from characters, since the tokenizer is not on this machine."""
    from alpaca.data import sources
    from alpaca.data.preparation import near_duplicates
    from alpaca.data.selection import select
    from alpaca.data.split import split
    from alpaca.data.templates import Template

    rows = sources.load(config.data_source).rows
    halves = split(rows, config.train.eval_rows)
    chosen, _ = select(halves.train, config.data_source, near_duplicates)
    template = Template.from_config(config.template)
    per_token = CHARACTERS_PER_TOKEN
    prompts = np.array([math.ceil(len(template.prompt(row)) / per_token) for row in chosen], dtype=np.int64)
    answers = np.array([math.ceil(len(row.output) / per_token) + 1 for row in chosen], dtype=np.int64)
    fits = prompts < config.train.max_length
    prompts, answers = prompts[fits], answers[fits]
    lengths = np.minimum(prompts + answers, config.train.max_length)
    labels = lengths - (1 if config.train.train_on_prompt else prompts)
    words = (
        f"rows counted; tokens from {per_token} characters each (assumed), for the tokenizer of "
        f"{config.model.weights} is not on this machine"
    )
    return Counts(len(rows), len(lengths), len(halves.held_out), lengths, labels, _opening(config), False, words)


def _published(source: DataSourceConfig) -> tuple[dict[str, Any], str]:
    """What is known about a hub data set, and from where."""
    known = _known()
    standard = known[STANDARD]
    if source.path in known:
        facts = known[source.path]
        if not facts.get("assumed"):
            return facts, f"{facts['rows']:,} rows and their lengths as published (alpaca/planning/datasets.yaml)"
        return {
            **standard,
            **facts,
        }, f"{facts['rows']:,} rows as published, each as long as one of alpaca_52k (assumed)"
    if source.limit is None:
        raise UserError(
            f"data_source.path={source.path}: its size is not known here and nothing is downloaded for a plan; "
            "set data_source.limit=ROWS to plan with that many"
        )
    rows = source.limit
    return {**standard, "rows": rows}, f"{rows:,} rows (data_source.limit), each as long as one of alpaca_52k (assumed)"


def _of_mix(config: Config, parts: dict[str, DataSourceConfig]) -> Counts:
    """Rows of each part in its share; lengths drawn from all parts alike."""
    found = {
        name: count(replace(config, data_source=part, train=replace(config.train, eval_rows=0)))
        for name, part in parts.items()
    }
    rows = sum(part.rows for part in found.values())
    taken = rows_of_parts({name: part.examples for name, part in found.items()}, config.data_source.mix)
    chosen = _after_knobs(config, sum(taken.values()) - config.train.eval_rows)
    share = {name: max(1, round(DRAWN * taken[name] / sum(taken.values()))) for name in found}
    drawn = {name: np.resize(part.lengths, share[name]) for name, part in found.items()}
    labels = {name: np.resize(part.supervised, share[name]) for name, part in found.items()}
    order = np.random.default_rng(0).permutation(sum(share.values()))
    words = "; ".join(f"{name}: {part.source}" for name, part in found.items())
    return Counts(
        rows,
        chosen,
        config.train.eval_rows,
        np.concatenate(list(drawn.values()))[order],
        np.concatenate(list(labels.values()))[order],
        _opening(config),
        False,
        words,
    )


def _assumed(config: Config, rows: int, facts: dict[str, Any], words: str) -> Counts:
    """Lengths drawn from the log-normal distribution with the published mean and median."""
    source, train = config.data_source, config.train
    if train.eval_rows >= rows:
        raise UserError(f"train.eval_rows={train.eval_rows}: the source has only {rows:,} rows; set a smaller number")
    left = rows - train.eval_rows
    if source.with_input != "any":
        share = facts["with_input"] if source.with_input == "only" else 1 - facts["with_input"]
        left = round(left * share)
    family = tokenizer_family(config)
    whose = _known()["families"][family or USUAL]["words"]
    mean, median = (_of_family(facts[what], what, family or USUAL) for what in ("tokens", "median"))
    spread = math.sqrt(2 * math.log(mean / median))
    places = (np.arange(DRAWN) + 0.5) / DRAWN
    drawn = np.exp(math.log(median) + spread * _normal_quantiles(places))
    opening = _opening(config)
    shift = opening - _opening_of_alpaca()  # the counts are those of the template `alpaca`
    lengths = np.clip(np.rint(drawn + shift), opening + 8, train.max_length).astype(np.int64)
    labels = lengths - 1 if train.train_on_prompt else np.maximum(1, np.rint(lengths * facts["response"])).astype(int)
    order = np.random.default_rng(0).permutation(DRAWN)
    unknown = [key for key, off in (("clean", False), ("deduplicate", "none")) if getattr(source, key) != off]
    note = f"; what data_source.{' and '.join(unknown)} drops is not counted" if unknown else ""
    return Counts(
        rows,
        _after_knobs(config, left),
        train.eval_rows,
        lengths[order],
        np.asarray(labels, dtype=np.int64)[order],
        opening,
        False,
        f"{words}, {whose} tokenizer{'' if family else ' (assumed)'}{note}",
    )


def _after_knobs(config: Config, rows: int) -> int:
    """Rows left by `fraction` and `limit`, as `alpaca/data/selection.py` takes them."""
    source = config.data_source
    if source.fraction is not None:
        rows = max(1, round(source.fraction * rows))
    return min(rows, source.limit) if source.limit is not None else max(1, rows)


def _opening(config: Config) -> int:
    """Tokens before the first place where rows can differ, from its characters."""
    return round(len(config.template.prompt_without_input.partition("{")[0]) / 5)


def _opening_of_alpaca() -> int:
    return 25


def tokenizer_family(config: Config) -> str | None:
    """Name in `datasets.yaml` of the family that the model's tokenizer is of, None for one that is not known there.

    By the kind of model and the range its vocabulary lies in: added special tokens and padded rows change no count.
    """
    try:
        sizes = sizes_of(config.model)
    except UserError:
        return None
    kind, vocabulary = str(sizes.get("model_type", "")), int(sizes.get("vocab_size") or 0)
    for name, family in _known()["families"].items():
        least, most = family["vocabulary"]
        if kind.startswith(tuple(family["types"])) and least <= vocabulary <= most:
            return str(name)
    return None


def _of_family(values: dict[str, float], what: str, family: str) -> float:
    """A mean or median by the family's tokenizer, scaled from another one's as on the original Alpaca rows."""
    if family in values:
        return values[family]
    known = next(iter(values))
    standard = _known()[STANDARD][what]
    return values[known] * float(standard[family]) / float(standard[known])


def _normal_quantiles(shares: np.ndarray) -> np.ndarray:
    from statistics import NormalDist

    normal = NormalDist()
    return np.array([normal.inv_cdf(float(share)) for share in shares])


@functools.cache
def _known() -> dict[str, Any]:
    return dict(yaml.safe_load(LIST.read_text(encoding="utf-8")))


def tokenizer_folder(weights: str) -> Path | None:
    """Where the tokenizer of `model.weights` is on this machine; `random` stands for the one that is made."""
    if weights == RANDOM:
        return Path(RANDOM)
    if (folder := weights_folder(weights)) is not None:
        return folder
    if weights.startswith(paths.PACKAGE_PREFIX):
        from alpaca.modeling.embedded import converted

        return converted(weights)
    return _in_hub_cache(weights)


def _in_hub_cache(name: str) -> Path | None:
    """The snapshot of a hub model in the local cache, if its tokenizer is in it; asks nobody."""
    from huggingface_hub import try_to_load_from_cache

    try:
        found = try_to_load_from_cache(name, "tokenizer.json")
    except ValueError:
        return None
    return Path(found).parent if isinstance(found, str) else None
