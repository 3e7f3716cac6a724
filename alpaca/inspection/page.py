"""The survey as one HTML page: styles and plots inside, no request to anywhere, readable on a phone.

All text from the data is escaped; the page forbids itself scripts and outside sources.
"""

from html import escape
from importlib.resources import files

from alpaca.data.statistics import PADDED_BATCH
from alpaca.inspection.examples import ShownExample
from alpaca.inspection.findings import ROUGE_THRESHOLD, Finding, slug
from alpaca.inspection.plots import OBJECTS, VERBS, histogram, sunburst
from alpaca.inspection.results import Survey

PAIRS = 30  # verb and object pairs listed
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


def page(found: Survey, title: str) -> str:
    """A complete HTML document."""
    css = (files("alpaca.inspection") / "page.css").read_text(encoding="utf-8")
    about = "".join(f"<dt>{escape(name)}</dt><dd>{escape(text)}</dd>" for name, text in found.about.items())
    warnings = "".join(f'<p class="warning">{escape(text)}</p>' for text in found.warnings)
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{_POLICY}">
<title>{escape(title)}</title>
<style>
{css}</style>
</head>
<body>
<header>
<h1>{escape(title)}</h1>
<dl>{about}</dl>
{warnings}
</header>
<main>
{_tiles(found)}
{_examples(found.examples)}
{_lengths(found)}
{_rows(found)}
{_defects(found.defects)}
{_diversity(found)}
</main>
</body>
</html>
"""


def _tiles(found: Survey) -> str:
    rows, packed = found.rows, found.packing
    tiles = (
        (f"{rows.source:,}", "rows in"),
        (f"{rows.trained:,}", "trained"),
        (f"{rows.held_out:,}", "held out"),
        (f"{sum(rows.dropped.values()):,}", "dropped"),
        (f"{rows.truncated:,}", "truncated"),
        (f"{rows.with_input:.1%}", "with input"),
        (f"{found.tokens:,}", "tokens an epoch"),
        (f"{found.supervised_share:.1%}", "of tokens trained"),
        (f"{packed.density:.1%}", "packing density"),
        (f"{sum(bool(finding.count) for finding in found.defects)} of {len(found.defects)}", "defects found"),
    )
    return (
        '<div class="tiles">'
        + "".join(f"<div><b>{value}</b><span>{name}</span></div>" for value, name in tiles)
        + "</div>"
    )


def _examples(examples: list[ShownExample]) -> str:
    if not examples:
        return ""
    shown = "".join(
        f"<h3>Line {escape(example.place)}</h3>"
        f'<p class="soft">{example.tokens:,} tokens, {example.supervised:,} trained; {escape(example.why)}</p>'
        f'<pre class="tokens">{_tokens(example)}</pre>'
        for example in examples
    )
    return f"""<section aria-labelledby="examples"><h2 id="examples">Examples as the model sees them</h2>
<p class="legend"><span><i>prompt</i> read only</span><span><i class="t">tok</i><i class="t o">ens</i> trained</span>
<span><i class="s">special</i> token</span><span><b>▶</b> the response begins</span>
<span><span class="e">↵</span> newline</span></p>
{shown}</section>"""


def _tokens(example: ShownExample) -> str:
    parts = []
    for place, piece in enumerate(example.pieces):
        if place == example.cut_at:
            parts.append(f"<b> … {example.left_out:,} tokens not shown … </b>")
        if place == example.response_start:
            parts.append('<b title="the response begins">▶</b>')
        kind = " ".join(name for name, holds in (("s", piece.special), ("t", piece.trained), ("o", place % 2)) if holds)
        note = ("trained " if piece.trained else "") + "token " + " ".join(map(str, piece.ids))
        parts.append(f'<i class="{kind}" title="{note}">{_visible(piece.text)}</i>')
    return "".join(parts)


def _visible(text: str) -> str:
    """Escaped text; newlines and control characters are marked."""
    shown = "".join(c if c.isprintable() or c in "\n\t" else f"\\x{ord(c):02x}" for c in text)
    return escape(shown).replace("\n", '<span class="e">↵</span>\n')


def _lengths(found: Survey) -> str:
    body = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class="number">{spread.mean:,.1f}</td>'
        f'<td class="number">{spread.median:,.0f}</td><td class="number">{spread.p95:,.0f}</td>'
        f'<td class="number">{spread.max:,}</td></tr>'
        for name, spread in found.lengths.items()
    )
    head = "".join(f'<th scope="col" class="number">{name}</th>' for name in ("mean", "median", "p95", "max"))
    return f"""<section aria-labelledby="lengths"><h2 id="lengths">Lengths</h2>
<figure>{histogram(*found.histogram, found.max_length)}</figure>
<div class="wide"><table><caption>Training rows. The prompt is what the template makes of a row.</caption>
<thead><tr><th scope="col">length</th>{head}</tr></thead><tbody>{body}</tbody></table></div></section>"""


def _rows(found: Survey) -> str:
    rows, packed = found.rows, found.packing
    lines = [
        ("rows in", f"{rows.source:,}"),
        ("trained", f"{rows.trained:,}"),
        ("held out for evaluation", f"{rows.held_out:,}"),
        *((f"dropped: {reason}", f"{count:,}") for reason, count in rows.dropped.items()),
        ("dropped in all", f"{sum(rows.dropped.values()):,}"),
        ("truncated: longer than train.max_length", f"{rows.truncated:,}"),
        ("rows with an input", f"{rows.with_input:.1%}"),
        ("supervised share of tokens", f"{found.supervised_share:.1%}"),
        (f"packing density: tokens / (micro-batches of {packed.token_budget:,})", f"{packed.density:.1%}"),
        ("micro-batches a step on each rank", f"{packed.micro_batches_per_step:.1f}"),
        ("tokens saved by sharing prompt prefixes", f"{packed.saved_by_sharing:.1%}"),
        (f"padding that batches of {PADDED_BATCH} would have", f"{packed.padding_avoided:.1%}"),
    ]
    body = "".join(f'<tr><th scope="row">{name}</th><td class="number">{value}</td></tr>' for name, value in lines)
    return f"""<section aria-labelledby="rows"><h2 id="rows">Rows and packing</h2>
<div class="wide"><table><caption>Packing over {packed.steps} of {packed.steps_in_epoch:,} steps of the first epoch,
{packed.ranks} rank{"s" if packed.ranks > 1 else ""}.</caption><tbody>{body}</tbody></table></div></section>"""


def _defects(findings: list[Finding]) -> str:
    body = "".join(
        f'<tr class="{"found" if finding.count else "none"}"><th scope="row">{escape(finding.name)}</th>'
        f'<td class="number">{finding.count:,}</td><td>{_lines(finding)}</td></tr>'
        for finding in findings
    )
    return f"""<section aria-labelledby="defects"><h2 id="defects">Defects</h2>
<p class="soft">Rules of thumb on one row each, and near-duplicates of instruction with input by ROUGE-L above
{ROUGE_THRESHOLD}. As a gate: <code>--fail-on {slug(findings[0].name)}=0</code>.</p>
<div class="wide"><table><thead><tr><th scope="col">defect</th><th scope="col" class="number">rows</th>
<th scope="col">first lines</th></tr></thead><tbody>{body}</tbody></table></div></section>"""


def _lines(finding: Finding) -> str:
    if not finding.count:
        return "–"
    more = ", …" if finding.count > len(finding.lines) else ""
    items = "".join(
        f"<li><b>{escape(place)}</b> {escape(excerpt)}</li>"
        for place, excerpt in zip(finding.places, finding.excerpts, strict=True)
    )
    return f"<details><summary>{escape(', '.join(finding.places))}{more}</summary><ol>{items}</ol></details>"


def _diversity(found: Survey) -> str:
    variety = found.diversity
    body = "".join(
        f'<tr><th scope="row">{escape(verb)}</th><td>{escape(item) or "–"}</td><td class="number">{count:,}</td></tr>'
        for verb, item, count in variety.most_frequent[:PAIRS]
    )
    return f"""<section aria-labelledby="diversity"><h2 id="diversity">What the instructions ask for</h2>
<p>{variety.with_verb:,} of {variety.instructions:,} instructions have a root verb by the rule: {variety.verbs:,} verbs,
{variety.objects:,} objects, {variety.pairs:,} pairs.</p>
<p class="soft">The rule, a word list and no parser: polite openings and introductory clauses are taken away; the first
word then, if it is a known verb or question word, is the root, and the last word of the noun phrase after it the
object. English only.</p>
<figure>{sunburst(variety.most_frequent)}
<figcaption>The {VERBS} most frequent verbs, each with its {OBJECTS} most frequent objects; the angle is the number
of rows of such a pair.</figcaption></figure>
<h3>Most frequent pairs</h3>
<div class="wide"><table><thead><tr><th scope="col">verb</th><th scope="col">object</th>
<th scope="col" class="number">rows</th></tr></thead><tbody>{body}</tbody></table></div></section>"""
