"""`python -m alpaca.compare RUNS... [options]`: which differences between runs are real, and what they cost."""

import argparse
import sys
from pathlib import Path

from alpaca import commands


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    return commands.run(parser(), _compare, argv)


def _compare(options: argparse.Namespace) -> None:
    from alpaca.report.command import compare_places

    comparison, folder = compare_places(
        options.runs,
        baseline=options.baseline,
        metrics=options.metric,
        filters=options.filter,
        force=options.force,
        output=options.output,
        lower=options.lower,
        higher=options.higher,
    )
    if options.wandb_report:
        from alpaca.report.wandb_source import publish

        print(f"W&B report  {publish(comparison, folder, options.wandb_report)}")


def parser() -> commands.Parser:
    """The command's options."""
    made = commands.Parser(
        "compare",
        "One row for each variant: mean over seeds, difference to the baseline with its 95 % interval, a verdict, and "
        "the cost. Writes report.html, report.md and report.csv. Two runs are shown side by side.",
    )
    made.add_argument(
        "runs", nargs="+", metavar="RUNS", help="run directories, folders of runs, or wandb:ENTITY/PROJECT"
    )
    made.add_argument(
        "--baseline",
        metavar="KEY=VALUE,...",
        help="the variant to compare with (that of sweep.baseline, else the first)",
    )
    made.add_argument("--metric", action="append", default=[], metavar="NAME", help="a metric to compare; repeatable")
    for way in ("lower", "higher"):
        made.add_argument(
            f"--{way}",
            action="append",
            default=[],
            metavar="NAME",
            help=f"a metric of which {way} is better; repeatable",
        )
    made.add_argument(
        "--filter", action="append", default=[], metavar="KEY=VALUE", help="only runs with this setting; repeatable"
    )
    made.add_argument(
        "--force", action="store_true", help="compare on common examples, whatever the runs were scored on"
    )
    made.add_argument("--output", type=Path, metavar="DIR", help="where the report goes (a sweep: its own folder)")
    made.add_argument(
        "--wandb-report", metavar="ENTITY/PROJECT", help="publish it as a W&B report too (package wandb-workspaces)"
    )
    return made


if __name__ == "__main__":
    sys.exit(main())
