"""The report of a sweep in W&B (`python -m alpaca.sweeping.wandb_report SWEEP`), beside the runs of its group.

A W&B run of its own, of job type `report`: the report as an artifact, made from the predictions of the runs.
"""

import sys
from pathlib import Path

from alpaca import startup
from alpaca.cli import fail
from alpaca.errors import UserError
from alpaca.sweeping import record
from alpaca.tracking.run_directory import settings_of, status
from alpaca.tracking.wandb_run import WandbRun
from alpaca.tracking.wandb_settings import REPORT

FILES = ("report.html", "report.md", "report.csv", record.FILE)


def log_report(place: Path) -> None:
    """Log what the sweep in `place` found."""
    found = record.read(place)
    folders = [place / job["folder"] for job in found.get("jobs", []) if job.get("folder")]
    config = next((settings for folder in folders if (settings := settings_of(folder)) is not None), None)
    files = [place / name for name in FILES if (place / name).is_file()]
    if config is None or not files:
        return
    states = {folder.name: status(folder) or "missing" for folder in folders}
    scored = [f"predictions-{folder.name}" for folder in folders if (folder / "predictions.jsonl").is_file()]
    facts = {"question": found.get("question", ""), "runs": states}
    run = WandbRun(config, place, facts, lambda text: print(f"warning: {text}", flush=True), job_type=REPORT)
    for name in scored:
        run.use_artifact(name)
    if (page := place / "report.html").is_file():
        run.log_html("report", page.read_text(encoding="utf-8"))
    run.log_artifact(f"report-{place.name}", "report", files, {**facts, "predictions": scored})
    run.finish(0, {"status": "finished", "runs": len(states), "finished": list(states.values()).count("finished")})


def main() -> int:
    """The command."""
    startup.start()
    try:
        log_report(Path(sys.argv[1]))
    except UserError as error:
        return fail(str(error), error.exit_status)
    return 0


if __name__ == "__main__":
    sys.exit(main())
