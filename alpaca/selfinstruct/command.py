"""From a checked config to a finished generation: directory, ledger, engine, stages, result.

However it ends, the directory holds everything that was paid for, and the same command goes on from it.
"""

import asyncio
import contextlib
import errno
import json
import signal
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.markup import escape

from alpaca.config import Config, DataSourceConfig, GenerationConfig
from alpaca.data.rows import Row
from alpaca.engines.budget import Budget
from alpaca.engines.exchange import Engine, EngineSettings
from alpaca.engines.prices import Prices
from alpaca.engines.refusals import NoStructure
from alpaca.engines.section import engine_settings, in_words_of, prices
from alpaca.errors import RunFailed, UserError
from alpaca.selfinstruct import directories, reporting
from alpaca.selfinstruct.directories import DATASET
from alpaca.selfinstruct.judging import KEPT
from alpaca.selfinstruct.ledger import Ledger
from alpaca.selfinstruct.pipeline import Pipeline
from alpaca.selfinstruct.result import CARD, Result, diversity_of, licence_of
from alpaca.selfinstruct.seeds import load_seeds
from alpaca.selfinstruct.settings import EVOLVE, REANSWER, SECTION, SELF_INSTRUCT, resolved
from alpaca.selfinstruct.stages import AnswerStage, Stage, TaskStage
from alpaca.signature import generation_settings, generation_signature
from alpaca.startup import ended_by_signals, heard
from alpaca.tracking.folders import GENERATION, refuse_foreign
from alpaca.tracking.run_directory import FAILED, FINISHED, INTERRUPTED, RunDirectory, read_json
from alpaca.tracking.terminal import Terminal
from alpaca.tracking.wandb_run import WandbRun


@dataclass
class _Job:
    """What belongs to one generation while it runs."""

    config: Config
    filled: GenerationConfig
    prices: Prices | None
    budget: Budget
    ledger: Ledger
    terminal: Terminal
    tracker: WandbRun
    pipeline: Pipeline
    sources: Sequence[Row]
    rows: list[Row]
    before: dict[str, Any]
    kept: int = 0
    lost: int = 0


def generate(config: Config, path: Path, overrides: list[str], *, beside_training: bool = False) -> dict[str, Any]:
    """Make the data set of `config.generation` in `path`, or find it finished there; returns its summary.

    Args:
        beside_training: the process trains on it afterwards, so a W&B run that the environment names is not this one.

    Raises:
        UserError: settings, key, model or files that cannot work.
        RunFailed: the budget is used up, or the model gives nothing that can be kept.
        KeyboardInterrupt: interrupted; nothing is lost.
    """
    refuse_foreign(path, GENERATION)
    mark = generation_signature(config.generation)
    config = replace(config, generation=resolved(config.generation))
    found = directories.summary(path)
    finished = found.get("status") == FINISHED and found.get("signature") == mark
    if finished and _complete(path, found, config.generation, lost_too=not beside_training):
        print(f"generation {mark} is finished: {path} is used as it is ({found['kept']:,} tasks)", flush=True)
        return found
    directories.check_same(path, config.generation)
    sources = _sources(config.generation)
    priced = prices(config.generation)
    budget = Budget(usd=config.generation.budget_usd, tokens=config.generation.budget_tokens, prices=priced)
    engine = open_engine(
        engine_settings(config.generation, api=config.generation.api or "chat", state_dir=str(path / "batches"))
    )
    directory = RunDirectory(path, mark, generation_settings(config.generation), extends=True, kind=GENERATION)
    try:
        with ended_by_signals():
            return _in_directory(
                config, mark, directory, overrides, engine, budget, priced, sources, found, beside_training
            )
    finally:
        directory.close()


def open_engine(settings: EngineSettings) -> Engine:
    """The engine, its module imported now: none is wanted for `--help` or a static check."""
    from alpaca.engines.opening import open_engine as opened

    try:
        return opened(settings)
    except UserError as error:
        raise in_words_of(SECTION, error) from None


def _in_directory(
    config: Config,
    mark: str,
    directory: RunDirectory,
    overrides: list[str],
    engine: Engine,
    budget: Budget,
    prices: Prices | None,
    sources: Sequence[Row],
    before: dict[str, Any],
    beside_training: bool,
) -> dict[str, Any]:
    filled = config.generation
    terminal = Terminal(directory.path / "run.log")
    keeps = filled.engine == "openai_batch"
    began = _began(directory.path)
    # Before any other file: by it the folder is known as a generation's, even if this process is killed now.
    directory.write_environment(device="none", precision="none", world_size=1, choices={"began": began})
    ledger = Ledger(directory.path, keeps_under_way=keeps)  # before the settings: a directory is known by both
    (directory.path / "summary.json").unlink(missing_ok=True)
    directory.write_settings(config, overrides)
    tracker = WandbRun(
        config, directory.path, {"signature": mark}, terminal.warn, job_type="generate", apart=beside_training
    )
    pipeline = Pipeline(
        engine,
        ledger,
        budget,
        prices,
        concurrency=filled.concurrency or 1,
        give_up_after=filled.give_up_after,
        keeps_under_way=keeps,
        say=terminal.warn,
    )
    job = _Job(config, filled, prices, budget, ledger, terminal, tracker, pipeline, sources, [], before)
    _announce(job, mark, directory.path)
    status, reason = FAILED, ""
    try:
        asyncio.run(_all_stages(job, engine))
        status = FINISHED
    except KeyboardInterrupt:
        status = INTERRUPTED
        raise
    except UserError as error:
        reason = str(in_words_of(SECTION, error))
        if isinstance(error, NoStructure):
            reason += "; set generation.prompt=alpaca_chat to ask for a list"
        raise UserError(reason) from None
    except RunFailed as error:
        reason = str(error)
        raise
    except OSError as error:
        reason = _no_room(error, directory.path)
        raise RunFailed(reason) from None
    except BaseException as error:
        reason = f"{type(error).__name__}: {error}"
        raise
    finally:
        ledger.close()
        summary = _close(job, mark, directory, began, status, reason)
        terminal.close()
    return summary


def _close(job: _Job, mark: str, directory: RunDirectory, began: str, status: str, reason: str) -> dict[str, Any]:
    """Write the result, whole or as far as it came, and close terminal and tracker."""
    result = Result(
        rows=job.rows,
        kept=job.kept,
        filled=job.filled,
        tally=job.pipeline.tally,
        budget=job.budget,
        prices=job.prices,
        requests=job.pipeline.sent,
        licence=licence_of(job.filled),
        diversity=diversity_of(job.rows),
        lost=job.lost,
    )
    summary = {"signature": mark, "began": began, **result.summary(), **({"error": reason} if reason else {})}
    kept_as_it_was = status != FINISHED and _shorter_than_before(job, directory.path)
    if kept_as_it_was:
        counted = ("kept", "rows", "candidates", "acceptance", "verdicts", "diversity")
        summary |= {key: job.before[key] for key in counted if key in job.before}
    try:
        if not kept_as_it_was:
            result.write(directory.path, (began, time.strftime("%Y-%m-%d")), status, mark)
            summary[directories.HASH] = directories.dataset_hash(directory.path)
        directory.finish(status, summary)
    except OSError as error:  # a full disk may refuse even this; without a summary nothing is finished
        if status == FINISHED:
            job.tracker.finish(1, {})
            raise RunFailed(_no_room(error, directory.path)) from None
    if status == FINISHED:
        reporting.show(result, directory.path, job.terminal)
        if job.lost:
            job.terminal.warn(
                f"{job.lost:,} rows have no answer, since their requests were lost ({job.pipeline.losses}); the same "
                "command asks for them again"
            )
    else:
        word = "interrupted" if status == INTERRUPTED else "stopped"
        job.terminal.print(
            f"[yellow]{word}[/] with {summary['kept']:,} tasks kept; the same command continues in "
            f"{escape(str(directory.path))}"
        )
    reporting.track(result, job.config, directory.path, job.tracker, mark)
    job.tracker.finish(0 if status == FINISHED else 1, {"status": status, **summary})
    if job.tracker.where:
        job.terminal.print(f"[bold]wandb[/]  {escape(job.tracker.where)}")
    return {"status": status, **summary}


def _shorter_than_before(job: _Job, folder: Path) -> bool:
    """Whether it ended while it went again through what an earlier process had, whose data set has more than this."""
    if not job.ledger.behind or not (folder / CARD).is_file():
        return False
    try:
        return len(json.loads((folder / DATASET).read_text(encoding="utf-8"))) > len(job.rows)
    except (OSError, ValueError, TypeError):
        return False


def _no_room(error: OSError, folder: Path) -> str:
    mend = "raise the limit with ulimit -n" if error.errno in (errno.EMFILE, errno.ENFILE) else "free space"
    return f"{error.filename or folder}: {error.strerror or error}; {mend} and give the same command again"


async def _all_stages(job: _Job, engine: Engine) -> None:
    try:
        with job.pipeline.interrupted_by(*heard(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            await _stages(job)
    finally:
        with contextlib.suppress(Exception):
            await engine.close()


async def _stages(job: _Job) -> None:
    filled = job.filled
    if filled.mode == REANSWER:
        given = list(job.sources[: filled.target])
        answers = AnswerStage(filled, given, filled.responses_per_instruction, fresh=True)
        await _one_stage(job, answers, lambda: _answered(job, given, answers))
        if not job.rows:
            raise RunFailed(_no_rows(job))
        return
    tasks = TaskStage(filled, job.sources)
    await _one_stage(job, tasks, lambda: _made(job, tasks))
    if filled.responses_per_instruction > 1:
        given = tasks.rows[: tasks.target]
        further = AnswerStage(filled, given, filled.responses_per_instruction - 1, fresh=False)
        await _one_stage(job, further, lambda: _extended(job, given, further))


async def _one_stage(job: _Job, stage: Stage, collect: Any) -> None:
    """Run a stage with its bar; whatever happens, what it kept is collected."""
    progress = reporting.Progress(job.terminal, job.tracker, job.pipeline.tally, job.budget, job.prices)
    job.pipeline.report = progress.report
    if known := sum(name.startswith(f"{stage.prefix}-") for name in job.ledger.past.outcomes):
        progress.replays(stage, known)
    else:
        progress.begin(stage)
    try:
        await job.pipeline.run(stage)
    finally:
        progress.close(stage)
        collect()


def _made(job: _Job, stage: TaskStage) -> None:
    job.rows = stage.rows[: stage.target]
    job.kept = len(job.rows)


def _answered(job: _Job, given: Sequence[Row], stage: AnswerStage) -> None:
    pairs = zip(given, stage.outputs, strict=False)
    job.rows = [replace(row, output=output) for row, outputs in pairs for output in outputs]
    job.kept, job.lost = sum(bool(outputs) for outputs in stage.outputs), len(stage.lost)


def _extended(job: _Job, given: Sequence[Row], stage: AnswerStage) -> None:
    job.lost = len(stage.lost)
    outputs = [*stage.outputs, *([] for _ in range(len(given) - len(stage.outputs)))]
    job.rows = [
        replace(row, output=output) for row, more in zip(given, outputs, strict=True) for output in (row.output, *more)
    ]


def _no_rows(job: _Job) -> str:
    """Why a re-answer that went through all of its rows has nothing to show."""
    dropped = [(name, count) for name, count in job.pipeline.tally.verdicts.most_common() if name != KEPT][:3]
    reasons = []
    if job.lost:
        why = f" ({losses})" if (losses := job.pipeline.losses) else ""
        reasons.append(f"{job.lost:,} requests were lost{why}; the same command asks for those rows again")
    if dropped:
        named = ", ".join(f"{name} ({count:,})" for name, count in dropped)
        reasons.append(f"answers were dropped: {named}; look into tasks.jsonl, change model or filters")
    return f"no row has a new answer: {'; '.join(reasons)}"


def _complete(path: Path, found: dict[str, Any], filled: GenerationConfig, *, lost_too: bool) -> bool:
    """Whether a finished generation needs nothing more; says what it lacks. A data set that was changed is set aside.

    Args:
        lost_too: rows without an answer are lacking; else it is used without them.
    """
    lost = found.get("rows_lost", found.get("requests_lost", 0) if filled.mode == REANSWER else 0) if lost_too else 0
    if lost:
        print(
            f"{path}: {lost:,} rows have no answer, as their requests were lost; they are asked for again", flush=True
        )
    damage = directories.dataset_damage(path, found)
    if damage:
        print(f"{path / DATASET} {damage}; it is made again from the answers in requests.jsonl", flush=True)
        directories.set_aside(path)
    return not lost and not damage


def _sources(filled: GenerationConfig) -> Sequence[Row]:
    """Seeds, or the rows that are evolved or answered anew."""
    if filled.mode == SELF_INSTRUCT:
        return load_seeds(filled.seeds)
    from alpaca.data import sources

    section = DataSourceConfig(name=f"generation.path of mode={filled.mode}", path=filled.path, columns=filled.columns)
    try:
        rows = sources.load(section).rows
    except UserError as error:
        raise UserError(str(error).replace("data_source.path", "generation.path")) from None
    return [row for row in rows if row.instruction.strip()] if filled.mode == EVOLVE else rows


def _began(folder: Path) -> str:
    """The day of the first process of this generation."""
    recorded = read_json(folder / "env.json").get("automatic") or {}
    return str(recorded.get("began") or time.strftime("%Y-%m-%d"))


def _announce(job: _Job, mark: str, folder: Path) -> None:
    filled, past = job.filled, job.ledger.past
    say = job.terminal.print
    say(f"[bold]generation[/] {mark} in {escape(str(folder))}")
    count = f"{filled.target:,} tasks" if filled.target is not None else f"{len(job.sources):,} rows"
    asked = f"{count} of {escape(str(filled.model))}, engine {filled.engine}, {filled.concurrency} at once"
    say(f"[bold]asked[/]      {asked}")
    limits = [
        f"${filled.budget_usd:g}" if filled.budget_usd else "",
        f"{filled.budget_tokens:,} tokens" if filled.budget_tokens else "",
    ]
    price = (
        "no price known"
        if job.prices is None
        else (f"${job.prices.prompt:g} and ${job.prices.completion:g} for a million tokens ({job.prices.source})")
    )
    say(f"[bold]money[/]      {price}; limit {' and '.join(filter(None, limits)) or 'none'}")
    if past.sent:
        say(
            f"[bold]continued[/]  {len(past.outcomes):,} of {past.sent:,} requests are in the ledger, "
            f"{past.spent.total:,} tokens, at most {past.lost.total:,} lost"
        )
