"""What the judge's settings mean: nulls filled by rule, and checks before anything is opened or trained.

`check_judge` needs nothing but the settings; `check_ready` looks for what a judge needs at the end of a run,
so that a missing key is found before the training and not after it.
"""

import os
from dataclasses import replace
from pathlib import Path

from alpaca.config import JudgeConfig
from alpaca.engines.exchange import KEY
from alpaca.engines.prices import ON_THIS_MACHINE
from alpaca.engines.section import address, check_engine
from alpaca.errors import UserError
from alpaca.evaluation.judging.prompt import JSON, LINE

SECTION = "evaluation.judge"
REFERENCES = "references"
_MODELS = {"local": "smollm2_135m"}
_CONCURRENCY = {"openai_batch": 1000, "vllm": 256, "local": 16}


def resolved(settings: JudgeConfig) -> JudgeConfig:
    """Every null that a rule can fill filled in."""
    return replace(
        settings,
        base_url=address(settings),
        model=settings.model or _MODELS.get(settings.engine, "gpt-4.1-mini"),
        concurrency=settings.concurrency or _CONCURRENCY.get(settings.engine, 8),
        form=settings.form or (LINE if settings.engine == "local" else JSON),
    )


def judge_name(filled: JudgeConfig) -> str:
    """Which judge that is, for the identity of a judgement: the model, and where it is asked."""
    where = filled.engine if filled.engine in ON_THIS_MACHINE else filled.base_url or ""
    return f"{filled.model}@{where.rstrip('/')}"


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
    check_engine(resolved(settings), SECTION)


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
    asks_openai = settings.engine in ("openai", "openai_batch") and address(settings) is None
    if asks_openai and not os.environ.get(KEY, "").strip():
        raise UserError(
            f"{SECTION}.engine={settings.engine}: the environment variable {KEY} is not set; set it to your key, give "
            f"{SECTION}.base_url of a server that needs none, or replay {SECTION}.annotations=FILE"
        )
