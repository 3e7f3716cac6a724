"""The folder of a multirun: looked at before Hydra writes into it, removed again where nothing was kept in it.

Hydra makes the folder and writes `multirun.yaml` before it starts the first job. Its callback `on_multirun_start`
comes earlier and knows the folder whichever key named it.
"""

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from alpaca.cli import refuse_chdir
from alpaca.commands import fail
from alpaca.errors import RunFailed, UserError
from alpaca.tracking.folders import SWEEP, refuse_foreign

RECORD = "multirun.yaml"  # Hydra's; ours is sweep.yaml


class SweepFolder:
    """The folder of this process's multirun, and which folders were made for it: answers `${sweep_dir:}`.

    Launchers pickle resolvers, too: in another process it is the answer alone.
    """

    def __init__(self, chosen: Callable[[DictConfig, Path], None]) -> None:
        """Register it; `chosen` hears of the composed config and the folder, before the first job."""
        self._place: Path | None = None
        self._made: list[Path] = []
        self._chosen = chosen
        BeforeMultirun.folder = self
        OmegaConf.register_new_resolver("sweep_dir", self, replace=True)

    def __getstate__(self) -> dict[str, Any]:
        return {"_made": []}

    def __call__(self, *, _root_: DictConfig) -> str:
        """The folder, as Hydra asks for it."""
        place = Path(_root_.output_dir or Path("outputs") / "sweeps" / _root_.name)
        self._note(place)
        return str(place)

    def begin(self, composed: DictConfig) -> None:
        """A multirun begins.

        Raises:
            UserError: its folder holds something else than a sweep, or Hydra is asked to change into it.
        """
        refuse_chdir(composed)
        self._place = Path(composed.hydra.sweep.dir)
        refuse_foreign(self._place, SWEEP)
        self._note(self._place)
        self._chosen(composed, self._place)

    def remove_record(self) -> None:
        """Remove what Hydra's sweeper wrote about this multirun."""
        if self._place is not None:
            (self._place / RECORD).unlink(missing_ok=True)

    def remove_if_empty(self) -> None:
        """Remove the folders that were made for it, as far as there is nothing in them; the multirun is over."""
        BeforeMultirun.folder = None
        for folder in sorted(self._made, key=lambda each: len(each.parts), reverse=True):
            with contextlib.suppress(OSError):  # it is gone, or something is in it
                folder.rmdir()

    def _note(self, place: Path) -> None:
        """Remember which folders Hydra is about to make."""
        place = place.absolute()
        self._made += [each for each in (place, *place.parents) if not each.exists() and each not in self._made]


class BeforeMultirun(Callback):
    """Tells the folder of this process that Hydra begins a multirun; a launcher's process has none."""

    folder: SweepFolder | None = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Hydra would turn an error into a warning, so one ends the command here."""
        if self.folder is None:
            return
        try:
            self.folder.begin(config)
        except (UserError, RunFailed) as error:
            raise SystemExit(fail(str(error), error.exit_status)) from None
