"""Predicted against measured memory: what a plan says, and what training a few steps took.

Each case runs in a fresh process: rows are tokenised, the memory of the process is noted, then the model is
loaded, checked and trained for some steps as a run does it. Measured is the peak of the process above what it
held before the model was loaded (on a GPU: the peak that was allocated there); predicted is the plan of the same
config without what the process takes for itself.

    python scripts/measure_memory.py [--cases full,lora,qlora] [--steps 2] [--write docs/planning.md] [overrides]

Without overrides: the embedded model, the shipped seed tasks, 32 rows a step. Writes outputs/measure_memory.json
and prints a Markdown table; `--write` puts it into a page. The rate is what `alpaca/planning/devices.yaml` holds for
a processor: operations of the plan's count a second and core.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

DEFAULTS = ["model=smollm2_135m", "data_source=seed_tasks", "train.global_batch_size=32", "train.eval_rows=15"]
CHECKPOINTING = ("off", "on")
BEGIN, END = "<!-- measured: begin (written by scripts/measure_memory.py) -->", "<!-- measured: end -->"


def main() -> None:
    """Run every case in its own process, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", default="full,lora,qlora", help="comma-separated options of the adapter group")
    parser.add_argument("--checkpointing", default="off,on", help="comma-separated train.activation_checkpointing")
    parser.add_argument("--steps", type=int, default=2, help="optimizer steps; the second has the optimizer's state")
    parser.add_argument("--write", type=Path, help="Markdown page whose part between the two markers is replaced")
    parser.add_argument("--case", help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    if options.write is not None and BEGIN not in options.write.read_text(encoding="utf-8"):
        parser.error(f"--write {options.write}: no page with the lines {BEGIN} and {END}")
    if options.case:
        print("RESULT " + json.dumps(measure(options.case, options.steps, overrides)), flush=True)
        return
    results = []
    for adapter in options.cases.split(","):
        for how in options.checkpointing.split(","):
            results.append(_in_a_process(adapter, how, options.steps, overrides))
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    report = {"command": " ".join(["python", *sys.argv]), "device": _device(), "results": results}
    target = Path("outputs/measure_memory.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    text = table(report)
    print(text)
    if options.write is not None:
        page = options.write.read_text(encoding="utf-8")
        before, after = page[: page.index(BEGIN)], page[page.index(END) :]
        options.write.write_text(f"{before}{BEGIN}\n\n{text}\n\n{after}", encoding="utf-8")
    if any("failed" in result for result in results):
        sys.exit(1)


def measure(case: str, steps: int, overrides: list[str]) -> dict[str, Any]:
    """One case in this process: predicted and measured GiB, and the rate."""
    from alpaca.training.host import prepare_host

    prepare_host()

    from alpaca.modeling import attention
    from alpaca.modeling.base import load_tokenizer
    from alpaca.modeling.quiet import quiet_libraries
    from alpaca.planning.counts import of_examples
    from alpaca.planning.devices import here
    from alpaca.planning.estimate import estimate
    from alpaca.tracking.terminal import Terminal
    from alpaca.training import choices, preparation
    from alpaca.training.batches import Steps
    from alpaca.training.flops import ModelFlops
    from alpaca.training.loop import LossScale, Progress, Session, train
    from alpaca.training.metering import Meter, peak_memory_gib
    from alpaca.training.optimizers import build_optimizer, peak_learning_rate
    from alpaca.training.precision import choose
    from alpaca.training.self_check import self_check
    from alpaca.training.stopping import Stopping
    from alpaca.training.watchdog import Beats
    from alpaca.training.world import World

    adapter, how = case.split("/")
    given = [*DEFAULTS, *overrides, f"adapter={adapter}", f"train.activation_checkpointing={how}"]
    config = _composed([*given, f"train.max_steps={steps}", "train.epochs=1000", "evaluation=none"])
    quiet_libraries()
    attention.register()
    compute, world, silent = choose(config.train.precision), World(), Terminal(silent=True)
    tokenizer = load_tokenizer(config.model)
    prepared = preparation.prepare(config, tokenizer, silent)
    counts = of_examples(prepared.train)
    predicted = estimate(config, here(), counts=counts)
    on_gpu = compute.device.type == "cuda"
    held, before = (0.0, 0.0) if on_gpu else (_resident_gib(), peak_memory_gib(compute.device))
    model = preparation.build_model(config, tokenizer, compute)
    loaded = peak_memory_gib(compute.device)
    layout = choices.choose(config, compute, model, prepared.train, world).layout
    self_check(model, prepared.train, layout, compute, world)
    rate = peak_learning_rate(config.optimizer, config.adapter)
    optimizer = build_optimizer(model, config.optimizer, rate, b_lr_ratio=config.adapter.b_lr_ratio)
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    times: list[float] = [time.perf_counter()]
    keeps: Any = _Nowhere()
    session = Session(config, compute, keeps, silent, keeps, world, Stopping(), Beats(world, 600))
    train(
        session,
        model,
        Steps(prepared.train, prepared.plan, layout),
        Progress(0, optimizer, LossScale.of(compute.precision)),
        Meter(compute.device, ModelFlops.of(model), None),
        lambda done: times.append(time.perf_counter()),
    )
    peak = peak_memory_gib(compute.device)
    fastest = min(late - early for early, late in itertools.pairwise(times))
    parts = {name: round(size / 2**30, 3) for name, size in vars(predicted.memory).items()}
    made, measured = predicted.memory.model / 2**30, peak - held
    return {
        "adapter": adapter,
        "checkpointing": how,
        "precision": compute.precision,
        "micro_batch_tokens": predicted.schedule.largest,
        "micro_batches": predicted.schedule.micro_batches,
        "predicted": round(made, 3),
        "measured": round(measured, 3),
        "error": round(made / measured - 1, 4),
        "parts": parts,
        "process": round(held, 3),
        "peak_before_model": round(before, 3),
        "peak_when_loaded": round(loaded, 3),
        "gflops_per_core": round(predicted.operations / steps / fastest / 1e9 / _cores(), 1),
        "step_s": round(fastest, 1),
    }


class _Nowhere:
    """Takes the place of run directory and tracker."""

    def log_metrics(self, *_: Any) -> None:
        """Nothing is written."""

    def log(self, *_: Any) -> None:
        """Nothing is tracked."""


def table(report: dict[str, Any]) -> str:
    """The results as Markdown."""
    lines = [
        report["device"],
        "",
        f"`{report['command']}`",
        "",
        "| adapter | checkpointing | weights | gradients | optimizer | activations | logits | workspace | predicted | "
        "measured | error | GFLOP/s a core |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for result in report["results"]:
        if "failed" in result:
            lines.append(f"| {result['adapter']} | {result['checkpointing']} | {result['failed']} |" + " |" * 9)
            continue
        parts = [f"{result['parts'][name]:.2f}" for name in list(result["parts"])[:-1]]
        lines.append(
            f"| {result['adapter']} | {result['checkpointing']} | {' | '.join(parts)} | {result['predicted']:.2f} | "
            f"{result['measured']:.2f} | {result['error']:+.1%} | {result['gflops_per_core']:.0f} |"
        )
    return "\n".join(lines)


def _in_a_process(adapter: str, how: str, steps: int, overrides: list[str]) -> dict[str, Any]:
    command = [sys.executable, __file__, "--case", f"{adapter}/{how}", "--steps", str(steps), *overrides]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return dict(json.loads(line.removeprefix("RESULT ")))
    reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return {"adapter": adapter, "checkpointing": how, "failed": reason[:200]}


def _composed(overrides: list[str]) -> Any:
    from hydra import compose, initialize_config_dir

    from alpaca import cli, paths
    from alpaca.checks import check

    cli.register()
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        config = cli.typed(compose("config", overrides=overrides))
    check(config)
    return config


def _resident_gib() -> float:
    import psutil

    return float(psutil.Process().memory_info().rss) / 2**30


def _cores() -> int:
    import psutil

    return psutil.cpu_count(logical=False) or os.cpu_count() or 1


def _device() -> str:
    from importlib.metadata import version

    from alpaca.planning.devices import here, processor_has_bf16

    device = here()
    what = f"{_cores()} CPU cores{' with bf16 instructions' if processor_has_bf16() else ''}"
    return f"{what if device.is_cpu else device.name}; GiB; torch {version('torch')}"


if __name__ == "__main__":
    main()
