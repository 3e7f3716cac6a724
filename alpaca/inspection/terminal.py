"""The survey in the terminal: examples in colour, then tables from the most to the least important."""

from collections.abc import Iterator

from rich.console import RenderableType
from rich.padding import Padding
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from alpaca.data.statistics import PADDED_BATCH
from alpaca.inspection.examples import ShownExample
from alpaca.inspection.findings import Finding
from alpaca.inspection.results import Survey

TRAINED = ("black on #b5e2bd", "black on #8fcf9c")  # in turn, so that tokens can be told apart
READ = ("default", "dim")
SPECIAL = "bold white on #6f42a8"
MARK = "bold yellow"
PAIRS = 15  # verb and object pairs listed


def render(found: Survey) -> Iterator[RenderableType]:
    """What to print, in order."""
    yield _about(found)
    if found.examples:
        yield _heading("examples as the model sees them")
        yield _legend()
        for example in found.examples:
            yield Text(f"\nline {example.place}", style="bold").append(
                f"  {example.tokens:,} tokens, {example.supervised:,} trained; {example.why}", style="not bold dim"
            )
            yield tokens(example)
    yield _heading("rows")
    yield _rows(found)
    yield ""
    yield _lengths(found)
    yield _heading("defects")
    yield _defects(found.defects)
    yield _heading("what the instructions ask for")
    variety = found.diversity
    yield (
        f"{variety.with_verb:,} of {variety.instructions:,} instructions have a root verb (the first known verb after "
        f"polite openings; a word list, no parser): {variety.verbs:,} verbs, {variety.objects:,} objects, "
        f"{variety.pairs:,} pairs\n"
    )
    yield _pairs(found)


def _heading(text: str) -> Padding:
    return Padding(Rule(Text(text, style="bold"), align="left", style="dim"), (1, 0, 0, 0))


def tokens(example: ShownExample) -> Text:
    """An example's tokens in colour, with marks where the response begins and where tokens are left out."""
    text = Text()
    for place, piece in enumerate(example.pieces):
        if place == example.cut_at:
            text.append(f" … {example.left_out:,} tokens not shown … ", style=MARK)
        if place == example.response_start:
            text.append("▶", style=MARK)
        style = SPECIAL if piece.special else (TRAINED if piece.trained else READ)[place % 2]
        for kept in piece.text.splitlines(keepends=True) or [piece.text]:
            line = kept.rstrip("\n\r")
            text.append("".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in line), style=style)
            if line != kept:
                text.append("↵", style=style)
                text.append("\n")
    return text


def _legend() -> Text:
    legend = Text("prompt, read only", style=READ[0])
    legend.append("   ").append("trained", style=TRAINED[0]).append(" ").append("token by token", style=TRAINED[1])
    legend.append("   ").append("special token", style=SPECIAL)
    return legend.append("   ").append("▶", style=MARK).append(" the response begins   ↵ newline")


def _about(found: Survey) -> Table:
    table = Table.grid(padding=(0, 2))
    for name, text in found.about.items():
        table.add_row(Text(name, style="bold"), Text(text))
    return table


def _rows(found: Survey) -> Table:
    rows, packed = found.rows, found.packing
    table = Table.grid(padding=(0, 2))
    table.add_column(justify="left")
    table.add_column(justify="right")
    table.add_row("rows in", f"{rows.source:,}")
    table.add_row("trained", f"{rows.trained:,}")
    table.add_row("held out", f"{rows.held_out:,}")
    for reason, count in rows.dropped.items():
        table.add_row(f"dropped: {reason}", f"{count:,}")
    table.add_row("dropped in all", f"{sum(rows.dropped.values()):,}")
    table.add_row("truncated: longer than train.max_length", f"{rows.truncated:,}")
    table.add_row("with input", f"{rows.with_input:.1%}")
    table.add_row("supervised share of tokens", f"{found.supervised_share:.1%}")
    table.add_row(f"packing density at {packed.token_budget:,} tokens", f"{packed.density:.1%}")
    table.add_row("tokens saved by sharing prompt prefixes", f"{packed.saved_by_sharing:.1%}")
    table.add_row(f"padding avoided (batches of {PADDED_BATCH} would have)", f"{packed.padding_avoided:.1%}")
    return table


def _lengths(found: Survey) -> Table:
    table = Table("length", show_edge=False, pad_edge=False)
    for column in ("mean", "median", "p95", "max"):
        table.add_column(column, justify="right")
    for name, spread in found.lengths.items():
        table.add_row(name, f"{spread.mean:,.1f}", f"{spread.median:,.0f}", f"{spread.p95:,.0f}", f"{spread.max:,}")
    return table


def _defects(findings: list[Finding]) -> Table:
    table = Table("defect", show_edge=False, pad_edge=False)
    table.add_column("rows", justify="right")
    table.add_column("first lines")
    for finding in findings:
        style = "yellow" if finding.count else "dim"
        more = ", …" if finding.count > len(finding.lines) else ""
        table.add_row(finding.name, f"{finding.count:,}", ", ".join(finding.places) + more, style=style)
    return table


def _pairs(found: Survey) -> Table:
    table = Table("verb", "object", show_edge=False, pad_edge=False)
    table.add_column("rows", justify="right")
    for verb, item, count in found.diversity.most_frequent[:PAIRS]:
        table.add_row(verb, item or "–", f"{count:,}")
    return table
