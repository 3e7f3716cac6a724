"""A comparison in the terminal."""

from collections.abc import Sequence

from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from alpaca.report import rows
from alpaca.report.layout import GAP, Column, fitted, wrapped
from alpaca.report.records import BETTER, WORSE, Comparison

COLOURS = {BETTER: "green", WORSE: "red"}
VERDICT = "verdict"
LEFT_OUT_FIRST = ("trained_parameters", "tokens_per_s", "dollars", "peak_memory_gib")  # of the costs


def show(comparison: Comparison, console: Console) -> None:
    """Print a table for each metric, one of costs, what has no result, and the notes."""
    console.print(f"[bold]{escape(comparison.title)}[/]")
    if comparison.question:
        console.print(escape(comparison.question))
    left_out: dict[str, None] = {}
    for title, columns in (*_metrics(comparison), *_costs(comparison)):
        kept, without = fitted(columns, console.width)
        left_out |= dict.fromkeys(without)
        console.print()
        console.print(_table(title, kept))
    console.print()
    if left_out:
        console.print(
            f"left out at {console.width} columns: {', '.join(left_out)}; report.csv and a wider terminal have them",
            soft_wrap=True,
        )
    for what, status, why in rows.troubles(comparison):
        console.print(f"[red]{status}[/]  {escape(what)}: {escape(why)}")
    for note in comparison.notes:
        console.print(f"note  {escape(note)}")


def _metrics(comparison: Comparison) -> list[tuple[str, list[Column]]]:
    names = tuple(each.label for each in comparison.variants)
    seeds = tuple(map(rows.seeds_text, comparison.variants))
    found = []
    for metric in comparison.metrics:
        differences = [each[metric] for each in comparison.differences]
        columns = [
            Column("variant", names, wraps=True),
            Column("seeds", seeds, dispensable=2),
            Column("mean ± sd", tuple(rows.mean_text(each.get(metric)) for each in comparison.means), dispensable=1),
            Column("difference, 95 % interval", tuple(map(rows.difference_text, differences))),
            Column(VERDICT, tuple(map(rows.verdict_text, differences)), wraps=True),
        ]
        found.append((metric, columns))
    return found


def _costs(comparison: Comparison) -> list[tuple[str, list[Column]]]:
    costs = rows.cost_columns(comparison)
    finished = [each for each in comparison.variants if each.finished]
    if not costs:
        return []
    columns = [Column("variant", tuple(each.label for each in finished), wraps=True)]
    for name, head in costs:
        cells = tuple(rows.cost_text(name, rows.cost(each, name)) for each in finished)
        places = LEFT_OUT_FIRST[::-1]
        columns.append(Column(head, cells, dispensable=places.index(name) + 1 if name in places else 0))
    return [("cost", columns)]


def _table(title: str, columns: Sequence[tuple[Column, int]]) -> Table:
    table = Table(
        title=escape(title),
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, GAP - 1, 0, 0),
    )
    for column, width in columns:
        table.add_column(
            column.head,
            width=width,
            overflow="fold",
            no_wrap=not column.wraps,
            justify="left" if column.wraps else "right",
        )
    for cells in zip(*(column.cells for column, _ in columns), strict=True):
        table.add_row(
            *(
                Text(wrapped(cell, width) if column.wraps else cell, style=_colour(column, cell))
                for cell, (column, width) in zip(cells, columns, strict=True)
            )
        )
    return table


def _colour(column: Column, cell: str) -> str:
    verdict = cell.partition(" (")[0]
    return COLOURS.get(verdict, "") if column.head == VERDICT else ""
