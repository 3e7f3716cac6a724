"""`docs/experiments.md`: what every experiment and sweep that ran took and gave, written from run directories.

    python scripts/experiments_table.py outputs/quickstart outputs/sweeps/lora_rank [--write docs/experiments.md]

A folder of runs or a sweep is a table, a variant a row; running out of memory is a result like any other. Times,
memory and rates are those that the runs measured themselves. Without `--write` the page is printed.
"""

import argparse
import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from alpaca.cli import fail
from alpaca.errors import UserError
from alpaca.report import rows
from alpaca.report.comparing import compare
from alpaca.report.markdown import table
from alpaca.report.reading import Found, read_runs
from alpaca.report.records import Comparison, Run, Variant

HEAD = """\
# Experiments

Runs of the shipped experiments and sweeps, as their run directories have them. Written by
`scripts/experiments_table.py`; nothing here is typed by hand.
"""
PLACES = ("output_dir=", "hydra.", "sweep.dry_run=")  # words of a command that say where, not what


def main(argv: list[str] | None = None) -> int:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path, help="folders of runs, sweeps or single runs")
    parser.add_argument("--write", type=Path, help="the page to write; printed otherwise")
    options = parser.parse_args(argv)
    try:
        parts = [section(read_runs([folder])) for folder in options.folders]
    except UserError as error:
        return fail(str(error), error.exit_status)
    page = "\n\n".join([HEAD.rstrip(), *parts]) + "\n"
    if options.write is None:
        print(page, end="")
    else:
        options.write.write_text(page, encoding="utf-8")
    return 0


def section(found: Found) -> str:
    """One table, with the device, the versions and the commands of its runs."""
    comparison = compare(found, force=True)
    parts = [f"## {found.title}"]
    if found.question:
        parts.append(found.question)
    parts.append("; ".join(sorted({_machine(run) for run in found.runs if run.device})))
    heads = ["variant", "runs", *comparison.metrics, *(head for _, head in rows.cost_columns(comparison)), "result"]
    parts.append(table(heads, [_row(comparison, index) for index in range(len(comparison.variants))]))
    commands = [command for run in found.runs if run.device and (command := _command(run))]
    others = f"\n\nThe other {len(commands) - 1} runs differ as the table says." if len(commands) > 1 else ""
    parts.append(f"    {commands[0]}{others}" if commands else "")
    return "\n\n".join(parts)


def _row(comparison: Comparison, index: int) -> list[str]:
    variant = comparison.variants[index]
    means = [rows.mean_text(comparison.means[index].get(metric)) for metric in comparison.metrics]
    costs = [rows.cost_text(name, rows.cost(variant, name)) for name, _ in rows.cost_columns(comparison)]
    return [variant.label, rows.seeds_text(variant), *means, *costs, _result(variant)]


def _result(variant: Variant) -> str:
    """finished, or what kept its runs from it."""
    said = {run.error for run in variant.runs if run.status != "finished"}
    if not said:
        return "finished"
    return "; ".join(sorted("out of memory" if "out of memory" in each.lower() else each for each in said))


def _environment(run: Run) -> dict[str, object]:
    try:
        return dict(json.loads((Path(run.place) / "env.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _machine(run: Run) -> str:
    """Device and versions."""
    found = _environment(run)
    packages = found.get("packages")
    versions = packages if isinstance(packages, dict) else {}
    device = f"{found.get('cpus')} CPU cores" if run.device == "cpu" else f"{found.get('world_size')} x {run.device}"
    made_with = ", ".join(f"{name} {versions.get(name)}" for name in ("torch", "transformers"))
    return f"{device}, {found.get('precision')}; {made_with}"


def _command(run: Run) -> str:
    """The command that made the run, without where it was put."""
    words = _environment(run).get("command")
    given = [str(word) for word in words[1:]] if isinstance(words, list) else []
    kept = [word for word in given if not word.startswith(PLACES)]
    return " ".join(["python -m alpaca.run", *(f"'{word}'" if " " in word else word for word in kept)])


if __name__ == "__main__":
    sys.exit(main())
