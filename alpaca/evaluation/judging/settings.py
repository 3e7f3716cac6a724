"""What the judge's settings mean: nulls filled by rule, and checks before anything is opened or trained.

`check_judge` needs nothing but the settings; `check_ready` looks for what a judge needs at the end of a run,
so that a missing key is found before the training and not after it.
"""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from alpaca.config import JudgeConfig
from alpaca.engines.exchange import EngineSettings
from alpaca.engines.prices import ON_THIS_MACHINE, Prices, prices_of
from alpaca.errors import UserError
from alpaca.evaluation.judging.prompt import JSON, LINE

SECTION = "evaluation.judge"
REFERENCES = "references"
KEY = "OPENAI_API_KEY"
_ENGINE_KEYS = re.compile(
    r"(?<![\w.])((?:engine|model|concurrency|retries|timeout_s)(?==)|base_url|budget_\w+|price_\w+)"
)
_MODELS = {"local": "smollm2_135m"}
_CONCURRENCY = {"openai_batch": 1000, "vllm": 256, "local": 16}


def resolved(settings: JudgeConfig) -> JudgeConfig:
    """Every null that a rule can fill filled in."""
    return replace(
        settings,
        model=settings.model or _MODELS.get(settings.engine, "gpt-4.1-mini"),
        concurrency=settings.concurrency or _CONCURRENCY.get(settings.engine, 8),
        form=settings.form or (LINE if settings.engine == "local" else JSON),
    )


def engine_settings(filled: JudgeConfig, state_dir: str | None = None) -> EngineSettings:
    """How the engine of resolved settings is opened."""
    return EngineSettings(
        name=filled.engine,
        model=filled.model or "",
        base_url=filled.base_url,
        concurrency=filled.concurrency or 1,
        timeout_s=filled.timeout_s,
        retries=filled.retries,
        state_dir=state_dir,
        poll_s=filled.poll_s,
    )


def judge_name(filled: JudgeConfig) -> str:
    """Which judge that is, for the identity of a judgement: the model, and where it is asked."""
    where = filled.engine if filled.engine in ON_THIS_MACHINE else filled.base_url or ""
    return f"{filled.model}@{where.rstrip('/')}"


def prices(filled: JudgeConfig) -> Prices | None:
    """What the judge costs; None where nobody has said."""
    given: dict[str, Any] = {"price_prompt": filled.price_prompt, "price_completion": filled.price_completion}
    return prices_of(engine_settings(filled), **given)


def annotation_files(settings: JudgeConfig) -> list[str]:
    """The files to replay; none where a model judges."""
    given = settings.annotations
    if given is None:
        return []
    listed = [given] if isinstance(given, str) else given
    if not isinstance(listed, list) or not all(isinstance(one, str) and one for one in listed) or not listed:
        raise UserError(f"{SECTION}.annotations={given}: give a file or a list of files, such as [a.jsonl,b.jsonl]")
    return listed


def check_judge(settings: JudgeConfig) -> None:
    """Raise `UserError` for the first setting that cannot work; ranges were checked with all other sections."""
    if annotation_files(settings):
        return
    if not settings.baseline.strip():
        raise UserError(
            f"{SECTION}.baseline is empty: name another run's folder or a file of outputs, or {REFERENCES} for the "
            "outputs that the evaluated rows came with"
        )
    filled = resolved(settings)
    _check_address(filled)
    if (filled.price_prompt is None) != (filled.price_completion is None):
        raise UserError(
            f"{SECTION}.price_prompt and {SECTION}.price_completion go together: set both, in dollars a million tokens"
        )
    if filled.budget_usd is not None and prices(filled) is None:
        raise UserError(
            f"{SECTION}.budget_usd={filled.budget_usd:g}: the price of {SECTION}.model={filled.model} is not known; "
            f"give {SECTION}.price_prompt and price_completion in dollars a million tokens, or limit "
            f"{SECTION}.budget_tokens"
        )


def check_ready(settings: JudgeConfig) -> None:
    """Raise `UserError` where a judgement now could not begin: settings, key, baseline or annotations that are missing.

    Nothing is sent; call it before a training that is to end with a judgement.
    """
    check_judge(settings)
    files = annotation_files(settings)
    for name in files:
        if not Path(name).expanduser().is_file():
            raise UserError(f"{SECTION}.annotations={name}: no such file; give one in AlpacaEval's or Vicuna's form")
    if files:
        return
    place = Path(settings.baseline).expanduser()
    if settings.baseline != REFERENCES and not place.exists():
        raise UserError(
            f"{SECTION}.baseline={settings.baseline}: no such file or folder; name a run, a file of outputs, or "
            f"{REFERENCES}"
        )
    asks_openai = settings.engine in ("openai", "openai_batch") and settings.base_url is None
    if asks_openai and not os.environ.get(KEY, "").strip():
        raise UserError(
            f"{SECTION}.engine={settings.engine}: the environment variable {KEY} is not set; set it to your key, give "
            f"{SECTION}.base_url of a server that needs none, or replay {SECTION}.annotations=FILE"
        )


def in_our_words(error: UserError) -> UserError:
    """An engine knows its settings by their own names; the user types them with the section in front."""
    return UserError(_ENGINE_KEYS.sub(rf"{SECTION}.\1", str(error)))


def _check_address(filled: JudgeConfig) -> None:
    if filled.base_url is None:
        return
    if filled.engine in ON_THIS_MACHINE:
        raise UserError(
            f"{SECTION}.base_url={filled.base_url}: {SECTION}.engine={filled.engine} asks no server; set "
            f"{SECTION}.engine=openai, or leave the address out"
        )
    try:
        address = urlsplit(filled.base_url)
        host, _ = address.hostname, address.port
    except ValueError:
        host = None
    if not host or address.scheme not in ("http", "https"):
        raise UserError(f"{SECTION}.base_url={filled.base_url}: no web address; write it as http://127.0.0.1:8000/v1")
    if address.username or address.password or address.query:
        raise UserError(
            f"{SECTION}.base_url={address.scheme}://...{host}...: an address is written into files, so it must hold no "
            f"password and no query; put the key into the environment as {KEY}"
        )
