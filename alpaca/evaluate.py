"""`python -m alpaca.evaluate RUN [overrides]`: scores of a finished run, a model folder or a file of outputs.

A run is scored with its own evaluation settings, or with what is typed; its scores are merged into its summary.
The config is composed by Hydra from the same `conf/` as a run's. Nothing is trained.
"""

import argparse
import contextlib
import sys
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alpaca import cli, commands
from alpaca.errors import UserError
from alpaca.evaluation.composing import overrides_for, overrides_for_other
from alpaca.evaluation.targets import Target, find
from alpaca.startup import ended_by_signals

MADE = Path("outputs") / "evaluate"
SINGLE = "alpaca.evaluate scores one thing: leave out -m and sweep=, and give one value to each key"


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 failed, 2 bad input, 130 interrupted."""
    return commands.run(_parser(), _evaluate, argv, keeps_going=True)


def _evaluate(options: argparse.Namespace) -> int:
    started, typed = time.strftime("%Y%m%d-%H%M%S"), options.overrides
    if {"-m", "--multirun"} & set(typed) or any(part.startswith("sweep=") for part in typed):
        raise UserError(SINGLE)
    target = find(options.run)
    given = overrides_for_other(typed) if target.config is None else overrides_for(target.config, typed)
    cli.register_run_dir(lambda composed: _directory(composed.output_dir, target, started))
    cli.refuse_multirun(SINGLE)

    def job(composed: DictConfig) -> None:
        from alpaca.evaluation.command import evaluate

        place = Path(HydraConfig.get().runtime.output_dir)
        try:
            with ended_by_signals():
                evaluate(target, cli.typed(composed), place, typed)
        finally:
            _remove_if_empty(place)

    return cli.main(job, given)


def _parser() -> commands.Parser:
    parser = commands.Parser(
        "evaluate",
        "Score a finished run again or with other evaluations, a model folder, or a file of outputs. "
        "Evaluations: quick, loss, generate, safety, judge, lm_eval; several are 'evaluation=[quick,judge]'.",
        epilog="examples: python -m alpaca.evaluate outputs/quickstart/DIR | python -m alpaca.evaluate RUN "
        "'evaluation=[generate,safety]' evaluation.generate.instructions=vicuna_80 evaluation.decode.temperature=0.7 | "
        "python -m alpaca.evaluate model_outputs.json evaluation=judge evaluation.judge.annotations=annotations.json",
        usage="python -m alpaca.evaluate RUN [overrides]",
        passed_on=cli.hydra_options(),
    )
    parser.add_argument(
        "run", metavar="RUN", help="a finished run directory, a folder with a model, or a JSON or JSONL file of outputs"
    )
    return parser


def _directory(output_dir: str | None, target: Target, started: str) -> Path:
    """`output_dir`, the run itself, the newest stopped evaluation of it, or `outputs/evaluate/<time>-<name>`."""
    if output_dir:
        return Path(output_dir).expanduser()
    if target.config is not None:
        return target.path
    from alpaca.evaluation.place import stopped

    return stopped(MADE, target.path) or MADE / f"{started}-{target.name}"


def _remove_if_empty(place: Path) -> None:
    """Hydra made it a moment ago; what was refused before it began leaves no folder, nor empty ones around it."""
    around = place.parents[:2] if place.parent == MADE.absolute() else ()
    for folder in (place, *around):
        with contextlib.suppress(OSError):
            folder.rmdir()


if __name__ == "__main__":
    sys.exit(main())
