"""`alpaca.compare`, and the report at the end of a sweep: read, compare, show, write."""

import csv
import io
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from alpaca.errors import UserError
from alpaca.report import markdown, pair, rows, terminal
from alpaca.report.comparing import compare
from alpaca.report.html import page as html_page
from alpaca.report.reading import Found, read_runs
from alpaca.report.records import Comparison
from alpaca.report.variants import matches
from alpaca.sweeping import record
from alpaca.tracking.folders import REPORT, SWEEP, refuse_foreign
from alpaca.tracking.run_directory import write_text

WANDB = "wandb:"
WIDTH = 100  # of a table that goes to a file


def compare_places(
    places: Sequence[str],
    *,
    baseline: str | None = None,
    metrics: Sequence[str] = (),
    filters: Sequence[str] = (),
    force: bool = False,
    output: Path | None = None,
    lower: Sequence[str] = (),
    higher: Sequence[str] = (),
) -> tuple[Comparison, Path]:
    """Compare all runs in `places`, print the result and write it; returns it and the folder.

    Raises:
        UserError: no runs, runs that cannot be compared, or a folder that cannot be written.
    """
    if output is not None:
        refuse_foreign(output, REPORT, key="--output", also=(SWEEP,))
    found = _filtered(_read(places), filters)
    comparison = compare(found, baseline=baseline, metrics=metrics, force=force, lower=lower, higher=higher)
    console = Console(width=_width(), highlight=False)
    two = pair.pair_of(comparison)
    folder = output or _default_output(found)
    _write(comparison, two, folder)
    terminal.show(comparison, console)
    if two is not None and len(found.runs) == 2:
        pair.show(two, console)
    console.print(f"\nreport  {folder / 'report.html'}, report.md, report.csv", soft_wrap=True)
    return comparison, folder


def write_report(folder: Path, *, say: Callable[[str], None]) -> None:
    """The report of a sweep, written into its folder; `say` gets the table.

    Runs that cannot be compared are shown all the same.

    Raises:
        UserError: there is no run, or a damaged file.
    """
    found = read_runs([folder])
    try:
        comparison = compare(found)
    except UserError as error:
        comparison = replace(compare(found, only_costs=True), notes=(f"No comparison of scores: {error}",))
    text = io.StringIO()
    terminal.show(comparison, Console(file=text, width=min(WIDTH, _width()), highlight=False))
    say(text.getvalue().rstrip())
    _write(comparison, pair.pair_of(comparison), folder)
    say(f"report  {folder / 'report.html'}, report.md, report.csv")


def _width() -> int:
    """Columns of the terminal, of which a very narrow one scrolls."""
    columns = shutil.get_terminal_size(fallback=(WIDTH, 24)).columns
    return columns if columns > 60 else 80


def _read(places: Sequence[str]) -> Found:
    """Runs on disk, or those of a W&B project."""
    online = [place for place in places if place.startswith(WANDB)]
    if not online:
        return read_runs([Path(place).expanduser() for place in places])
    if len(places) > 1:
        raise UserError(f"{online[0]}: a W&B project is compared by itself; leave the other places out")
    from alpaca.report.wandb_source import read_project

    return read_project(online[0].removeprefix(WANDB))


def _filtered(found: Found, filters: Sequence[str]) -> Found:
    if not filters:
        return found
    for each in filters:
        if "=" not in each:
            raise UserError(f"--filter {each}: not a condition; write KEY=VALUE, as in model.name=tiny")
    wanted = dict(each.partition("=")[::2] for each in filters)
    kept = [run for run in found.runs if matches(run, wanted)]
    if not kept:
        raise UserError(f"--filter {', '.join(filters)}: fits none of the {len(found.runs)} runs")
    if found.first in kept:
        return replace(found, runs=kept)
    return replace(found, runs=kept, first=kept[0], baseline="")


def _default_output(found: Found) -> Path:
    """A sweep's own folder, else a new one under outputs/compare."""
    if len(found.folders) == 1 and (found.folders[0] / record.FILE).is_file():
        return found.folders[0]
    return Path("outputs") / "compare" / time.strftime("%Y%m%d-%H%M%S")


def _write(comparison: Comparison, two: pair.Pair | None, folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / "report.md", markdown.page(comparison, two))
        write_text(folder / "report.csv", _csv(comparison))
        write_text(folder / "report.html", html_page(comparison))
    except OSError as error:
        raise UserError(f"{error.filename or folder}: {error.strerror}; choose another folder, --output DIR") from error


def _csv(comparison: Comparison) -> str:
    lines = rows.csv_rows(comparison)
    text = io.StringIO()
    writer = csv.DictWriter(text, lines[0].keys() if lines else ["variant"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(lines)
    return text.getvalue()
