"""A comparison as one self-contained page: styles, script, drawings and examples inside, no request to anywhere.

All text is escaped, for answers are whatever a model wrote; the page allows itself one script, by its hash, and
no outside source. Without JavaScript all of it can be read.
"""

import hashlib
import statistics
from base64 import b64encode
from collections import Counter
from collections.abc import Sequence
from importlib.resources import files

from alpaca.evaluation.scores import HIGHER, LOWER, NEITHER
from alpaca.report import drawings, rows
from alpaca.report.browser import browser
from alpaca.report.curves import POINTS, curves, is_thinned
from alpaca.report.drawings import Line, Spot
from alpaca.report.records import BASELINE, BETTER, NO_DIFFERENCE, WORSE, Comparison, Difference
from alpaca.report.wording import clipped, mark, shown
from alpaca.tracking.folders import GENERATOR

ICONS = {BETTER: "✓", WORSE: "✗", NO_DIFFERENCE: "≈", BASELINE: "●"}
CLASSES = {BETTER: "better", WORSE: "worse"}
BETTER_IS = {
    LOWER: "lower is better",
    HIGHER: "higher is better",
    NEITHER: "neither way is better",
    "": "which way is better is not declared",
}
LINES = 8  # variants whose curves are drawn
DRAWN = 4  # metrics that are drawn; all are in tables
LONG = 500  # characters of an answer that are open at first
REASON = 1000  # characters of a run's error
PRICES = (("peak_memory_gib", "peak memory, GiB"), ("wall_time_s", "wall time"), ("dollars", "dollars"))
TIME_UNITS = ((3600.0, "hours"), (60.0, "minutes"), (1.0, "seconds"))


def page(comparison: Comparison) -> str:
    """A complete HTML document; the same comparison gives the same bytes."""
    css, script = (
        files("alpaca.report").joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js")
    )
    allowed = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{allowed}'; "
        "base-uri 'none'; form-action 'none'"
    )
    tables = "\n".join(_leaderboard(comparison, metric, place) for place, metric in enumerate(comparison.metrics))
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
{GENERATOR}
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{shown(comparison.title)}</title>
<style>
{css}</style>
</head>
<body>
{_header(comparison)}
<main>
{tables}
{_costs(comparison)}
{_troubles(comparison)}
{_forests(comparison)}
{_curves(comparison)}
{_trade_offs(comparison)}
{browser(comparison)}
{_notes(comparison)}
</main>
<script>{script}</script>
</body>
</html>
"""


def _header(comparison: Comparison) -> str:
    found = rows.answers(comparison)
    parts = [f"<h1>{shown(comparison.title)}</h1>"]
    if comparison.question:
        parts.append(f'<p class="question">{shown(comparison.question)}</p>')
    if comparison.read:
        parts.append(f'<p class="soft">How to read it: {shown(comparison.read)}</p>')
    if found:
        told = [name for name in comparison.metrics if _estimated(comparison, name)]
        lines = "".join(_answer(comparison, metric, text) for metric, text in zip(told, found, strict=True))
        parts.append(f'<ul class="answer-lines">{lines}</ul>')
    elif not comparison.metrics:
        parts.append("<p>There is nothing to compare: no metric that all finished runs have.</p>")
    else:
        parts.append("<p>There is no difference to show: no second variant has a result.</p>")
    return f"<header>\n{chr(10).join(parts)}\n</header>"


def _answer(comparison: Comparison, metric: str, text: str) -> str:
    """The sentence; a long one behind its own summary."""
    if len(text) <= LONG:
        return f"<li>{shown(text)}</li>"
    found = _estimated(comparison, metric)
    counts = sorted(Counter(map(rows.verdict_text, found)).items())
    told = ", ".join(f"{count} {verdict}" for verdict, count in counts)
    about = f"{metric}, against {comparison.variants[0].label}: of {len(found)} variants {told}."
    return f"<li><details><summary>{shown(about)}</summary>{shown(text)}</details></li>"


def _estimated(comparison: Comparison, metric: str) -> list[Difference]:
    return [each[metric] for each in comparison.differences[1:] if each[metric].estimate is not None]


def _leaderboard(comparison: Comparison, metric: str, place: int) -> str:
    whys = {each.why for each in _estimated(comparison, metric)}
    one = len(whys) == 1
    heads = ["variant", "verdict", "difference [95 % interval]", "mean ± sd", "seeds", *([] if one else ["how"])]
    lines = []
    every = zip(comparison.variants, comparison.means, comparison.differences, strict=True)
    for index, (variant, means, differences) in enumerate(every):
        difference = differences[metric]
        lines.append(
            [
                _variant(index, variant.label),
                _verdict(difference),  # beside the name, so that a phone shows it too
                shown(rows.difference_text(difference)),
                shown(rows.mean_text(means.get(metric))),
                shown(rows.seeds_text(variant)),
                *([] if one else [f'<span class="soft">{shown(difference.why)}</span>']),
            ]
        )
    direction = BETTER_IS[comparison.directions.get(metric, "")].capitalize()
    how = f" Interval: {next(iter(whys))}." if one else ""
    caption = f"{direction}. Differences are to the baseline; sd is over seeds.{how}"
    return _section(f"metric-{place}", metric, _table(f"metric-{place}", caption, heads, lines, numeric=(2, 3, 4)))


def _verdict(difference: Difference) -> str:
    icon = ICONS.get(difference.verdict, "–")
    kind = CLASSES.get(difference.verdict, "same")
    text = shown(rows.verdict_text(difference))
    return f'<span class="verdict {kind}"><span aria-hidden="true">{icon}</span> {text}</span>'


def _variant(index: int, label: str) -> str:
    return f'<span class="mark v{index % drawings.COLOURS}">{mark(index)}</span> {shown(label)}'


def _costs(comparison: Comparison) -> str:
    columns = rows.cost_columns(comparison)
    if not columns:
        return ""
    lines = [
        [_variant(index, each.label), *(shown(rows.cost_text(name, rows.cost(each, name))) for name, _ in columns)]
        for index, each in enumerate(comparison.variants)
        if each.finished
    ]
    heads = ["variant", *(head for _, head in columns)]
    table = _table("cost", "Means over the finished runs.", heads, lines, numeric=range(1, len(heads)))
    return _section("cost", "Cost", table)


def _troubles(comparison: Comparison) -> str:
    found = rows.troubles(comparison)
    if not found:
        return ""
    lines = [
        [
            shown(what),
            f'<span class="verdict worse">✗ {shown(status)}</span>',
            f'<span class="why">{shown(clipped(why, REASON) or "–")}</span>',
        ]
        for what, status, why in found
    ]
    table = _table("troubles", "They count in no mean and no difference.", ["run", "status", "why"], lines)
    return _section("troubles", "Runs without a result", table)


def _forests(comparison: Comparison) -> str:
    found = []
    for place, metric in enumerate(comparison.metrics[:DRAWN]):
        lines = [
            (mark(index), each.label, differences[metric])
            for index, (each, differences) in enumerate(zip(comparison.variants, comparison.differences, strict=True))
            if index
        ]
        found.append(drawings.forest(f"forest-{place}", metric, lines, comparison.directions.get(metric, "")))
    said = "▲ better, ▼ worse, ■ neither; the line is the 95 % interval, the dashed one no difference."
    return _figures("differences", "Differences to the baseline", said, found)


def _curves(comparison: Comparison) -> str:
    numbered = [(index, each) for index, each in enumerate(comparison.variants) if each.finished]
    chosen = numbered[:LINES]
    variants = [each for _, each in chosen]
    found, thinned = [], False
    for place, metric in enumerate(dict.fromkeys(("train/loss", "eval/loss", *comparison.metrics[:DRAWN]))):
        lines = [
            Line(index, mark(index), each.label, points)
            for (index, each), points in zip(chosen, curves(variants, metric), strict=True)
        ]
        drawn = drawings.curves(f"curve-{place}", metric, lines, "Mean over seeds; the band is lowest to highest seed.")
        if drawn:
            thinned = thinned or is_thinned(variants, metric)
            found.append(f"{drawn}<figcaption>{shown(metric)}</figcaption>")
    said = "The line is the mean over finished seeds, the band goes from the lowest to the highest."
    if thinned:
        said += f" Longer curves are averaged in {POINTS} equal stretches of steps."
    if len(numbered) > len(chosen):
        ranked = comparison.metrics and comparison.directions.get(comparison.metrics[0], "") in (LOWER, HIGHER)
        others = f"the {len(chosen) - 1} best" if ranked else f"the first {len(chosen) - 1}"
        said += f" Of {len(numbered)} variants the baseline and {others} are drawn."
    return _figures("curves", "Training and evaluation curves", said, found)


def _trade_offs(comparison: Comparison) -> str:
    found = []
    for place, metric in enumerate(comparison.metrics[:DRAWN]):
        for name, head in PRICES:
            spots = _spots(comparison, metric, name)
            unit, unit_name = _unit(name, [spot.x for spot in spots])
            scaled = [
                Spot(
                    each.index, each.mark, each.label, each.x / unit, each.y, tuple((a / unit, b) for a, b in each.runs)
                )
                for each in spots
            ]
            said = "; ".join(
                f"{each.mark} {each.label}: {rows.cost_text(name, each.x)}, {each.y:.4f}" for each in spots
            )
            title = f"{head}, {unit_name}" if unit_name else head
            if drawn := drawings.scatter(f"price-{place}-{name}", metric, title, scaled, said):
                better = BETTER_IS[comparison.directions.get(metric, "")]
                found.append(f"{drawn}<figcaption>{shown(metric)}, {better}</figcaption>")
    said = "Means are large and have the variant's letter (■ the baseline), single runs are small."
    return _figures("price", "Quality against cost", said, found)


def _spots(comparison: Comparison, metric: str, name: str) -> list[Spot]:
    found = []
    for index, (each, means) in enumerate(zip(comparison.variants, comparison.means, strict=True)):
        runs = tuple(
            (run.costs[name], run.metrics[metric])
            for run in each.finished
            if name in run.costs and metric in run.metrics
        )
        if runs and metric in means:
            x = statistics.fmean(cost for cost, _ in runs)
            found.append(Spot(index, mark(index), each.label, x, means[metric][0], runs))
    return found


def _unit(name: str, values: Sequence[float]) -> tuple[float, str]:
    """Seconds of a unit of time that suits the values; other costs are as they are."""
    if name != "wall_time_s" or not values:
        return 1.0, ""
    return next((each for each in TIME_UNITS if max(values) >= 2 * each[0]), TIME_UNITS[-1])


def _notes(comparison: Comparison) -> str:
    if not comparison.notes:
        return ""
    return _section("notes", "Notes", f"<ul>{''.join(f'<li>{shown(note)}</li>' for note in comparison.notes)}</ul>")


def _figures(name: str, title: str, said: str, drawn: Sequence[str]) -> str:
    figures = "".join(f"<figure>{each}</figure>" for each in drawn if each)
    if not figures:
        return ""
    return _section(name, title, f'<p class="soft">{shown(said)}</p><div class="figures">{figures}</div>')


def _section(name: str, title: str, content: str) -> str:
    return f'<section aria-labelledby="{name}"><h2 id="{name}">{shown(title)}</h2>\n{content}</section>'


def _table(
    section: str, caption: str, heads: Sequence[str], lines: Sequence[Sequence[str]], numeric: Sequence[int] = ()
) -> str:
    """Cells are HTML, heads and caption text; the first cell of a line is its head."""
    kinds = [' class="number"' if place in numeric else "" for place in range(len(heads))]
    head = "".join(f'<th scope="col"{kind}>{shown(text)}</th>' for text, kind in zip(heads, kinds, strict=True))
    body = "".join(
        f'<tr><th scope="row">{line[0]}</th>'
        + "".join(f"<td{kind}>{cell}</td>" for cell, kind in zip(line[1:], kinds[1:], strict=True))
        + "</tr>\n"
        for line in lines
    )
    return (
        f'<p class="soft">{shown(caption)}</p><div class="wide" tabindex="0" role="region" aria-labelledby="{section}">'
        f'<table aria-labelledby="{section}"><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table></div>'
    )
