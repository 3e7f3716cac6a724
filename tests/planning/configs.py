"""Composed configs for the tests of plans, without a process of their own."""

from functools import cache
from pathlib import Path

from hydra import compose, initialize_config_dir

from alpaca import cli, paths
from alpaca.checks import check
from alpaca.config import Config


def composed(*overrides: str) -> Config:
    """The checked config of these overrides."""
    cli.register()
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        config = cli.typed(compose("config", overrides=list(overrides)))
    check(config)
    return config


@cache
def options(group: str) -> tuple[str, ...]:
    """Names of a group's YAML files."""
    return tuple(sorted(file.stem for file in (paths.conf_dir() / group).glob("*.yaml")))


def rows_file(folder: Path) -> str:
    """The override that reads `rows.json` in `folder`."""
    return f"data_source.path={folder / 'rows.json'}"
