"""W&B's view of a run that failed without telling it (`python -m alpaca.sweeping.wandb_mark RUN`).

A process of its own, as every W&B run has. A run that was killed has a W&B run without an end, which is closed as
failed; one that was refused before it reached W&B has none, and gets one. What ended by itself is left alone.
"""

import sys
from pathlib import Path

from alpaca import startup
from alpaca.signature import variant_of
from alpaca.tracking.run_directory import read_json, settings_of
from alpaca.tracking.wandb_places import ENDED_FILE, OPEN_FILE
from alpaca.tracking.wandb_run import WandbRun


def mark(folder: Path) -> None:
    """Close or make the W&B run of the failed run in `folder`."""
    unfinished = folder / OPEN_FILE
    if not unfinished.exists() and ((folder / ENDED_FILE).exists() or any(folder.glob("wandb/*run-*"))):
        return
    summary = read_json(folder / "summary.json")
    config = settings_of(folder)
    if config is None:
        return
    settings = read_json(folder / "env.json").get("settings", {})
    facts = {"signature": summary.get("signature"), "variant": variant_of(settings)}
    run = WandbRun(config, folder, facts, lambda text: print(f"warning: {text}", flush=True), goes_on=True)
    run.finish(1, {key: value for key, value in summary.items() if key in ("status", "error", "signature")})


def main() -> int:
    """The command."""
    startup.start()
    mark(Path(sys.argv[1]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
