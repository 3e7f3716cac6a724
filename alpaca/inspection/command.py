"""From a checked config to an inspected one: directory, survey, terminal, page, W&B artifact."""

from pathlib import Path

from rich.markup import escape

from alpaca.config import Config
from alpaca.inspection.findings import Finding
from alpaca.inspection.page import page
from alpaca.inspection.terminal import render
from alpaca.launch import silenced_notices
from alpaca.signature import signature_of, training_settings
from alpaca.tracking.folders import INSPECTION
from alpaca.tracking.run_directory import RunDirectory, write_text
from alpaca.tracking.terminal import Terminal
from alpaca.tracking.wandb_run import WandbRun


def inspect(config: Config, path: Path, overrides: list[str], *, examples: int) -> list[Finding]:
    """Write and print everything about `config`; returns the defects found.

    Raises:
        UserError: bad data, no tokenizer, or the directory cannot be used.
    """
    settings = training_settings(config)  # also finds a missing file before torch is imported
    mark = signature_of(settings)
    with silenced_notices():
        from alpaca.inspection.survey import survey
        from alpaca.modeling.base import load_tokenizer

    directory = RunDirectory(path, mark, settings, kind=INSPECTION)
    terminal = Terminal(directory.path / "run.log")
    try:
        directory.write_environment(device="none", precision="none", world_size=1, choices={})
        directory.write_settings(config, overrides)
        tokenizer = load_tokenizer(config.model)
        found = survey(
            config, tokenizer, signature=mark, examples=examples, say=lambda text: terminal.print(text, style="dim")
        )
        directory.write_json("data.json", found.facts)
        directory.write_json("inspect.json", found.as_json())
        write_text(directory.path / "inspect.html", page(found, f"Inspection of {config.data_source.name}"))
        for part in render(found):
            terminal.print(part)
        for warning in found.warnings:
            terminal.warn(warning)
        _track(config, directory, terminal, {"rows": found.as_json()["rows"], "defects": found.as_json()["defects"]})
        shown = escape(str(path))
        terminal.print(f"\nthe page   {shown}/inspect.html\nthe data   {shown}/inspect.json")
        return found.defects
    finally:
        terminal.close()
        directory.close()


def _track(config: Config, directory: RunDirectory, terminal: Terminal, facts: dict[str, object]) -> None:
    """The page and the numbers as a W&B artifact; every failure is a warning."""
    tracker = WandbRun(config, directory.path, facts, terminal.warn, job_type="inspect")
    files = [directory.path / name for name in ("inspect.json", "inspect.html")]
    tracker.log_artifact(f"inspect-{config.data_source.name}", "inspection", files, facts)
    tracker.finish(0, {})
    if tracker.where:
        terminal.print(f"wandb      {escape(tracker.where)}")
