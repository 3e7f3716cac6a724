"""A mix of sources: what each part is, and how many rows of each make the asked-for shares."""

from collections.abc import Mapping
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alpaca.config import DataSourceConfig
from alpaca.errors import UserError

PART_KEYS = ("name", "path", "revision", "subset", "split", "columns", "turns", "license", "license_note")


def part_settings(name: str, settings: Any) -> DataSourceConfig:
    """A part of a mix as a section of its own; only what says where its rows are may be set.

    Raises:
        UserError: a setting that a part cannot have, or a value of the wrong type.
    """
    unknown = [key for key in settings if key not in PART_KEYS]
    if unknown:
        raise UserError(
            f"data_source.sources.{name}.{unknown[0]}: a part of a mix has {', '.join(PART_KEYS)}; "
            f"set data_source.{unknown[0]} for the whole mix"
        )
    try:
        merged = OmegaConf.merge(OmegaConf.structured(DataSourceConfig), OmegaConf.create(settings))
        result = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        first = next(iter(str(error).splitlines()), "")
        raise UserError(f"data_source.sources.{name}: {first}; use the keys of conf/data_source") from None
    assert isinstance(result, DataSourceConfig)
    if not result.path:
        raise UserError(f"data_source.mix.{name}: it has no path; give data_source.sources.{name}.path=FILE")
    return result


def rows_of_parts(available: Mapping[str, int], shares: Mapping[str, float]) -> dict[str, int]:
    """Rows to take of each part: in the proportion of `shares`, as many as there are without repeating a row.

    With 100 rows of a and 1,000 of b, shares of 1 and 3 give 100 and 300. Each count is rounded down, and
    is at least 1 where the part has a row.
    """
    total = min(available[name] / shares[name] for name in shares)
    return {name: min(available[name], max(1, int(total * shares[name] + 1e-9))) for name in shares}
