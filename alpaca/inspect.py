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

from alpaca import cli
from alpaca.checks import check
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.inspection.gate import enforce, limits
from alpaca.selfinstruct.directories import with_finished_data

DEFAULT_NAME = Config().name


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 a defect over its limit, 2 bad input, 130 interrupted."""
    options, overrides = _parser().parse_known_args(sys.argv[1:] if argv is None else argv)
    started = time.strftime("%Y%m%d-%H%M%S")
    try:
        allowed = limits(options.fail_on) if options.fail_on is not None else {}
    except UserError as error:
        return cli.fail(str(error), error.exit_status)
    cli.register_run_dir(lambda composed: _directory(_checked(composed), started))
    cli.refuse_multirun(
        "alpaca.inspect looks at one configuration: leave out -m and sweep=, and give one value to each key"
    )
    statuses: list[int] = []

    def job(composed: DictConfig) -> None:
        from alpaca.inspection.command import inspect

        hydra = HydraConfig.get()
        config = _checked(composed)
        config = with_finished_data(config, started)
        path, given = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
        try:
            enforce(inspect(config, path, given, examples=options.examples), allowed)
        except (UserError, RunFailed) as error:  # caught here: Hydra would print a line of its own before ours
            statuses.append(cli.fail(str(error), error.exit_status))

    return cli.main(job, overrides) or max(statuses, default=0)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m alpaca.inspect",
        usage="python -m alpaca.inspect [--fail-on NAME[=COUNT],...] [--examples N] [overrides]",
        description="What the model will see: examples with their mask, lengths, defects, near-duplicates, diversity. "
        "Overrides are those of `python -m alpaca.run`, such as data_source=json data_source.path=FILE model=tiny.",
        allow_abbrev=False,
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
