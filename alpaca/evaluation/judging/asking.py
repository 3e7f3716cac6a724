"""A model asked to judge: questions for every pair, its answers, and what they come to.

The engine and its packages are imported when a judge is asked, not before.
"""

import asyncio
import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from alpaca.config import JudgeConfig
from alpaca.engines.asking import Asker
from alpaca.engines.budget import Budget
from alpaca.engines.exchange import Answer as Said
from alpaca.engines.exchange import Engine, Request
from alpaca.engines.ledger import Outcome, RequestLedger
from alpaca.engines.prices import ON_THIS_MACHINE
from alpaca.engines.refusals import NoStructure
from alpaca.engines.section import engine_settings, in_words_of, prices
from alpaca.errors import UserError
from alpaca.evaluation.answers import Answer
from alpaca.evaluation.judging import verdicts
from alpaca.evaluation.judging.annotations import annotations_of
from alpaca.evaluation.judging.baseline import load_baseline, pairs_with
from alpaca.evaluation.judging.comparison import Comparison
from alpaca.evaluation.judging.output_files import UNNAMED, write_records
from alpaca.evaluation.judging.pairs import Judged, Judgement, Pair, drawn, model_first_orders
from alpaca.evaluation.judging.panel import Counts, Panel
from alpaca.evaluation.judging.prompt import JSON, LINE, VERSION, question
from alpaca.evaluation.judging.report import PREFIX
from alpaca.evaluation.judging.settings import SECTION, judge_name, resolved
from alpaca.startup import heard

JUDGEMENTS, ANNOTATIONS = "judgements.jsonl", "annotations.json"


@dataclass(frozen=True)
class Listener:
    """Who hears of the work: `say` a line for the user, `on_judged` how many judgements are made, of how many."""

    say: Callable[[str], None]
    on_judged: Callable[[int, int], None]


Questions = Mapping[tuple[str, bool], Request]
"""By pair and by whether the model's answer stands first."""


def asked(
    answers: Sequence[Answer],
    settings: JudgeConfig,
    place: Path,
    references: Mapping[str, str] | None,
    listener: Listener,
) -> Comparison:
    """Judge the answers against the baseline; leaves `judgements.jsonl` and `annotations.json` in `place`.

    Raises:
        UserError: a baseline that does not fit, a key or model that does not work.
        RunFailed: see `Panel.run`.
        KeyboardInterrupt: interrupted; nothing is lost.
    """
    baseline = load_baseline(settings.baseline, answers, references)
    pairs = pairs_with(answers, baseline)
    if missing := len(answers) - len(pairs):
        listener.say(
            f"{missing:,} of {len(answers):,} answers are left out: they stand twice, or {baseline.source} has no "
            "counterpart"
        )
    keep = drawn([pair.id for pair in pairs], settings.rows, settings.seed)
    pairs = [pair for pair in pairs if pair.id in keep]
    listener.say(f"comparing {len(pairs):,} answers with {baseline.name} ({baseline.source})")
    filled, finished = _with_any_form(pairs, settings, place, listener)
    model = next((answer.generator for answer in answers if answer.generator), UNNAMED)
    judged = finished.judged
    write_records(
        place / ANNOTATIONS,
        annotations_of(judged, model=model, baseline=baseline.name, judge=filled.model or ""),
    )
    facts = {
        "judge": filled.model,
        "engine": filled.engine,
        "base_url": filled.base_url,
        "prompt_version": VERSION,
        "form": filled.form,
        "order": filled.order,
        "temperature": filled.temperature,
        "seed": filled.seed,
        "model": model,
        "baseline": baseline.name,
        "baseline_source": baseline.source,
    }
    return Comparison(judged, facts, finished.metrics, [finished.line])


@dataclass(frozen=True)
class _Finished:
    """Judged pairs, what they cost, and a line about both."""

    judged: list[Judged]
    metrics: dict[str, float]
    line: str


def _with_any_form(
    pairs: Sequence[Pair], settings: JudgeConfig, place: Path, listener: Listener
) -> tuple[JudgeConfig, _Finished]:
    """Structured output, and a last line where the server has none; or the form that was chosen."""
    filled = resolved(settings)
    if filled.form == JSON and settings.form is None:
        with contextlib.suppress(NoStructure):
            return filled, _with_form(pairs, filled, place, listener)
        listener.say(f"{filled.model} is served without structured output: the verdict is asked for as a last line")
        filled = replace(filled, form=LINE)
    return filled, _with_form(pairs, filled, place, listener)


def _with_form(pairs: Sequence[Pair], filled: JudgeConfig, place: Path, listener: Listener) -> _Finished:
    questions = _questions(pairs, filled)
    priced = prices(filled)
    budget = Budget(usd=filled.budget_usd, tokens=filled.budget_tokens, prices=priced)
    keeps = filled.engine == "openai_batch"
    ledger = RequestLedger(place / JUDGEMENTS, keeps_under_way=keeps, way_out="move the file away to judge anew")
    try:
        engine = _opened(filled, place)
        panel = asyncio.run(_run(list(questions.values()), filled, engine, ledger, budget, listener))
    except KeyboardInterrupt:
        listener.say(f"interrupted; the judgements so far are kept in {place}, and the same command continues")
        raise
    except NoStructure as error:
        raise type(error)(f"{in_words_of(SECTION, error)}; leave {SECTION}.form null, or set it to {LINE}") from None
    except UserError as error:
        raise in_words_of(SECTION, error) from None
    finally:
        ledger.close()
    judged = [_judged(pair, questions, panel.outcomes, filled) for pair in pairs]
    metrics = {f"{PREFIX}tokens": float((budget.spent + budget.lost).total)}
    price = "its price is not known"
    if (dollars := budget.dollars) is not None:
        metrics[f"{PREFIX}cost_usd"] = dollars
        price = f"${dollars:.4f} in all"
    counts = panel.counts
    line = (
        f"{len(questions):,} judgements of {filled.model}: {counts.asked:,} asked now, {counts.ledger:,} from the "
        f"ledger, {counts.cache:,} from the cache{_without(counts)}; {price}"
    )
    return _Finished(judged, metrics, line)


def _without(counts: Counts) -> str:
    """What the total has too: judgements without a verdict."""
    lost = f", {counts.lost:,} lost" if counts.lost else ""
    return lost + (f"; {counts.unreadable:,} cannot be read" if counts.unreadable else "")


def _opened(filled: JudgeConfig, place: Path) -> Engine:
    from alpaca.engines.opening import open_engine

    return open_engine(engine_settings(filled, state_dir=str(place / "batches")))


async def _run(
    questions: Sequence[Request],
    filled: JudgeConfig,
    engine: Engine,
    ledger: RequestLedger,
    budget: Budget,
    listener: Listener,
) -> Panel:
    keeps = filled.engine == "openai_batch"
    panel = Panel(
        Asker(engine, ledger, budget, prices(filled), keeps_under_way=keeps),
        ledger,
        judge=judge_name(filled),
        concurrency=filled.concurrency or 1,
        give_up_after=filled.give_up_after,
        cached=filled.cache and not _may_change(filled),
        readable=_readable,
        say=listener.say,
    )
    panel.on_judged = listener.on_judged
    try:
        with panel.interrupted_by(*heard(signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            await panel.run(questions)
    finally:
        with contextlib.suppress(Exception):
            await engine.close()
    return panel


def _questions(pairs: Sequence[Pair], filled: JudgeConfig) -> Questions:
    judge = judge_name(filled)
    return {
        (pair.id, first): question(
            pair,
            model_first=first,
            form=filled.form or LINE,
            temperature=filled.temperature,
            max_tokens=filled.max_tokens,
            seed=filled.seed,
            judge=judge,
        )
        for pair in pairs
        if not pair.same
        for first in model_first_orders(pair, filled.order, filled.seed)
    }


def _judged(pair: Pair, questions: Questions, outcomes: Mapping[str, Outcome], filled: JudgeConfig) -> Judged:
    if pair.same:
        return Judged(pair, (Judgement(0.5, reason="the two answers are the same"),), unasked=True)
    orders = model_first_orders(pair, filled.order, filled.seed)
    return Judged(pair, tuple(_judgement(outcomes.get(questions[pair.id, first].id), first) for first in orders))


def _judgement(outcome: Outcome | None, first: bool) -> Judgement:
    if outcome is None or outcome.lost or not outcome.answers:
        return Judgement(None, first, lost=True)
    text = outcome.answers[0].text
    verdict = verdicts.read(text)
    if verdict is None:
        return Judgement(None, first, reason=text)
    return Judgement(verdicts.points(verdict, model_first=first), first, reason=verdict.reason)


def _may_change(filled: JudgeConfig) -> bool:
    """Whether the judge's name may mean another model tomorrow: weights in a folder."""
    return filled.engine in ON_THIS_MACHINE and Path(filled.model or "").expanduser().is_dir()


def _readable(answer: Said) -> bool:
    return verdicts.read(answer.text) is not None
