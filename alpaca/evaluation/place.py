"""Where `alpaca.evaluate` writes: beside the run, or into a folder of its own.

Each evaluation is written when it is made: `predictions-<evaluation>.jsonl` (those of `quick` in `predictions.jsonl`),
its metrics merged into `summary.json`, and a line of `evaluations.jsonl` that says when and how. Files appear whole.
"""

import contextlib
import json
import time
from pathlib import Path
from typing import Any

from alpaca.errors import UserError
from alpaca.evaluation.scores import DIRECTIONS, Scores
from alpaca.tracking.folders import EVALUATION, LOCK, RUN, refuse_foreign
from alpaca.tracking.lock import HeldError, hold, is_held
from alpaca.tracking.run_directory import read_json, read_jsonl, write_json_file, write_jsonl_file

SUMMARY, HISTORY, PREDICTIONS, TARGET = "summary.json", "evaluations.jsonl", "predictions.jsonl", "evaluation.json"
LOG = "evaluate.log"


class Place:
    """A folder held by one process while it is evaluated into."""

    def __init__(self, path: Path, *, target: Path, is_run: bool):
        """Make and lock `path`.

        Args:
            target: what is evaluated; `path` itself where `is_run`.

        Raises:
            UserError: it cannot be written, another process holds it, or it holds something else.
        """
        self.path, self._is_new = path, not is_run and not (path / TARGET).exists()
        if not is_run:
            refuse_foreign(path, EVALUATION)
            before = read_json(path / TARGET).get("target")
            if before not in (None, str(target.absolute())):
                raise UserError(f"output_dir={path}: it holds the evaluation of {before}; choose a new folder")
        try:
            self._lock = hold(path / LOCK, RUN if is_run else EVALUATION)
        except OSError as error:
            raise UserError(f"{path}: {error.strerror}; choose a folder that can be written, output_dir=DIR") from error
        except HeldError as holder:
            raise UserError(f"{path}: another process is writing here ({holder}); wait for it") from None
        if not is_run:
            write_json_file(path / TARGET, {"target": str(target.absolute())})
            if not (path / SUMMARY).exists():
                write_json_file(path / SUMMARY, {"status": "evaluation", "target": str(target.absolute())})

    def predictions(self) -> list[dict[str, Any]]:
        """The records of `predictions.jsonl`; none where there is no such file."""
        return read_jsonl(self.path / PREDICTIONS)

    def keep(self, name: str, scores: Scores, settings: dict[str, Any], *, forget: tuple[str, ...] = ()) -> None:
        """Write one evaluation; its earlier metrics, and those named in `forget`, go.

        The summary comes last, so a metric in it has its examples beside it.
        """
        if scores.examples:
            file = PREDICTIONS if name == "quick" else f"predictions-{name}.jsonl"
            write_jsonl_file(self.path / file, scores.examples)
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S"), "evaluation": name, **settings, "metrics": scores.metrics}
        write_jsonl_file(self.path / HISTORY, [*read_jsonl(self.path / HISTORY), line])
        kept = {
            key: value
            for key, value in read_json(self.path / SUMMARY).items()
            if not key.startswith(f"eval/{name}/") and key not in forget
        }
        if missed := [each for each in kept.pop("evaluations_failed", []) if each != name]:
            kept["evaluations_failed"] = missed
        ways = {key: way for key, way in kept.pop(DIRECTIONS, {}).items() if key in kept}
        write_json_file(self.path / SUMMARY, {**kept, **scores.metrics, DIRECTIONS: ways | scores.directions})
        self._is_new = False

    def close(self) -> None:
        """Give the lock back; a folder made for an evaluation of which nothing was kept goes, paid answers stay."""
        files = (each for each in self.path.rglob("*") if each.is_file() and not each.name.startswith("."))
        if self._is_new and {each.name for each in files} <= {TARGET, SUMMARY, LOG}:
            for name in (TARGET, SUMMARY, LOG, LOCK):
                (self.path / name).unlink(missing_ok=True)
            with contextlib.suppress(OSError):
                self.path.rmdir()
        self._lock.close()


def stopped(folder: Path, target: Path) -> Path | None:
    """The newest evaluation of `target` in `folder` that ended before it had a score; what it paid for is there."""
    places = (each.parent for each in sorted(folder.glob(f"*/{TARGET}"), reverse=True))
    return next(
        (
            place
            for place in places
            if read_json(place / TARGET).get("target") == str(target.absolute())
            and not (place / HISTORY).exists()
            and not is_held(place / LOCK)
        ),
        None,
    )


def as_plain(settings: Any) -> Any:
    """A section of the config as JSON would have it."""
    return json.loads(json.dumps(settings, default=str))
