"""What the first argument of `alpaca.evaluate` is: a finished run, a model folder or a file of outputs."""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alpaca.config import Config
from alpaca.errors import UserError
from alpaca.tracking.run_directory import FINISHED, newest_finished, read_json, status

RUN, MODEL, OUTPUTS = "run", "model", "outputs"
WHAT = "give a finished run directory, a folder with a model, or a JSON or JSONL file of outputs"


@dataclass(frozen=True)
class Target:
    """What is evaluated; `config` holds a run's settings and is None for the others."""

    kind: str
    path: Path
    config: Config | None = None

    @property
    def name(self) -> str:
        """A word for tables and folders."""
        resolved = self.path.resolve()
        word = resolved.name.partition(".")[0] if self.kind == OUTPUTS else resolved.name
        return re.sub(r"[^\w.,=+-]", "_", word) or "evaluation"


def find(argument: str) -> Target:
    """The target that `argument` names.

    Raises:
        UserError: nothing there, a run that is not finished, an adapter without its run.
    """
    if "=" in argument and not Path(argument).exists():
        raise UserError(f"{argument}: RUN comes first, then overrides; {WHAT}")
    path = Path(argument).expanduser()
    if path.is_file():
        return Target(OUTPUTS, path)
    if not path.exists():
        raise UserError(f"{argument}: no such file or folder; {WHAT}")
    if (path / "config.yaml").is_file():
        return Target(RUN, path, _settings(path))
    if (path / "config.json").is_file():
        return Target(MODEL, path)
    if (path / "adapter_config.json").is_file():
        raise UserError(f"{argument}: an adapter is scored with its run; give the run directory, {path.parent}")
    what = newest_finished(path) or f"; {WHAT}"
    raise UserError(f"{argument}: no run directory (it has no config.yaml) and no model (no config.json){what}")


def _settings(path: Path) -> Config:
    if (found := status(path)) != FINISHED or not (path / "model").is_dir():
        if "target" in read_json(path / "summary.json"):
            raise UserError(f"{path}: this is the folder of an evaluation, not of a run; {WHAT}")
        raise UserError(
            f"{path}: the run is not finished (status {found or 'killed, or still running'}), so it has no result; "
            "the command that began it goes on with it"
        )
    try:
        loaded = OmegaConf.load(path / "config.yaml")
        config: Any = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(Config), loaded))
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, TypeError, OSError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise UserError(f"{path / 'config.yaml'}: {reason}; it is damaged, or was written by another version") from None
    return config
