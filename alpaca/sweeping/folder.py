"""The folder of a multirun, which Hydra makes before this program has a say: it goes where nothing is kept in it."""

import contextlib
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf


class SweepFolder:
    """Chosen once, when Hydra first asks for it and has made nothing yet."""

    def __init__(self) -> None:
        self._made: list[Path] | None = None

    def register(self, chosen: Callable[[DictConfig, Path], None]) -> None:
        """Answer `${sweep_dir:}`; `chosen` hears of the composed config and the folder, before the first job."""

        def answer(*, _root_: DictConfig) -> str:
            place = Path(_root_.output_dir or Path("outputs") / "sweeps" / _root_.name)
            if self._made is None:
                self._made = [each.absolute() for each in (place, *place.parents) if not each.exists()]
                chosen(_root_, place)
            return str(place)

        OmegaConf.register_new_resolver("sweep_dir", answer, replace=True)

    def remove_if_empty(self) -> None:
        """Remove it and the folders around it that were made for it, as far as there is nothing in them."""
        for folder in self._made or []:
            with contextlib.suppress(OSError):  # it is gone, or something is in it
                folder.rmdir()
