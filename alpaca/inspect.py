"""`python -m alpaca.inspect [options] [overrides]`: what the model will see, before it is trained on.

Composes and checks the same config as a run and loads its rows and tokenizer, no weights. Writes
`inspect.json` and one self-contained `inspect.html`, prints the same, and with `--fail-on` is a gate:
exit status 1 when a defect is in more rows than allowed.
"""

import argparse
import sys
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alpaca import cli, commands
from alpaca.checks import check
from alpaca.config import Config
from alpaca.inspection.gate import enforce, limits
from alpaca.selfinstruct.directories import with_finished_data

DEFAULT_NAME = Config().name


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 a defect over its limit, 2 bad input, 130 interrupted."""
    return commands.run(_parser(), _inspect, argv, keeps_going=True)


def _inspect(options: argparse.Namespace) -> int:
    started = time.strftime("%Y%m%d-%H%M%S")
    allowed = limits(options.fail_on) if options.fail_on is not None else {}
    cli.register_run_dir(lambda composed: _directory(_checked(composed), started))
    cli.refuse_multirun(
        "alpaca.inspect looks at one configuration: leave out -m and sweep=, and give one value to each key"
    )

    def job(composed: DictConfig) -> None:
        from alpaca.inspection.command import inspect

        hydra = HydraConfig.get()
        config = with_finished_data(_checked(composed), started)
        path, given = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
        enforce(inspect(config, path, given, examples=options.examples), allowed)

    return cli.main(job, options.overrides, _checked)


def _parser() -> commands.Parser:
    parser = commands.Parser(
        "inspect",
        "What the model will see: examples with their mask, lengths, defects, near-duplicates, diversity. "
        "Overrides are those of `python -m alpaca.run`, such as data_source=json data_source.path=FILE model=tiny.",
        usage="python -m alpaca.inspect [--fail-on NAME[=COUNT],...] [--examples N] [overrides]",
        passed_on=cli.hydra_options(),
    )
    parser.add_argument(
        "--fail-on",
        metavar="NAME[=COUNT],...",
        help="exit 1 when a defect is in more than COUNT rows (0 where left out); `any` is every defect",
    )
    parser.add_argument("--examples", type=_count, default=4, metavar="N", help="examples shown token by token (4)")
    return parser


def _count(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is no number of examples; give 0 or more")
    return int(text)


def _directory(config: Config, started: str) -> Path:
    """`output_dir` if given, else `outputs/inspect/<time>-<name>`; the data source's name where `name` is not set."""
    if config.output_dir:
        return Path(config.output_dir).expanduser()
    name = config.name if config.name != DEFAULT_NAME else config.data_source.name
    return Path("outputs") / "inspect" / f"{started}-{name}"


def _checked(composed: DictConfig) -> Config:
    config = cli.typed(composed)
    check(config)
    return config


if __name__ == "__main__":
    sys.exit(main())
