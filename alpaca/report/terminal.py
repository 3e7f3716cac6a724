"""A comparison in the terminal."""

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from alpaca.report import rows
from alpaca.report.records import BETTER, WORSE, Comparison

COLOURS = {BETTER: "green", WORSE: "red"}


def show(comparison: Comparison, console: Console) -> None:
    """Print a table for each metric, one of costs, what has no result, and the notes."""
    console.print(f"[bold]{escape(comparison.title)}[/]")
    if comparison.question:
        console.print(escape(comparison.question))
    for metric in comparison.metrics:
        console.print(_metric(comparison, metric))
    if costs := rows.cost_columns(comparison):
        table = _table("cost", "variant", *(head for _, head in costs))
        for each in comparison.variants:
            if each.finished:
                table.add_row(escape(each.label), *(rows.cost_text(name, rows.cost(each, name)) for name, _ in costs))
        console.print(table)
    for what, status, why in rows.troubles(comparison):
        console.print(f"[red]{status}[/]  {escape(what)}: {escape(why)}")
    for note in comparison.notes:
        console.print(f"note  {escape(note)}")


def _metric(comparison: Comparison, metric: str) -> Table:
    table = _table(metric, "variant", "seeds", "mean ± sd", "difference, 95 % interval", "verdict")
    for each, means, differences in zip(comparison.variants, comparison.means, comparison.differences, strict=True):
        difference = differences[metric]
        colour = COLOURS.get(difference.verdict, "")
        verdict = escape(rows.verdict_text(difference))
        table.add_row(
            escape(each.label),
            rows.seeds_text(each),
            rows.mean_text(means.get(metric)),
            escape(rows.difference_text(difference)),
            f"[{colour}]{verdict}[/]" if colour else verdict,
        )
    return table


def _table(title: str, *heads: str) -> Table:
    from rich import box

    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        padding=(0, 1, 0, 0),
    )
    for index, head in enumerate(heads):
        left = index == 0 or head == "verdict"
        table.add_column(head, overflow="fold", no_wrap=not left, justify="left" if left else "right")
    return table
