"""From answers and settings to a judged comparison: the evaluation `judge`.

Leaves in its folder: `judgements.jsonl` (the ledger: every question and its fate), `model_outputs.json` and
`annotations.json` (AlpacaEval's forms), `judge.json` (who was judged how, and the numbers), and `leaderboard.csv` where
one was given. However it ends, what was paid for is in the ledger, and the same call goes on from it.
"""

import contextlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from alpaca.config import JudgeConfig
from alpaca.errors import RunFailed, UserError
from alpaca.evaluation.answers import Answer
from alpaca.evaluation.judging import leaderboard
from alpaca.evaluation.judging.asking import JUDGEMENTS, Listener, asked
from alpaca.evaluation.judging.comparison import Comparison
from alpaca.evaluation.judging.output_files import MODEL_OUTPUTS, UNNAMED, model_outputs, write_records
from alpaca.evaluation.judging.replaying import replayed
from alpaca.evaluation.judging.report import DIRECTIONS, Report, examples_of, report_of
from alpaca.evaluation.judging.settings import SECTION, annotation_files, check_ready
from alpaca.evaluation.scores import Scores, declared
from alpaca.tracking.lock import HeldError, hold
from alpaca.tracking.run_directory import write_text

RESULT = "judge.json"


def judge(
    answers: Sequence[Answer],
    settings: JudgeConfig,
    place: Path,
    *,
    say: Callable[[str], None],
    references: Mapping[str, str] | None = None,
    on_judged: Callable[[int, int], None] = lambda done, total: None,
) -> Scores:
    """Compare `answers` with the baseline of `settings`, or replay stored judgements of them.

    Args:
        place: folder for the ledger and the result; made if it is missing, held by one process at a time.
        say: a line for the user.
        references: id to the output that the evaluated row came with, for `baseline=references`.
        on_judged: called with judgements made and wanted.

    Returns:
        Metrics `eval/judge/*`, and a record for each judged task with `scores.win` from 0 to 1.

    Raises:
        UserError: settings, key, baseline or annotations that cannot work; names the setting.
        RunFailed: the budget is used up, the judge gives no answers, or none that can be read.
        KeyboardInterrupt: interrupted; nothing is lost.
    """
    check_ready(settings)
    if not answers:
        raise UserError(f"{SECTION}: there are no answers to judge; evaluate at least one row")
    entries = leaderboard.read_leaderboard(settings.leaderboard) if settings.leaderboard else []
    with _held(place), _room(place):
        if files := annotation_files(settings):
            found = replayed(answers, settings, files)
        else:
            found = asked(answers, settings, place, references, Listener(say, on_judged))
        report = report_of(found.judged)
        if report is None:
            raise RunFailed(_nothing_counts(found, place))
        lines = [*report.lines(), *found.lines]
        if entries:
            lines.append(_placed(answers, report, entries, place))
        metrics = {**report.metrics(), **found.metrics}
        write_records(place / MODEL_OUTPUTS, model_outputs(answers))
        result = {**found.facts, "metrics": metrics}
        write_text(place / RESULT, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    for line in lines:
        say(line)
    return Scores(metrics, examples_of(found.judged), declared(metrics, DIRECTIONS))


def _placed(answers: Sequence[Answer], report: Report, entries: list[leaderboard.Entry], place: Path) -> str:
    name = next((answer.generator for answer in answers if answer.generator), UNNAMED)
    own = leaderboard.own_entry(name, report.rate, [answer.output for answer in answers])
    leaderboard.write_leaderboard(place / leaderboard.FILE, [*entries, own])
    return leaderboard.place_of(report.rate, entries).sentence(report.rate)


def _nothing_counts(found: Comparison, place: Path) -> str:
    judgements = [judgement for one in found.judged for judgement in one.judgements]
    if "replayed" in found.facts:
        return f"{SECTION}.annotations: of the {len(judgements):,} judgements that match none has a preference"
    lost = sum(judgement.lost for judgement in judgements)
    unread = [judgement.reason for judgement in judgements if judgement.points is None and not judgement.lost]
    sample = f" (one begins {' '.join(unread[0].split())[:60]!r})" if unread else ""
    return (
        f"no pair has all of its verdicts: of {len(judgements):,} judgements {lost:,} were lost and {len(unread):,} "
        f"could not be read{sample}; see {place / JUDGEMENTS}, raise {SECTION}.max_tokens, or choose a stronger judge"
    )


@contextlib.contextmanager
def _room(place: Path) -> Iterator[None]:
    """A disk that is full, or a file that cannot be written, fails the run with one line."""
    try:
        yield
    except OSError as error:
        name = error.filename or place
        raise RunFailed(f"{name}: {error.strerror or error}; free space and give the same command again") from None


@contextlib.contextmanager
def _held(place: Path) -> Iterator[None]:
    """The folder, made and locked for the block.

    Raises:
        UserError: it cannot be written, or another process is judging in it.
    """
    try:
        lock = hold(place / ".judge.lock")
    except OSError as error:
        raise UserError(f"{SECTION}: {place} cannot be written ({error.strerror}); choose another folder") from None
    except HeldError as holder:
        raise UserError(f"{SECTION}: another judgement is under way in {place} ({holder}); wait for it") from None
    with lock:
        yield
