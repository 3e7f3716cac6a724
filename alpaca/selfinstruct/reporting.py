"""A generation as the user follows it: the bar on the terminal, and Weights & Biases beside it."""

import time
from pathlib import Path
from typing import Any

from rich.markup import escape
from rich.table import Table

from alpaca.config import Config
from alpaca.engines.budget import Budget
from alpaca.engines.prices import Prices
from alpaca.inspection.plots import sunburst
from alpaca.selfinstruct.directories import DATASET
from alpaca.selfinstruct.pipeline import Tally
from alpaca.selfinstruct.result import CARD, Result, acceptance_by_verdict
from alpaca.selfinstruct.stages import Stage
from alpaca.tracking.terminal import Bar, Terminal
from alpaca.tracking.wandb_run import WandbRun

LOG_EVERY_S = 10.0
SAMPLE_ROWS = 200


class Progress:
    """Follows a pipeline; `report` is its callback."""

    def __init__(self, terminal: Terminal, tracker: WandbRun, tally: Tally, budget: Budget, prices: Prices | None):
        """Nothing is shown before `begin`."""
        self._terminal, self._tracker = terminal, tracker
        self._tally, self._budget, self._prices = tally, budget, prices
        self._started = self._last_log = time.monotonic()
        self._kept_before: int | None = None
        self._bar: Bar | None = None
        self._replay: Bar | None = None

    def replays(self, stage: Stage, requests: int) -> None:
        """So many requests of the stage are in the ledger: reading them again has a bar of its own."""
        what = "reading the answers of earlier processes again"
        self._replay = self._terminal.progress(what, requests)
        self._replay.__enter__()

    def report(self, stage: Stage) -> None:
        """A request was taken; what the ledger had counts as done before, not as speed."""
        replaying = self._tally.replayed >= self._tally.answered + self._tally.unanswered
        if replaying and self._bar is None:
            if self._replay is not None:
                self._replay.advance(1, f"{stage.kept:,} kept")
            return
        if self._bar is None:
            self.begin(stage)
        assert self._bar is not None
        done = min(stage.kept, stage.target)
        self._bar.advance(done - self._bar.done, self._values(stage))
        now = time.monotonic()
        if now - self._last_log >= LOG_EVERY_S:
            self._last_log = now
            self.log(stage)

    def close(self, stage: Stage) -> None:
        """The stage is over, done or not."""
        self.log(stage)
        self._end_of_replay()
        if self._bar is not None:
            self._bar.__exit__()
            self._bar = None
        self._kept_before = None

    def _end_of_replay(self) -> None:
        if self._replay is not None:
            self._replay.__exit__()
            self._replay = None

    def log(self, stage: Stage) -> None:
        """The numbers so far to W&B."""
        budget, tally = self._budget, self._tally
        values: dict[str, Any] = {
            f"generation/{stage.prefix}_kept": min(stage.kept, stage.target),
            "generation/acceptance": tally.acceptance,
            "generation/candidates": tally.candidates,
            "generation/tokens": budget.spent.total,
            "generation/lost_tokens": budget.lost.total,
        }
        values |= {f"generation/verdicts/{name}": count for name, count in tally.verdicts.items()}
        if budget.dollars is not None:
            values["generation/cost_usd"] = budget.dollars
        if speed := self._per_minute(stage):
            values["generation/tasks_per_minute"] = speed
        self._tracker.log(tally.answered + tally.unanswered, values)

    def begin(self, stage: Stage) -> None:
        """The first request of this process goes out: the bar starts where earlier processes ended."""
        self._end_of_replay()
        self._started = time.monotonic()
        self._kept_before = 0 if self._tally.replayed == 0 else min(stage.kept, stage.target)
        what = "generating" if stage.prefix == "task" else "answering"
        self._bar = self._terminal.progress(what, stage.target)
        self._bar.resume_at(self._kept_before)
        self._bar.__enter__()

    def _per_minute(self, stage: Stage) -> float:
        made = stage.kept - (self._kept_before or 0)
        return made / max(time.monotonic() - self._started, 1e-6) * 60 if made > 0 else 0.0

    def _values(self, stage: Stage) -> str:
        parts = [f"accepted {self._tally.acceptance:.0%}", f"{self._per_minute(stage):.1f} a minute"]
        if self._prices is not None and self._budget.dollars is not None:
            so_far = self._budget.dollars
            whole = so_far / stage.kept * stage.target if stage.kept else 0.0
            parts.append(f"${so_far:.2f} so far" + (f", ${whole:.2f} expected" if stage.kept else ""))
        return ", ".join(parts)


def show(result: Result, folder: Path, terminal: Terminal) -> None:
    """The closing table: candidates by verdict, and what it cost."""
    table = Table(title="candidates", title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("verdict")
    table.add_column("count", justify="right")
    table.add_column("share", justify="right")
    for name, count, share in acceptance_by_verdict(result.tally):
        table.add_row(name, f"{count:,}", f"{share:.1%}")
    terminal.print(table)
    found = result.summary()
    tokens = f"{result.budget.spent.total:,} tokens, at most {result.budget.lost.total:,} more lost"
    money = "" if found["cost_usd"] is None else f", ${found['cost_usd']:.4f} and at most ${found['lost_usd']:.4f} lost"
    terminal.print(f"\nspent           {tokens}{money}")
    terminal.print(f"the data        {escape(str(folder / DATASET))}")
    terminal.print(f"about it        {escape(str(folder / CARD))}")


def track(result: Result, config: Config, folder: Path, tracker: WandbRun, signature: str) -> None:
    """Tables, drawings and the data set itself to W&B."""
    name = config.generation.name or "generation"
    tracker.log_table(
        "generation/verdicts_table",
        ["verdict", "candidates", "share"],
        [list(row) for row in acceptance_by_verdict(result.tally)],
    )
    tracker.log_histogram("generation/similarity", [score for score, _ in result.tally.similarities])
    tracker.log_histogram("generation/similarity_of_kept", [score for score, kept in result.tally.similarities if kept])
    tracker.log_html("generation/verbs_and_objects", sunburst(result.diversity.most_frequent))
    rows = [[row.instruction, row.input, row.output] for row in result.rows[:SAMPLE_ROWS]]
    tracker.log_table("generation/sample", ["instruction", "input", "output"], rows)
    lineage = {
        **result.summary(),
        "signature": signature,
        "seeds": config.generation.seeds,
        "path": config.generation.path,
    }
    tracker.log_artifact(f"data-{name}", "dataset", [folder / DATASET, folder / CARD], lineage)
