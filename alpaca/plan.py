"""`python -m alpaca.plan [options] [overrides]`: steps, tokens, memory, hours and dollars; trains nothing.

Composes and checks the same config as a run. Rows and tokenizer are read where they are on this machine,
weights never, and nothing is downloaded.
"""

import argparse
import sys
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alpaca import cli, commands
from alpaca.checks import check


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 2 bad input, 130 interrupted."""
    return commands.run(_parser(), _plan, argv)


def _plan(options: argparse.Namespace) -> int:
    cli.register_run_dir(lambda composed: Path())  # Hydra makes the folder of a run; a plan leaves nothing
    cli.refuse_multirun(
        "alpaca.plan looks at one configuration: leave out -m and sweep=, and give one value to each key"
    )

    def job(composed: DictConfig) -> None:
        from alpaca.planning.command import plan

        config = cli.typed(composed)
        check(config)
        typed = list(HydraConfig.get().overrides.task)
        plan(config, to_json=options.json, mfu=options.mfu, typed=typed)

    return cli.main(job, options.overrides)


def _parser() -> commands.Parser:
    parser = commands.Parser(
        "plan",
        "What a run takes: steps, tokens, trained weights, memory of a device part by part, hours and dollars, what "
        "fits where, the cheapest setting that fits. Overrides are those of `python -m alpaca.run`, such as "
        "model=llama7b parallelism=fsdp; without parallelism.devices 1, 2, 4 and 8 are shown.",
        usage="python -m alpaca.plan [--json] [--mfu SHARE] [overrides]",
        passed_on=cli.hydra_options(),
    )
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument(
        "--mfu",
        type=_share,
        metavar="SHARE",
        help="share of a GPU's peak that training reaches, instead of the table's",
    )
    return parser


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no share; give a number above 0 and at most 1, such as 0.4")
    return value


if __name__ == "__main__":
    sys.exit(main())
