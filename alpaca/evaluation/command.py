"""From a target and settings to scores: load, evaluate, write, show."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from alpaca.checks import check_evaluation, check_ranges
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.evaluation.answering import OnDone
from alpaca.evaluation.generate import PREFIX
from alpaca.evaluation.place import LOG, Place, as_plain
from alpaca.evaluation.scores import Scores, declared
from alpaca.evaluation.targets import OUTPUTS, RUN, Target
from alpaca.launch import silenced_notices
from alpaca.tracking.terminal import Terminal
from alpaca.tracking.wandb_run import WandbRun, log_answers
from alpaca.training.host import prepare_host

BEFORE = ("eval/rougeL_before", "eval/stop_rate_before")


def evaluate(target: Target, composed: Config, path: Path, typed: list[str]) -> None:
    """Make the evaluations that `composed` chooses and write them into `path`.

    Raises:
        UserError: settings that cannot work, data or model that cannot be loaded.
        RunFailed: an evaluation could not be made; those before it are kept.
    """
    config = composed if target.config is None else _of_run(target.config, composed)
    check_ranges(config)
    check_evaluation(config)
    prepare_host()
    os.environ.setdefault("TQDM_DISABLE", "1")
    with silenced_notices():
        from alpaca.evaluation import further, loading
        from alpaca.evaluation.quick import DIRECTIONS as QUICK
        from alpaca.evaluation.text_metrics import never_stops

        names = further.chosen(config.evaluation)
        if not names:
            raise UserError("evaluation=none: there is nothing to score; choose some, evaluation=[quick,generate]")
        if target.kind == OUTPUTS and (bad := [name for name in names if name in further.NEEDS_MODEL]):
            raise UserError(
                f"evaluation={bad[0]}: {target.path} is a file of outputs, and this needs a model; "
                "choose evaluation=generate or evaluation=judge"
            )
        further.check_ready(config.evaluation)
    place = Place(path, target=target.path, is_run=target.kind == RUN and path.resolve() == target.path.resolve())
    terminal = Terminal(path / LOG)
    tracker = None
    try:
        terminal.print(f"[bold]evaluate[/] {escape(str(target.path))}: {', '.join(names)}")
        subject = loading.subject(target, config, path, terminal)
        tracker = WandbRun(config, path.absolute(), {"target": str(target.path)}, terminal.warn, job_type="evaluate")
        made: dict[str, float] = {}
        failed: list[Exception] = []

        def keep(name: str, scores: Scores, forget: tuple[str, ...] = ()) -> None:
            place.keep(name, scores, _settings(config, name, typed), forget=forget)
            made.update(scores.metrics)
            tracker.log(0, scores.metrics)
            log_answers(tracker, name, scores.examples)

        if config.evaluation.quick is not None:
            with _progress(terminal, "scoring", config.evaluation.quick.generate_rows) as on_done:
                quick = loading.quick(subject, config.evaluation.quick, on_done)
            same = target.config is not None and target.config.evaluation.quick == config.evaluation.quick
            records = loading.predictions(subject, quick, place.predictions(), keep_answers=same)
            keep("quick", Scores(quick.metrics, records, declared(quick.metrics, QUICK)), () if same else BEFORE)
            answered = [record for record in records if record["output"] is not None]
            subject = replace(subject, answered=answered)
            if sentence := never_stops(
                len(answered), quick.metrics.get("eval/stop_rate"), config.evaluation.quick.max_new_tokens
            ):
                terminal.warn(sentence)
        voice = further.Voice(
            say=lambda text: terminal.print(escape(text)),
            warn=terminal.warn,
            progress=lambda what, total: _progress(terminal, what, total),
        )
        for name, found in further.further_scores(config.evaluation, subject, voice):
            if isinstance(found, Scores):
                keep(name, found)
            else:
                failed.append(found)
        if made:
            terminal.print(_table(made))
            if asked := _instructions(target, config, made):
                terminal.print(escape(asked))
            shown = escape(str(path))
            terminal.print(f"\nscores     {shown}/summary.json\nanswers    {shown}/predictions*.jsonl")
        if failed:
            raise _first_of(failed)
        tracker.finish(0, made)
        if tracker.where:
            terminal.print(f"wandb      {escape(tracker.where)}")
    except BaseException:
        if tracker is not None:
            tracker.finish(1, {})
        raise
    finally:
        terminal.close()
        place.close()


def _of_run(run: Config, composed: Config) -> Config:
    return replace(
        run,
        evaluation=composed.evaluation,
        tracker=composed.tracker,
        output_dir=composed.output_dir,
        notes=composed.notes or run.notes,
        extra_tags=composed.extra_tags or run.extra_tags,
    )


def _settings(config: Config, name: str, typed: list[str]) -> dict[str, Any]:
    """What a line of the history says about how an evaluation was made."""
    section = as_plain(asdict(getattr(config.evaluation, name)))
    decode = as_plain(asdict(config.evaluation.decode))
    return {"settings": section, "decode": decode, "overrides": typed}


def _first_of(failed: list[Exception]) -> Exception:
    """One line for all that failed; the worse kind decides the exit status."""
    text = "; ".join(map(str, failed))
    return RunFailed(text) if any(isinstance(error, RunFailed) for error in failed) else UserError(text)


@contextlib.contextmanager
def _progress(terminal: Terminal, what: str, total: int) -> Iterator[OnDone]:
    with terminal.progress(what, total) as bar:
        yield lambda count: bar.advance(count)


def _instructions(target: Target, config: Config, made: dict[str, float]) -> str | None:
    """What `eval/generate/*` is about; None where it was not made."""
    asked = config.evaluation.generate
    if asked is None or (count := made.get(f"{PREFIX}answers")) is None:
        return None
    where = asked.instructions if not asked.path else f"{asked.instructions} ({asked.path})"
    return f"eval/generate: {count:,.0f} answers {f'of {target.path}' if target.kind == OUTPUTS else f'to {where}'}"


def _table(metrics: dict[str, float]) -> Table:
    table = Table(title="scores", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("metric")
    table.add_column("value", justify="right")
    for name, value in metrics.items():
        table.add_row(escape(name), f"{value:.4f}" if value != int(value) or abs(value) < 1 else f"{value:,.0f}")
    return table
