"""`python -m alpaca.generate [overrides]`: make an instruction data set with a model.

Composes the same config as a run and uses its sections `generation`, `tracker` and the root keys. The
same command again continues what is unfinished, and finds what is finished.
"""

import contextlib
import sys
import time
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig

from alpaca import cli, startup
from alpaca.checks import check_ranges
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.help import groups
from alpaca.selfinstruct.directories import directory
from alpaca.selfinstruct.settings import check_generation

TEXT = """\
Make instruction data with a model: prompts, filters, novelty, within a budget, nothing lost.

  python -m alpaca.generate generation=local                                     the embedded model, no network, no key
  python -m alpaca.generate generation.target=1000 generation.budget_usd=5       OpenAI, key in OPENAI_API_KEY
  python -m alpaca.generate generation.base_url=http://127.0.0.1:8000/v1 generation.model=NAME generation.target=1000
  python -m alpaca.generate generation=reanswer generation.path=rows.json        new outputs for your instructions
  python -m alpaca.generate generation=evolve generation.target=500              harder variants of your tasks

generation: {options}

The same command again continues an unfinished generation and reuses a finished one; output_dir=DIR names its
folder. Keys, their meaning and their defaults: conf/generation and alpaca/config/ (GenerationConfig).
"""


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status: 0 done, 1 stopped early, 2 bad input, 130 interrupted."""
    startup.start()
    arguments = sys.argv[1:] if argv is None else argv
    if {"--help", "-h"} & set(arguments):
        print(TEXT.format(options=", ".join(groups()["generation"])), end="")
        return 0
    started = time.strftime("%Y%m%d-%H%M%S")
    cli.register_run_dir(lambda composed: _directory(_checked(composed), started))
    cli.refuse_multirun("alpaca.generate makes one data set: leave out -m and sweep=, and give one value to each key")
    statuses: list[int] = []

    def job(composed: DictConfig) -> None:
        from alpaca.selfinstruct.command import generate

        hydra = HydraConfig.get()
        config = _checked(composed)
        path, given = Path(hydra.runtime.output_dir), list(hydra.overrides.task)
        try:
            generate(config, path, given)
        except (UserError, RunFailed) as error:
            with contextlib.suppress(OSError):
                path.rmdir()  # only where it is empty: what was refused before it began leaves no folder
            statuses.append(cli.fail(str(error), error.exit_status))

    return cli.main(job, argv, _checked) or max(statuses, default=0)


def _directory(config: Config, started: str) -> Path:
    return directory(config, started, named=config.output_dir)


def _checked(composed: DictConfig) -> Config:
    config = cli.typed(composed)
    check_ranges(config)
    check_generation(config.generation)
    return config


if __name__ == "__main__":
    sys.exit(main())
