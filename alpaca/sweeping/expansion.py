"""From a command line and a sweep file to jobs: the grid, and changes that are made one at a time.

Hydra's grids are products. An ablation that leaves one thing out at a time is not: `sweep.one_at_a_time` lists
changes, and beside the grid of the base there is one more grid for each of them.
"""

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig

from alpaca.errors import UserError

BASE, ALONE = "base", "defaults"
LONGEST_NAME = 120  # characters of a folder's name before its signature


@dataclass(frozen=True)
class Combination:
    """One job of a sweep: all overrides it is given, and those that set it apart from the others."""

    overrides: list[str]
    differs: list[str]

    @property
    def name(self) -> str:
        """What differs, as a part of a folder's name."""
        return file_name(",".join(self.differs) or ALONE)


def file_name(text: str) -> str:
    """`text` with everything that does not belong into a folder's name replaced."""
    return re.sub(r"[^\w.,=+-]", "_", text)[:LONGEST_NAME]


def typed_overrides(arguments: list[str]) -> list[str]:
    """The overrides of the job among a command line's arguments, without Hydra's own."""
    given: Iterable[str] = get_args_parser().parse_args(arguments).overrides
    return [part for part in given if not re.match(r"[+~]*hydra[./=@]", part)]


def combinations(typed: list[str], grid: dict[str, Any], one_at_a_time: list[str]) -> list[Combination]:
    """Every job, the base first; an override of `typed` takes the place of the same key in `grid`.

    Raises:
        UserError: an entry of `one_at_a_time` that cannot be read or holds several values.
    """
    parser = OverridesParser.create()
    overrides = parser.parse_overrides([*(f"{key}={values}" for key, values in grid.items()), *typed])
    (products,) = BasicSweeper.split_arguments(overrides, None)
    varied = {_key(part) for part in {part for job in products for part in job} - set(products[0])} - {"output_dir"}
    varied |= set(map(str, grid))  # with one value too: a folder is called the same whatever part of a grid is run
    if not varied:  # one job, which a report of several seeds should know by its own
        varied = {_key(part) for part in products[0]} & {"train.seed"}
    base = [BASE] if one_at_a_time else []
    made = [Combination(job, [*base, *_of(job, varied)]) for job in products]
    for entry in one_at_a_time:
        swapped = _change(entry, parser)
        for job in products:
            rest = [part for part in job if _key(part) not in swapped]
            made.append(Combination([*swapped.values(), *rest], [*swapped.values(), *_of(rest, varied)]))
    return made


def _of(job: list[str], keys: set[str]) -> list[str]:
    return [part for part in job if _key(part) in keys]


def _change(entry: str, parser: OverridesParser) -> dict[str, str]:
    """Key to override of one entry of `sweep.one_at_a_time`."""
    try:
        parts = shlex.split(entry)
        read = parser.parse_overrides(parts)
    except (ValueError, HydraException):
        parts, read = [], []
    if not read:
        raise UserError(f"sweep.one_at_a_time: {entry!r} cannot be read; an entry is one change, as in adapter=lora")
    if several := [part for part, override in zip(parts, read, strict=True) if override.is_sweep_override()]:
        raise UserError(f"sweep.one_at_a_time: {several[0]} has several values; give each an entry of its own")
    return {_key(part): part for part in parts}


def _key(override: str) -> str:
    return override.partition("=")[0]


def composed(overrides: list[str]) -> DictConfig:
    """The config of one job, composed by the Hydra that is running."""
    loader = GlobalHydra.instance().config_loader()
    return loader.load_configuration(config_name="config", overrides=overrides, run_mode=RunMode.MULTIRUN)
