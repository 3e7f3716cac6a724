"""The closing table of a run: what changed, where it is, what to do next."""

import shlex
from pathlib import Path

from rich.markup import escape
from rich.table import Table

from alpaca import paths
from alpaca.tracking.terminal import Terminal


def report(summary: dict[str, object], path: Path, terminal: Terminal) -> None:
    """Print it."""
    table = Table(title="result", title_justify="left", show_edge=False, pad_edge=False)
    for column in ("metric", "before", "after"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name in ("eval/loss", "eval/perplexity", "eval/bits_per_byte", "eval/token_accuracy", "eval/rougeL"):
        if (after := summary.get(name)) is not None:
            before = summary.get(f"{name}_before")
            table.add_row(name, f"{before:.4f}" if before is not None else "", f"{after:.4f}")
    for name, value in summary.items():
        if name.count("/") > 1 and name.startswith("eval/") and isinstance(value, (int, float)):
            table.add_row(escape(name), "", f"{value:.4f}")
    if "best_step" in summary:
        table.add_row("best_step", "", f"{summary['best_step']:,}")
    for name in ("steps", "examples", "logical_tokens", "supervised_tokens"):
        table.add_row(name, "", f"{summary[name]:,}")
    table.add_row("perf/logical_tokens_per_s", "", f"{summary['perf/logical_tokens_per_s']:,.0f}")
    table.add_row("perf/peak_memory_gib", "", f"{summary['perf/peak_memory_gib']:.2f}")
    terminal.print(table)
    shown = escape(str(paths.shown(path)))
    terminal.print(f"\nrun directory   {shown}")
    terminal.print(f"the model       {shown}/model")
    if (path / "predictions.jsonl").exists():
        terminal.print(f"answers         {shown}/predictions.jsonl")
    if summary.get("wandb"):
        terminal.print(f"wandb           {escape(str(summary['wandb']))}")


def next_lines(run: Path, overrides: list[str], options: list[str]) -> list[str]:
    """What to type next about the finished run in `run`, each line ready for the shell it was typed in.

    Args:
        overrides: what the run was made with.
        options: Hydra's own that the same command needs, such as a folder of options.
    """
    python, shown = paths.python_command(), shlex.quote(str(paths.shown(run)))
    seeds = [part.partition("=")[2] for part in overrides if part.startswith("train.seed=")]
    seed = int(seeds[-1]) + 1 if seeds and seeds[-1].isdigit() else 1
    apart = ("output_dir=", "train.resume=", "train.seed=", "hydra.")
    same = [part for part in overrides if not part.startswith(apart)]
    return [
        f"{python} -m alpaca.chat {shown}    # talk to it",
        f"{python} -m alpaca.evaluate {shown} evaluation=generate    # more scores",
        f"{python} -m alpaca.run {shlex.join([*options, *same, f'train.seed={seed}'])}    # the same with another seed",
    ]
