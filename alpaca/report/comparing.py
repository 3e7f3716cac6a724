"""From runs to a comparison: which metrics, on which examples, against which baseline."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import replace

from alpaca.errors import UserError
from alpaca.evaluation.scores import HIGHER, LOWER, NEITHER
from alpaca.report import variants as grouping
from alpaca.report.directions import directions_of
from alpaca.report.reading import Found, finished
from alpaca.report.records import (
    BASELINE,
    NO_DIFFERENCE,
    NOT_COMPARABLE,
    Comparison,
    Difference,
    Run,
    Variant,
)
from alpaca.report.verdicts import AT_ZERO, compare_metric

DEFAULT_METRICS = ("eval/loss", "eval/rougeL", "eval/generate/rougeL", "eval/judge/win_rate")
BITS = "eval/bits_per_byte"
TOKEN_METRICS = ("eval/loss", "eval/perplexity")  # mean nothing across tokenizers
OTHER_PROMPTS = ("template.", "data_source.")


def compare(
    found: Found,
    *,
    baseline: str | None = None,
    metrics: Sequence[str] = (),
    force: bool = False,
    only_costs: bool = False,
    lower: Sequence[str] = (),
    higher: Sequence[str] = (),
) -> Comparison:
    """The comparison of all runs of `found`; with `only_costs` what they took, whatever they were scored on.

    Args:
        lower, higher: metrics of which less, or more, is better, whatever the runs say.

    Raises:
        UserError: no common metric, runs scored on different examples, a baseline that is none.
    """
    notes: list[str] = []
    groups = [_one_a_seed(each, notes) for each in grouping.group(found.runs)]
    base = grouping.choose_baseline(groups, baseline, found.first)
    if baseline is None and found.first is not None and not any(run is found.first for run in groups[base].runs):
        unfinished = f"The baseline {found.baseline}" if found.baseline else "The first variant"
        notes.append(f"{unfinished} has no result, so {groups[base].label} is the baseline.")
    elif baseline is None and found.baseline:
        notes.append(f"Baseline: {groups[base].label}, as sweep.baseline says; --baseline names another.")
    elif baseline is None and len(groups) > 1:
        notes.append(
            f"Baseline: {groups[base].label}, of the first of these runs {found.order}; --baseline names another."
        )
    runs = [run for each in groups for run in each.runs]
    _check_given((*lower, *higher), finished(runs))
    chosen = [] if only_costs else _metrics(finished(runs), groups[base], metrics, notes)
    groups, chosen = _on_common_examples(groups, base, chosen, force, bool(metrics), notes)
    directions = directions_of(chosen, finished(runs), lower, higher)
    notes += [_ask(name) for name, way in directions.items() if not way]
    others = [each for index, each in enumerate(groups) if index != base]
    if chosen:
        others.sort(key=lambda each: _rank(each, chosen[0], directions[chosen[0]]))
    ordered = [groups[base], *others]
    differences: list[dict[str, Difference]] = [{} for _ in ordered]
    for metric in chosen:
        for place, difference in zip(differences, _differences(ordered, metric, directions[metric]), strict=True):
            place[metric] = difference
    notes += _notes_on(ordered, differences)
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
        directions=directions,
        notes=tuple(notes),
    )


def _check_given(names: Sequence[str], runs: list[Run]) -> None:
    """Raise `UserError` for a direction of a metric that no run has."""
    known = {name for run in runs for name in run.metrics}
    for name in names:
        if runs and name not in known:
            raise UserError(
                f"--lower or --higher {name}: no run has this metric; they have: {', '.join(sorted(known))}"
            )


def _ask(metric: str) -> str:
    return (
        f"{metric}: the runs do not declare, or not alike, whether lower or higher is better, so no difference is "
        f"called better or worse; say it with --lower {metric} or --higher {metric}"
    )


def _notes_on(variants: Sequence[Variant], differences: Sequence[dict[str, Difference]]) -> list[str]:
    """What the table's numbers need beside them: each sentence with the variants and metrics it is about."""
    about: dict[str, dict[str, list[str]]] = {}
    for variant, by_metric in zip(variants, differences, strict=True):
        for metric, difference in by_metric.items():
            if 0 in (difference.low, difference.high) and difference.verdict != NO_DIFFERENCE:
                about.setdefault(AT_ZERO, {}).setdefault(variant.label, []).append(metric)
            if difference.note:
                about.setdefault(difference.note, {}).setdefault(variant.label, []).append(metric)
    return [
        f"{label} ({', '.join(metrics)}): {note}."
        for note, labels in about.items()
        for label, metrics in labels.items()
    ]


def _one_a_seed(variant: Variant, notes: list[str]) -> Variant:
    """The variant with the last finished run of each seed: a seed that ran twice is no second seed."""
    kept: dict[object, Run] = {}
    for place, run in enumerate(variant.runs):
        key = place if run.seed is None else f"seed {run.seed}"
        if key not in kept or run.status == "finished" or kept[key].status != "finished":
            kept[key] = run
    if (doubled := len(variant.runs) - len(kept)) > 0:
        notes.append(f"{variant.label}: {doubled} runs of a seed that ran again are left out, the last one counts.")
    return replace(variant, runs=tuple(kept.values()))


def _metrics(runs: list[Run], baseline: Variant, wanted: Sequence[str], notes: list[str]) -> list[str]:
    """The metrics to compare: the wanted ones, else those of the usual ones that most runs have.

    Raises:
        UserError: there is none, or the baseline lacks a wanted one.
    """
    if not runs:
        notes.append("No run is finished, so there is nothing to compare yet.")
        return []
    common = set.intersection(*(set(run.metrics) for run in runs))
    known = ", ".join(sorted(name for name in common if name.startswith("eval/"))) or "none"
    for name in wanted:
        lacking = next((run for run in baseline.finished if name not in run.metrics), None)
        if lacking is not None:
            raise UserError(f"--metric {name}: {lacking.name} has no such metric; all runs have: {known}")
    if not wanted and not any(name.startswith("eval/") for run in runs for name in run.metrics):
        notes.append("No run was evaluated: the costs are all there is to compare.")
        return []
    most = {name for run in runs for name in run.metrics if 2 * sum(name in each.metrics for each in runs) > len(runs)}
    chosen = list(wanted) or [name for name in DEFAULT_METRICS if name in most]
    if not wanted and len({run.tokenizer for run in runs}) > 1 and "eval/loss" in chosen and BITS in most:
        chosen[chosen.index("eval/loss")] = BITS
        notes.append("The models differ, and losses per token of two tokenizers cannot be compared: bits per byte are.")
    if not chosen:
        ways = directions_of(sorted(name for name in common if name.startswith("eval/")), runs)
        chosen = sorted((name for name in ways if ways[name] != NEITHER), key=lambda name: not ways[name])[:1]
    if not chosen:
        raise UserError(
            "these runs have no metric in common: score them alike, python -m alpaca.evaluate RUN evaluation=quick"
        )
    for name in chosen:
        if lacking_it := [run.name for run in runs if name not in run.metrics]:
            notes.append(f"{name}: {len(lacking_it)} finished runs have none, such as {lacking_it[0]}.")
    return chosen


def _on_common_examples(
    groups: list[Variant], base: int, metrics: list[str], force: bool, wanted: bool, notes: list[str]
) -> tuple[list[Variant], list[str]]:
    """The same variants with the scores of the examples that all have, and the metrics that can be compared.

    Of metrics that nobody named, one that was scored on different examples is left out with a note.

    Raises:
        UserError: all metrics, or one that was `wanted`, were scored on different examples, and neither data nor
            template explains it.
    """
    compared, refused = [], []
    for metric in metrics:
        try:
            groups = _on_examples_of(metric, groups, base, force, notes)
            compared.append(metric)
        except UserError as error:
            if wanted:
                raise
            refused.append(error)
    if refused and not compared:
        raise refused[0]
    notes += [f"Left out: {error}." for error in refused]
    return groups, compared


def _on_examples_of(metric: str, groups: list[Variant], base: int, force: bool, notes: list[str]) -> list[Variant]:
    """The variants with the metric on the examples that all have; one that has none of them loses it."""
    measured = [run for each in groups for run in each.finished if math.isfinite(run.metrics.get(metric, math.nan))]
    scored = [run for run in measured if metric in run.scores]
    if len(scored) < len(measured):
        if scored:
            notes.append(f"{metric}: {len(scored)} runs have scores of single examples, not all: only means count.")
        elif metric == BITS and all("eval/loss" in run.scores for run in measured):
            notes.append(
                f"{metric}: these runs are of an earlier version that does not say how much of each truncated response "
                "was scored, so only their means count; python -m alpaca.evaluate RUN evaluation=quick scores one anew."
            )
        return [replace(each, runs=tuple(_without_scores(run, metric) for run in each.runs)) for each in groups]
    if metric == BITS and (cut := _cut_apart(scored)):
        notes.append(
            f"{metric}: {cut} responses were cut at different places, so these runs were not scored on the same text "
            "throughout; a larger train.max_length cuts fewer."
        )
    return _on_examples(metric, groups, base, scored, force, notes) if scored else groups


def _without_scores(run: Run, metric: str) -> Run:
    return replace(run, scores={name: scores for name, scores in run.scores.items() if name != metric})


def _cut_apart(runs: list[Run]) -> int:
    """How many examples have responses of other lengths in some runs: each tokenizer cuts where its own limit is."""
    lengths: dict[str, set[float]] = {}
    for run in runs:
        for name, size in run.weights.get(BITS, {}).items():
            lengths.setdefault(name, set()).add(size)
    return sum(len(each) > 1 for each in lengths.values())


def _on_examples(
    metric: str, groups: list[Variant], base: int, scored: list[Run], force: bool, notes: list[str]
) -> list[Variant]:
    sets = {id(run): _examples(run, metric, scored) for run in scored}
    of_base = [sets[id(run)] for run in groups[base].finished if id(run) in sets]
    if not of_base:
        return groups
    reference = set.intersection(*of_base)
    apart = [run for run in scored if not reference & sets[id(run)]]
    inside = [sets[id(run)] for run in scored if all(run is not other for other in apart)]
    common = set.intersection(*inside) if inside else set()
    if apart and (not common or all(run in groups[base].runs or run in apart for run in scored)):
        raise UserError(
            f"{metric}: these runs were scored on different examples, with none in common; score them on one set, "
            "python -m alpaca.evaluate RUN evaluation=generate evaluation.generate.instructions=SET"
        )
    most = max(map(len, sets.values()), default=0)
    if not apart and all(len(each) == len(common) for each in sets.values()):
        return groups
    settings = scored[0].settings
    explained = metric.startswith("eval/judge/") or any(  # a judge may leave a pair without a verdict
        run.settings.get(key) != settings.get(key)
        for run in scored
        for key in run.settings
        if key.startswith(OTHER_PROMPTS)
    )
    if not explained and not force:
        raise UserError(
            f"{metric}: these runs were scored on different examples ({len(common)} of up to {most} are common); "
            "score them alike, or compare on the common ones with --force"
        )
    notes.append(f"{metric}: compared on the {len(common)} examples that all runs have, of up to {most}.")
    names = {name for name, _ in common}
    return [
        replace(
            each,
            runs=tuple(_restricted(run, metric, names, any(run is other for other in apart)) for run in each.runs),
        )
        for each in groups
    ]


def _examples(run: Run, metric: str, others: list[Run]) -> set[tuple[str, float | None]]:
    """Ids of the run's examples, where tokenizers agree with their tokens: a truncated answer is another example."""
    alike = len({each.tokenizer for each in others}) == 1
    weights = run.weights.get(metric, {}) if alike else {}
    return {(name, weights.get(name)) for name in run.scores[metric]}


def _restricted(run: Run, metric: str, names: set[str], apart: bool) -> Run:
    """The run with the metric over some of its examples, or without it."""
    if run.status != "finished" or metric not in run.scores or run.scores[metric].keys() == names:
        return run
    if apart:
        return replace(run, metrics={key: value for key, value in run.metrics.items() if key != metric})
    scores = {name: value for name, value in run.scores[metric].items() if name in names}
    restricted = replace(run, scores={**run.scores, metric: scores})
    return replace(restricted, metrics={**run.metrics, metric: _mean_over(restricted, metric, sorted(scores))})


def _mean_over(run: Run, metric: str, names: list[str]) -> float:
    """The metric over some of the examples, weighted as it is over all."""
    weights = run.weights.get(metric, {})
    return statistics.fmean([run.scores[metric][name] for name in names], [weights.get(name, 1.0) for name in names])


def _differences(ordered: list[Variant], metric: str, direction: str) -> list[Difference]:
    """Of every variant to the first."""
    base, others = ordered[0], ordered[1:]
    able = [each for each in others if _mean(each, metric) is not None and not _other_tokenizer(base, each, metric)]
    able = able if _mean(base, metric) is not None else []
    computed = iter(compare_metric(base, able, metric, direction) if able else [])
    found = [Difference(None, None, None, BASELINE, "what the others are compared with")]
    for each in others:
        if any(each is one for one in able):
            found.append(next(computed))
        else:
            why = "no finished run" if not each.finished else f"no {metric} on the baseline's examples"
            if each.finished and _other_tokenizer(base, each, metric):
                why = f"another model, whose tokens are not the baseline's; compare {BITS}"
            found.append(Difference(None, None, None, NOT_COMPARABLE, why))
    return found


def _other_tokenizer(base: Variant, other: Variant, metric: str) -> bool:
    tokenizers = {run.tokenizer for each in (base, other) for run in each.finished}
    return metric in TOKEN_METRICS and len(tokenizers) > 1


def _mean(variant: Variant, metric: str) -> tuple[float, float | None, int] | None:
    """Mean, standard deviation over seeds, and how many there are."""
    values = [run.metrics[metric] for run in variant.finished if metric in run.metrics]
    if not values:
        return None
    if not all(map(math.isfinite, values)):
        return math.nan, None, len(values)
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values)


def _rank(variant: Variant, metric: str, direction: str) -> tuple[bool, float, str]:
    """The best first; those without a number last; all in their order where no direction is known."""
    mean = _mean(variant, metric)
    if mean is None or not math.isfinite(mean[0]):
        return True, 0.0, ""
    if direction not in (LOWER, HIGHER):
        return False, 0.0, ""
    return False, mean[0] if direction == LOWER else -mean[0], variant.label
