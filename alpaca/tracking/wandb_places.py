"""Where W&B's record of a run or of a sweep is: an address, or the command that sends what was logged offline."""

import os
import shlex
from pathlib import Path
from urllib.parse import quote

from alpaca import paths

OPEN_FILE = ".wandb-open"  # in the run directory: id, and address if online, of the W&B run that is not closed yet
ENDED_FILE = ".wandb-ended"  # its name once the W&B run is closed
IN_SWEEP = "ALPACA_SWEEP_JOB"  # environment variable of a sweep's jobs: the sweep says once what all would say


def wandb_folder(run_dir: Path) -> Path:
    """The folder in which W&B makes its own `wandb/`: `WANDB_DIR`, else the run directory."""
    own = os.environ.get("WANDB_DIR")
    return Path(own).expanduser() if own else run_dir


def sync_command(place: Path, *patterns: str) -> str:
    """What to type to send W&B's files in `place`, or what `patterns` name below it; works in any directory's shell."""
    shown = shlex.quote(str(paths.shown(place)))
    listed = " ".join(f"{shown}/{pattern}" for pattern in patterns) or shown
    python = paths.python_command()
    return f"wandb sync {listed}" if python == "python" else f"{python} -m wandb sync {listed}"


def places_of_sweep(sweep_dir: Path, run_dirs: list[Path], group: str) -> list[str]:
    """Where the W&B runs of a sweep are: the address of their group, the command that sends those logged offline."""
    places = []
    noted = [lines for run_dir in run_dirs if len(lines := _noted(run_dir)) > 1]
    if noted:
        places.append(f"{noted[0][1].partition('/runs/')[0]}/groups/{quote(group, safe='')}")
    own = wandb_folder(sweep_dir).absolute()
    runs = ["wandb/offline-run-*", *([] if "WANDB_DIR" in os.environ else ["*/wandb/offline-run-*"])]
    if there := [pattern for pattern in runs if any(own.glob(pattern))]:
        places.append(sync_command(own, *there))
    return places


def _noted(run_dir: Path) -> list[str]:
    for name in (ENDED_FILE, OPEN_FILE):
        try:
            return (run_dir / name).read_text(encoding="utf-8").split()
        except (OSError, UnicodeDecodeError):
            continue
    return []
