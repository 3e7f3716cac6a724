"""Stored judgements counted again: AlpacaEval's annotations, or scores from 1 to 10. No model is asked."""

from collections.abc import Sequence
from pathlib import Path

from alpaca.config import JudgeConfig
from alpaca.errors import UserError
from alpaca.evaluation.answers import Answer
from alpaca.evaluation.judging import annotations, score_files
from alpaca.evaluation.judging.baseline import load_baseline
from alpaca.evaluation.judging.comparison import Comparison
from alpaca.evaluation.judging.pairs import drawn
from alpaca.evaluation.judging.report import PREFIX, ratio_line, ratio_metrics
from alpaca.evaluation.judging.settings import REFERENCES, SECTION


def replayed(answers: Sequence[Answer], settings: JudgeConfig, files: list[str]) -> Comparison:
    """The judgements of `files` that are about `answers`.

    Raises:
        UserError: a file that cannot be read, or judges other answers.
    """
    kinds = {score_files.is_scores(file) for file in files}
    if len(kinds) > 1:
        raise UserError(
            f"{SECTION}.annotations={files}: some hold preferences, others scores from 1 to 10; give one kind at a time"
        )
    return (_scores if kinds == {True} else _preferences)(answers, settings, files)


def _preferences(answers: Sequence[Answer], settings: JudgeConfig, files: list[str]) -> Comparison:
    shown = ", ".join(files)
    stored = [annotation for file in files for annotation in annotations.read_annotations(file)]
    found = annotations.replay(stored, answers, shown)
    keep = drawn([one.pair.id for one in found.judged], settings.rows, settings.seed)
    judged = [one for one in found.judged if one.pair.id in keep]
    lines = [f"replayed {len(judged):,} judgements of {shown}"]
    if found.unmatched:
        lines.append(
            f"{found.unmatched:,} of {len(stored):,} annotations there judge other tasks or other outputs and do not "
            "count"
        )
    if found.null:
        lines.append(f"{found.null:,} annotations have no preference and do not count")
    if found.unjudged:
        lines.append(f"{found.unjudged:,} of {len(answers):,} answers have no judgement there and are left out")
    facts = {
        "replayed": files,
        "baseline": found.baseline or None,
        "model": found.model or None,
        "unmatched": found.unmatched,
    }
    return Comparison(judged, facts, {f"{PREFIX}unjudged": float(found.unjudged)}, lines)


def _scores(answers: Sequence[Answer], settings: JudgeConfig, files: list[str]) -> Comparison:
    shown = ", ".join(files)
    records = [record for file in files for record in score_files.read_scores(file)]
    pairs, unmatched = score_files.scored_pairs(records, answers, _baseline_ids(settings.baseline, answers), shown)
    found = {pair.answer.id for pair in pairs}
    keep = drawn(sorted(found), settings.rows, settings.seed)
    pairs = [pair for pair in pairs if pair.answer.id in keep]
    ratio = score_files.score_ratio(pairs, resamples=settings.resamples, seed=settings.seed)
    lines = [ratio_line(ratio)]
    if unmatched:
        lines.append(f"{unmatched:,} of {len(records):,} scores there are of other answers and do not count")
    unjudged = len({answer.id for answer in answers} - found)
    if unjudged:
        lines.append(f"{unjudged:,} of {len(answers):,} answers have no score there and are left out")
    metrics = {**ratio_metrics(ratio), f"{PREFIX}unjudged": float(unjudged)}
    return Comparison(score_files.judged_of(pairs), {"replayed": files, "unmatched": unmatched}, metrics, lines)


def _baseline_ids(baseline: str, answers: Sequence[Answer]) -> set[str] | None:
    """Ids of the baseline's answers, from an answer file or a run; None where the scores themselves have to do."""
    if baseline == REFERENCES:
        return None
    if not Path(baseline).expanduser().is_dir():
        return score_files.ids_of(baseline, f"{SECTION}.baseline")
    found = load_baseline(baseline, answers, None)
    return {score_files.answer_id(text) for text in (*found.by_id.values(), *found.by_task.values())}
