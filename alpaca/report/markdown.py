"""A comparison as `report.md`."""

from collections.abc import Sequence

from alpaca.report import rows
from alpaca.report.pair import Pair
from alpaca.report.records import Comparison

MARKUP = "\\|`*["
LONGEST = 400  # characters of a text that are shown


def page(comparison: Comparison, pair: Pair | None = None) -> str:
    """The whole page."""
    parts = [f"# {_cell(comparison.title)}"]
    parts += [_cell(text) for text in (comparison.question, comparison.read) if text]
    if found := rows.answers(comparison):
        parts.append("\n".join(f"* {_cell(answer)}" for answer in found))
    for metric in comparison.metrics:
        lines = [
            (
                each.label,
                rows.seeds_text(each),
                rows.mean_text(means.get(metric)),
                rows.difference_text(differences[metric]),
                rows.verdict_text(differences[metric]),
                differences[metric].why,
            )
            for each, means, differences in zip(
                comparison.variants, comparison.means, comparison.differences, strict=True
            )
        ]
        heads = ("variant", "seeds", "mean ± sd", "difference [95 % interval]", "verdict", "how")
        parts += [f"## {_cell(metric)}", table(heads, lines)]
    if costs := rows.cost_columns(comparison):
        prices = [
            (each.label, *(rows.cost_text(name, rows.cost(each, name)) for name, _ in costs))
            for each in comparison.variants
            if each.finished
        ]
        parts += ["## Cost", "Means over the finished runs.", table(("variant", *(head for _, head in costs)), prices)]
    if bad := rows.troubles(comparison):
        parts += ["## Runs without a result", table(("run", "status", "why"), bad)]
    if comparison.notes:
        parts += ["## Notes", "\n".join(f"* {_cell(note)}" for note in comparison.notes)]
    if pair is not None:
        parts += _pair(pair)
    return "\n\n".join(parts) + "\n"


def _pair(pair: Pair) -> list[str]:
    settings = table(("setting", pair.names[0], pair.names[1]), pair.settings)
    parts = ["## Settings that differ", settings]
    for title, examples in zip(pair.words, (pair.gains, pair.losses), strict=True):
        if examples:
            parts.append(f"## Examples with the largest {title} of {pair.names[1]} ({pair.metric})")
        for example in examples:
            heads = ("", pair.names[0], pair.names[1])
            texts = [
                (pair.metric, f"{example.scores[0]:.4f}", f"{example.scores[1]:.4f}"),
                ("answer", *(_short(text) for text in example.outputs)),
            ]
            parts += [
                f"### `{example.name}`",
                f"Prompt: {_cell(_short(example.prompt))}\n\nReference: {_cell(_short(example.reference))}",
                table(heads, texts),
            ]
    return parts


def table(heads: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A Markdown table; texts are escaped."""
    return "\n".join(
        ["| " + " | ".join(map(_cell, heads)) + " |", "|" + " --- |" * len(heads)]
        + ["| " + " | ".join(map(_cell, line)) + " |" for line in lines]
    )


def _cell(text: str) -> str:
    """Text that stays in its cell and is no markup: model output may hold anything."""
    plain = " ".join(str(text).split()).replace("&", "&amp;").replace("<", "&lt;")
    return "".join(f"\\{character}" if character in MARKUP else character for character in plain)


def _short(text: str | None) -> str:
    if text is None:
        return "–"
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}…"
