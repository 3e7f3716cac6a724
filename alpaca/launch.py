"""From a checked config to a finished run: device checks, run directory, worker, exit status.

One device works in this process. The first thing done is to look at the devices, before any weight or
row is loaded; then the config is saved; whatever happens afterwards, `summary.json` says how it ended.
"""

import contextlib
import os
import sys
from pathlib import Path

from rich.markup import escape

from alpaca.cli import INTERRUPTED as INTERRUPTED_STATUS
from alpaca.cli import fail
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.signature import signature
from alpaca.tracking.run_directory import FAILED, INTERRUPTED, RunDirectory
from alpaca.tracking.terminal import Terminal


def launch(config: Config, path: Path, overrides: list[str]) -> int:
    """Train one run in `path`; returns the exit status.

    Raises:
        UserError: the devices cannot do what the config asks, or the directory cannot be used.
    """
    if config.parallelism.sharding != "none":
        raise UserError(
            f"parallelism={config.parallelism.name}: starting several devices is not part of this version; "
            "it composes and is checked, parallelism=single trains on one device"
        )
    from alpaca.training.host import prepare_host

    prepare_host()
    os.environ.setdefault("TQDM_DISABLE", "1")  # libraries' bars: the terminal shows this project's own
    with silenced_notices():
        from alpaca.training import precision, worker

    compute = precision.choose(config.train.precision)
    mark = signature(config)  # once: files may change while the run trains
    directory = RunDirectory(path)
    terminal = Terminal(directory.path / "run.log")
    try:
        directory.write_settings(config, overrides)
        directory.write_environment(device=str(compute.device), precision=compute.precision, world_size=1, choices={})
        terminal.print(f"[bold]run[/]    {escape(str(path))}")
        report(worker.run(config, mark, compute, directory, terminal), path, terminal)
        return 0
    except KeyboardInterrupt:
        with contextlib.suppress(OSError):
            directory.finish(INTERRUPTED, {"signature": mark})
        terminal.print(f"[yellow]interrupted[/] what was logged is in {escape(str(path))}")
        return INTERRUPTED_STATUS
    except (UserError, RunFailed) as error:
        with contextlib.suppress(OSError):  # a full disk may refuse even this; a missing summary is no finished run
            directory.finish(FAILED, {"signature": mark, "error": str(error)})
        return fail(str(error), error.exit_status)
    except OSError as error:
        reason = f"{error.filename or path}: {error.strerror or error}; free space or choose another output_dir=DIR"
        with contextlib.suppress(OSError):
            directory.finish(FAILED, {"signature": mark, "error": reason})
        return fail(reason, RunFailed.exit_status)
    except BaseException as error:
        with contextlib.suppress(OSError):
            directory.finish(FAILED, {"signature": mark, "error": f"{type(error).__name__}: {error}"})
        raise
    finally:
        terminal.close()
        directory.close()


def report(summary: dict[str, object], path: Path, terminal: Terminal) -> None:
    """The closing table: what changed, where it is, what to do next."""
    from rich.table import Table

    table = Table(title="result", title_justify="left", show_edge=False, pad_edge=False)
    for column in ("metric", "before", "after"):
        table.add_column(column, justify="left" if column == "metric" else "right")
    for name in ("eval/loss", "eval/perplexity", "eval/bits_per_byte", "eval/token_accuracy", "eval/rougeL"):
        if (after := summary.get(name)) is not None:
            before = summary.get(f"{name}_before")
            table.add_row(name, f"{before:.4f}" if before is not None else "", f"{after:.4f}")
    for name in ("steps", "examples", "logical_tokens", "supervised_tokens"):
        table.add_row(name, "", f"{summary[name]:,}")
    table.add_row("perf/logical_tokens_per_s", "", f"{summary['perf/logical_tokens_per_s']:,.0f}")
    table.add_row("perf/peak_memory_gib", "", f"{summary['perf/peak_memory_gib']:.2f}")
    terminal.print(table)
    shown = escape(str(path))
    terminal.print(f"\nrun directory   {shown}")
    terminal.print(f"the model       {shown}/model")
    if (path / "predictions.jsonl").exists():
        terminal.print(f"answers         {shown}/predictions.jsonl")
    terminal.print("next            python -m alpaca.run experiment=quickstart adapter=full    one thing changed")
    terminal.print("                python -m alpaca.inspect experiment=quickstart            what the model saw")
    terminal.print("                python -m alpaca.run --help                               every group and option")


@contextlib.contextmanager
def silenced_notices():  # type: ignore[no-untyped-def]
    """Importing transformers' Trainer imports bitsandbytes, which prints about optional kernels; hide that line."""
    from io import StringIO

    with contextlib.redirect_stdout(StringIO()), contextlib.redirect_stderr(StringIO()):
        yield
    sys.stdout.flush()
