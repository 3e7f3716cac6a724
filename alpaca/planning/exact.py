"""Counts from the rows and the real tokenizer, through the run's own preparation.

The tokenizer brings torch along, which takes seconds: what was counted once is kept in the cache under
everything it depends on, so the second plan of the same data is instant.
"""

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from alpaca.config import Config
from alpaca.data import cache
from alpaca.data.encoding import Examples
from alpaca.planning.counts import Counts, of_examples
from alpaca.signature import RANDOM, file_hash, training_settings

CODE_VERSION = 1  # raise it whenever the same settings give other examples
WORDS = "counted with the model's own tokenizer"


def counted(config: Config, tokenizer: Path) -> Counts:
    """Rows, examples and tokens exactly as the run will have them.

    Raises:
        UserError: bad data, or settings that leave no row.
    """
    key = _key(config, tokenizer)
    facts: dict[str, Any] = {}

    def make() -> Examples:
        prepared, found = _prepared(config, tokenizer)
        facts.update(found)
        return prepared

    examples, kept = cache.kept({"plan": key}, make, enabled=config.train.cache)
    memo = cache.folder().parent / "plans" / f"{key}.json"
    if kept:
        try:
            facts = json.loads(memo.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            examples = make()
    if config.train.cache:
        _write(memo, facts)
    return of_examples(examples, rows=facts["rows"], held_out=facts["held_out"], source=WORDS)


def _prepared(config: Config, tokenizer: Path) -> tuple[Examples, dict[str, int]]:
    from alpaca.launch import silenced_notices

    with silenced_notices():
        from alpaca.data.preparation import prepare
        from alpaca.modeling.base import load_tokenizer
        from alpaca.modeling.quiet import quiet_libraries
        from alpaca.modeling.tokenizer import template_for, text_encoder

        quiet_libraries()
        weights = RANDOM if str(tokenizer) == RANDOM else str(tokenizer)
        loaded = load_tokenizer(replace(config.model, weights=weights))
        data = prepare(config, template_for(loaded, config.template), text_encoder(loaded))
    return data.train, {"rows": data.facts["rows_in"], "held_out": data.facts["rows_evaluated"]}


def _key(config: Config, tokenizer: Path) -> str:
    """Everything that the examples depend on: settings and rows by the signature, the tokenizer by its files."""
    local = replace(config, model=replace(config.model, weights=RANDOM, revision=None))
    settings = {name: value for name, value in training_settings(local).items() if _decides(name)}
    files = sorted(tokenizer.glob("*token*")) if tokenizer.is_dir() else []
    settings["tokenizer"] = [file_hash(file) for file in files] or config.model.architecture.get("vocab_size")
    settings["code"] = [CODE_VERSION, cache.CODE_VERSION]
    return hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest()[:32]


def _decides(name: str) -> bool:
    if name.startswith(("data_source.", "template.")):
        return True
    return name in {
        f"train.{key}" for key in ("max_length", "over_length", "train_on_prompt", "train_on_eos", "eval_rows")
    }


def _write(memo: Path, facts: dict[str, Any]) -> None:
    try:
        memo.parent.mkdir(parents=True, exist_ok=True)
        memo.write_text(json.dumps(facts), encoding="utf-8")
    except OSError:
        pass  # the memo only saves time
