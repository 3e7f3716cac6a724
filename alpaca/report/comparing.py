"""From runs to a comparison: which metrics, on which examples, against which baseline."""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from alpaca.errors import UserError
from alpaca.report import variants as grouping
from alpaca.report.reading import Found, finished
from alpaca.report.records import (
    BASELINE,
    NOT_COMPARABLE,
    Comparison,
    Difference,
    Run,
    Variant,
    lower_is_better,
)

DEFAULT_METRICS = ("eval/loss", "eval/rougeL", "eval/judge/win_rate")
BITS = "eval/bits_per_byte"
TOKEN_METRICS = ("eval/loss", "eval/perplexity")  # mean nothing across tokenizers
OTHER_PROMPTS = ("template.", "data_source.")


def compare(
    found: Found, *, baseline: str | None = None, metrics: Sequence[str] = (), force: bool = False
) -> Comparison:
    """The comparison of all runs of `found`.

    Raises:
        UserError: no common metric, runs scored on different examples, a baseline that is none.
    """
    notes: list[str] = []
    whole = finished(found.runs)
    chosen = _metrics(whole, metrics, notes)
    runs = _on_common_examples(found.runs, chosen, force, notes)
    first = next((new for old, new in zip(found.runs, runs, strict=True) if old is found.first), None)
    groups = grouping.group(runs)
    base = grouping.choose_baseline(groups, baseline, first)
    others = [each for index, each in enumerate(groups) if index != base]
    if chosen:
        others.sort(key=lambda each: _rank(each, chosen[0]))
    ordered = [groups[base], *others]
    differences: list[dict[str, Difference]] = [{} for _ in ordered]
    for metric in chosen:
        for place, difference in zip(differences, _differences(ordered, metric), strict=True):
            place[metric] = difference
    if bad := [run for run in runs if run.status != "finished"]:
        notes.append(f"{len(bad)} of {len(runs)} runs have no result and count nowhere: they are rows of the table.")
    return Comparison(
        title=found.title,
        question=found.question,
        read=found.read,
        metrics=tuple(chosen),
        variants=tuple(ordered),
        means=tuple({metric: mean for metric in chosen if (mean := _mean(each, metric))} for each in ordered),
        differences=tuple(differences),
        notes=tuple(notes),
    )


def _metrics(runs: list[Run], wanted: Sequence[str], notes: list[str]) -> list[str]:
    """The metrics to compare, those that every finished run has.

    Raises:
        UserError: there is none, or a wanted one is missing.
    """
    if not runs:
        notes.append("No run is finished, so there is nothing to compare yet.")
        return []
    common = set.intersection(*(set(run.metrics) for run in runs))
    known = ", ".join(sorted(name for name in common if name.startswith("eval/"))) or "none"
    for name in wanted:
        if name not in common:
            lacking = next(run.name for run in runs if name not in run.metrics)
            raise UserError(f"--metric {name}: {lacking} has no such metric; all runs have: {known}")
    chosen = list(wanted) or [name for name in DEFAULT_METRICS if name in common]
    if len({run.tokenizer for run in runs}) > 1 and not wanted and "eval/loss" in chosen and BITS in common:
        chosen[chosen.index("eval/loss")] = BITS
        notes.append("The models differ, and losses per token of two tokenizers cannot be compared: bits per byte are.")
    if not chosen:
        chosen = sorted(name for name in common if name.startswith("eval/"))[:1]
    if not chosen:
        raise UserError(
            "these runs have no metric in common: score them alike, python -m alpaca.evaluate RUN evaluation=quick"
        )
    return chosen


def _on_common_examples(runs: list[Run], metrics: list[str], force: bool, notes: list[str]) -> list[Run]:
    """The same runs with the scores of the examples that all have.

    Raises:
        UserError: they were scored on different examples, and neither data nor template explains it.
    """
    whole = finished(runs)
    kept: dict[str, set[str]] = {}
    for metric in metrics:
        sets = [set(run.scores[metric]) for run in whole if metric in run.scores]
        if not sets or len(sets) < len(whole):
            continue
        common, most = set.intersection(*sets), max(map(len, sets))
        if all(len(each) == len(common) for each in sets):
            continue
        explained = any(
            run.settings.get(key) != whole[0].settings.get(key)
            for run in whole[1:]
            for key in run.settings
            if key.startswith(OTHER_PROMPTS)
        )
        if not common:
            raise UserError(
                f"{metric}: these runs were scored on different examples, with none in common; score them on one set, "
                "python -m alpaca.evaluate RUN evaluation=generate evaluation.generate.set=SET"
            )
        if not explained and not force:
            raise UserError(
                f"{metric}: these runs were scored on different examples ({len(common)} of up to {most} are common); "
                "score them alike, or compare on the common ones with --force"
            )
        notes.append(f"{metric}: compared on the {len(common)} examples that all runs have, of up to {most}.")
        kept[metric] = common
    if not kept:
        return runs
    return [
        replace(
            run,
            scores={
                metric: {name: value for name, value in each.items() if metric not in kept or name in kept[metric]}
                for metric, each in run.scores.items()
            },
            metrics={
                **run.metrics,
                **{
                    metric: _mean_over(run, metric, sorted(common))
                    for metric, common in kept.items()
                    if run.status == "finished"
                },
            },
        )
        for run in runs
    ]


def _mean_over(run: Run, metric: str, names: list[str]) -> float:
    """The metric over some of the examples, weighted as it is over all."""
    weights = run.weights.get(metric, {})
    return statistics.fmean([run.scores[metric][name] for name in names], [weights.get(name, 1.0) for name in names])


def _differences(ordered: list[Variant], metric: str) -> list[Difference]:
    """Of every variant to the first."""
    from alpaca.report.verdicts import compare_metric

    base, others = ordered[0], ordered[1:]
    able = [each for each in others if _mean(each, metric) is not None] if _mean(base, metric) is not None else []
    computed = iter(compare_metric(base, able, metric) if able else [])
    found = [Difference(None, None, None, BASELINE, "what the others are compared with")]
    for each in others:
        if any(each is one for one in able):
            found.append(next(computed))
        else:
            why = "no finished run" if not each.finished else f"no {metric}"
            found.append(Difference(None, None, None, NOT_COMPARABLE, why))
    return found


def _mean(variant: Variant, metric: str) -> tuple[float, float | None, int] | None:
    """Mean, standard deviation over seeds, and how many there are."""
    values = [run.metrics[metric] for run in variant.finished if metric in run.metrics]
    if not values:
        return None
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def _rank(variant: Variant, metric: str) -> tuple[bool, float, str]:
    mean = _mean(variant, metric)
    if mean is None:
        return True, 0.0, variant.label
    return False, mean[0] if lower_is_better(metric) else -mean[0], variant.label
