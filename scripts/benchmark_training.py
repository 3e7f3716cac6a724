"""Training throughput against the usual loops: the same rows, model, optimizer and steps, one table.

Each variant runs in a process of its own, one after another: the recipe's own way (transformers' Trainer,
rows padded to the longest of a batch, logits everywhere), TRL's SFTTrainer if `trl` is installed, and this
project's loop, one ingredient after another. Rates count logical tokens: tokens of the rows, no padding.

    python scripts/benchmark_training.py [--data FILE] [--adapters full,lora] [--write docs/performance.md] [overrides]
    python scripts/benchmark_training.py model=llama7b model.weights=random           (on a GPU, unchanged)

Rows are those of FILE (JSON with instruction, input, output) or the shipped seed tasks. The first step of
each variant warms up and is not counted; a rate is the median over the counted steps. MFU is what the rows
need without padding (and without what sharing saves) over the device's peak, one measure for all variants.
Memory is the peak above what the process held before the model was loaded, and in all.
Writes outputs/benchmark_training.json and prints a Markdown table; `--write` puts it into a page.
"""

import argparse
import contextlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "recipe fp32": ("recipe", {"precision": "fp32"}),
    "recipe bf16": ("recipe", {"precision": "bf16"}),
    "recipe bf16, host settings": ("recipe", {"precision": "bf16"}),
    "TRL defaults": ("trl", {}),
    "TRL bf16": ("trl", {"bf16": True, "gradient_checkpointing": False}),
    "TRL bf16, packing": ("trl", {"bf16": True, "gradient_checkpointing": False, "packing": True}),
    "ours: fused layers, labelled logits only, fp32": (
        "ours",
        {"precision": "fp32", "packing": "off", "share_prefix": "off"},
    ),
    "ours: + no padding": ("ours", {"precision": "fp32", "share_prefix": "off"}),
    "ours: + shared prefixes": ("ours", {"precision": "fp32"}),
    "ours: + bf16 (the default)": ("ours", {"precision": "bf16"}),
    "ours: default, checkpointing": ("ours", {"precision": "bf16", "activation_checkpointing": "on"}),
    "ours: default, compiled": ("ours", {"precision": "bf16", "compile": True}),
}
HOST_SETTINGS = "host settings"  # the usual loops run as they do for their users; a name with this has our settings too
SLOW = {"ours: default, compiled"}  # compiling takes minutes: only with --all
PREPARE = "prepare"  # a process that fills the caches of model and tokens, so that no variant's does
BEGIN, END = "<!-- benchmark: begin (written by scripts/benchmark_training.py) -->", "<!-- benchmark: end -->"


def main() -> None:
    """Run every variant in its own process, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="rows to train on (JSON, JSONL, CSV; .gz), else the seed tasks")
    parser.add_argument("--adapters", default="full,lora,qlora", help="comma-separated options of the adapter group")
    parser.add_argument("--rows", type=int, default=16, help="rows of one optimizer step, a multiple of --batch")
    parser.add_argument("--batch", type=int, default=8, help="rows that the usual loops push through at once")
    parser.add_argument("--steps", type=int, default=3, help="counted steps, after one that is not")
    parser.add_argument("--only", default="", help="only variants whose name this regular expression finds")
    parser.add_argument("--all", action="store_true", help="the slow variants too")
    parser.add_argument("--write", type=Path, help="Markdown page whose part between the two markers is replaced")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    if options.rows % options.batch:
        parser.error(f"--rows {options.rows}: must be a multiple of --batch {options.batch}")
    if options.data is not None and not options.data.is_file():
        parser.error(f"--data {options.data}: no such file")
    if options.write is not None and not _has_markers(options.write):
        parser.error(f"--write {options.write}: no page with the lines {BEGIN} and {END}")
    if options.variant:
        print("RESULT " + json.dumps(measure(options, overrides)), flush=True)
        return
    _in_a_process(options, overrides, "full", PREPARE)
    results = []
    for adapter in options.adapters.split(","):
        for name in VARIANTS:
            if not re.search(options.only, name) or (name in SLOW and not options.all):
                continue
            results.append({"adapter": adapter, "variant": name, **_in_a_process(options, overrides, adapter, name)})
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    failed = [f"{result['adapter']} {result['variant']}" for result in results if "failed" in result]
    report = {"device": _device(), "versions": _versions(), "rows": options.rows, "steps": options.steps}
    report |= {"command": _command(sys.argv), "results": results}
    target = Path("outputs/benchmark_training.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n")
    text = table(report) + ("" if _has_gpu() else "\n\n" + _gpu_needs())
    print(text)
    if options.write is not None:
        page = options.write.read_text(encoding="utf-8")
        before, after = page[: page.index(BEGIN)], page[page.index(END) :]
        options.write.write_text(f"{before}{BEGIN}\n\n{text}\n\n{after}", encoding="utf-8")
    if failed:
        sys.exit(f"not measured, so ratios to the best TRL may be partial: {', '.join(failed)}")


def _has_markers(page: Path) -> bool:
    text = page.read_text(encoding="utf-8") if page.is_file() else ""
    return 0 <= text.find(BEGIN) < text.find(END)


def _command(words: list[str]) -> str:
    """The command as a reader would type it: of the data file only the name."""
    shown = [Path(word).name if before == "--data" else word for before, word in zip(["", *words], words)]
    return " ".join(["python", *(f"'{word}'" if re.search(r"[ |*()]", word) else word for word in shown)])


def _in_a_process(options: argparse.Namespace, overrides: list[str], adapter: str, name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--variant", name]
    for option in ("rows", "batch", "steps"):
        command += [f"--{option}", str(getattr(options, option))]
    if options.data is not None:
        command += ["--data", str(options.data)]
    done = subprocess.run([*command, *overrides, f"adapter={adapter}"], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return dict(json.loads(line.removeprefix("RESULT ")))
    reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return {"failed": "out of memory" if "OutOfMemory" in done.stderr or done.returncode == -9 else reason[:200]}


def measure(options: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """One variant in this process: rates, peak memory, losses."""
    from alpaca.training.host import prepare_host

    if not options.variant.startswith(("recipe", "TRL")) or HOST_SETTINGS in options.variant:
        prepare_host()

    import torch

    from alpaca.modeling import attention
    from alpaca.modeling.base import load_tokenizer
    from alpaca.modeling.fused import unfused
    from alpaca.modeling.quiet import quiet_libraries
    from alpaca.training import preparation
    from alpaca.training.metering import peak_memory_gib
    from alpaca.training.precision import choose

    quiet_libraries()
    attention.register()
    kind, changes = VARIANTS.get(options.variant, ("ours", {}))
    config = _composed(["model=smollm2_135m", *_data(options.data), *overrides])
    config.train.global_batch_size = options.rows
    config.train.eval_rows, config.train.max_steps, config.train.epochs = 0, options.steps + 1, 1000.0
    config.train.log_every_steps = 1
    config.evaluation.quick, config.optimizer.warmup = None, 0.0
    if kind != "ours":
        config.train.packing = "off"  # the model keeps its own attention
    for key, value in changes.items():
        if kind == "ours":
            setattr(config.train, key, value)
    precision = changes.get("precision", "fp32" if kind == "trl" and not changes.get("bf16") else "bf16")
    compute = choose(precision)
    with _quiet():
        tokenizer = load_tokenizer(config.model)
        prepared = preparation.prepare(config, tokenizer, _Silent())
        held = _resident_gib() if compute.device.type == "cpu" else 0.0
        model = preparation.build_model(config, tokenizer, compute)
    if options.variant == PREPARE:
        return {}
    run = {"ours": _ours, "recipe": _recipe, "trl": _trl}[kind]
    with contextlib.nullcontext() if kind == "ours" else unfused(model):
        rates, losses = run(config, compute, prepared, model, tokenizer, options.batch, changes)
    assert len(rates) == options.steps + 1, f"{len(rates)} steps, not {options.steps + 1}"
    rate, peak = statistics.median(rates[1:]), peak_memory_gib(torch.device(compute.device))
    return {
        "tokens_per_s": round(rate, 1),
        "each_step": [round(rate, 1) for rate in rates[1:]],
        "mfu": _mfu(rate, model, compute, prepared),
        "model_memory_gib": round(peak - held, 2),
        "peak_memory_gib": round(peak, 2),
        "loss": round(losses[-1], 4),
    }


def _data(path: Path | None) -> list[str]:
    if path is None:
        return ["data_source=seed_tasks"]
    return ["data_source=json", f"data_source.path={path.resolve()}"]


def _resident_gib() -> float:
    """What this process holds now; where the system does not tell, the most it ever held."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        import torch

        from alpaca.training.metering import peak_memory_gib

        return peak_memory_gib(torch.device("cpu"))
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**30


def _mfu(rate: float, model: Any, compute: Any, prepared: Any) -> float | None:
    """Share of the device's peak that `rate` tokens a second are, each row by itself; None without a known peak."""
    from alpaca.training.batches import Layout
    from alpaca.training.flops import ModelFlops, peak_tflops

    peak = peak_tflops(compute.device, compute.precision)
    if peak is None:
        return None
    flops, layout, rows = ModelFlops.of(model), Layout(1 << 20), _rows(prepared, 1)
    operations = sum(flops.training_step(layout.lay_out(prepared.train, rows[[place]])) for place in range(len(rows)))
    return round(rate * operations / int(prepared.train.lengths[rows].sum()) / (peak * 1e12), 4)


def _ours(config: Any, compute: Any, prepared: Any, model: Any, *_: Any) -> tuple[list[float], list[float]]:
    """The loop of a run, alone, with what it would write kept here."""
    from alpaca.tracking.terminal import Terminal
    from alpaca.training.batches import Steps
    from alpaca.training.choices import choose
    from alpaca.training.flops import ModelFlops, peak_tflops
    from alpaca.training.loop import LossScale, Progress, Session, train
    from alpaca.training.metering import Meter
    from alpaca.training.optimizers import build_optimizer, peak_learning_rate
    from alpaca.training.stopping import Stopping
    from alpaca.training.watchdog import Beats
    from alpaca.training.world import World

    world, written = World(), _Written()
    layout = choose(config, compute, model, prepared.train, world).layout
    meter = Meter(compute.device, ModelFlops.of(model), peak_tflops(compute.device, compute.precision))
    rate = peak_learning_rate(config.optimizer, config.adapter)
    optimizer = build_optimizer(model, config.optimizer, rate, b_lr_ratio=config.adapter.b_lr_ratio)
    for group in optimizer.param_groups:
        group["peak_lr"] = group["lr"]
    keeps: Any = written
    session = Session(config, compute, keeps, Terminal(silent=True), keeps, world, Stopping(), Beats(world, 600))
    progress = Progress(0, optimizer, LossScale.of(compute.precision))
    train(session, model, Steps(prepared.train, prepared.plan, layout), progress, meter)
    return written.rates, written.losses


class _Written:
    """Takes the place of run directory and tracker, and keeps rates and losses."""

    def __init__(self) -> None:
        self.rates: list[float] = []
        self.losses: list[float] = []

    def log_metrics(self, _: int, __: float, metrics: dict[str, float]) -> None:
        """One step's line of metrics."""
        self.rates.append(metrics["perf/logical_tokens_per_s"])
        self.losses.append(metrics["train/loss"])

    def log(self, *_: Any) -> None:
        """Nothing to track."""


def _recipe(
    config: Any, compute: Any, prepared: Any, model: Any, tokenizer: Any, batch: int, _: Any
) -> tuple[list[float], list[float]]:
    """Stanford Alpaca's loop: batches padded to their longest row, gradient accumulation, logits everywhere."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    records = [_record(prepared.train, index) for step in range(prepared.plan.steps) for index in _rows(prepared, step)]
    watch = _Watch([int(prepared.train.lengths[_rows(prepared, step)].sum()) for step in range(prepared.plan.steps)])
    arguments = TrainingArguments(
        **_common_arguments(config, compute, prepared.plan.steps),
        per_device_train_batch_size=batch,
        gradient_accumulation_steps=config.train.global_batch_size // batch,
        bf16=compute.precision == "bf16",
    )
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100)
    trainer = _in_order(Trainer)(
        model=model, args=arguments, train_dataset=records, data_collator=collator, callbacks=[watch.callback()]
    )
    trainer.train()
    return watch.rates, watch.losses


def _trl(
    config: Any, compute: Any, prepared: Any, model: Any, tokenizer: Any, batch: int, changes: dict[str, Any]
) -> tuple[list[float], list[float]]:
    """SFTTrainer on the same tokens; with packing a step holds the rows that fit, so its tokens are counted as seen."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    examples, packing = prepared.train, changes.get("packing", False)
    order = [index for step in range(prepared.plan.steps) for index in _rows(prepared, step)]
    records = [_record(examples, index) for index in order * (4 if packing else 1)]
    masks = [[int(label != -100) for label in record["labels"]] for record in records]
    data = Dataset.from_dict({"input_ids": [record["input_ids"] for record in records], "completion_mask": masks})
    per_device = max(1, batch // 2) if packing else batch  # packed ones are full: max_length tokens
    arguments = SFTConfig(
        **_common_arguments(config, compute, prepared.plan.steps),
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=1 if packing else config.train.global_batch_size // per_device,
        max_length=config.train.max_length,
        completion_only_loss=True,  # by default a mask beside token ids is ignored
        **changes,
    )
    watch = _Watch(None)

    class Counting(_in_order(SFTTrainer)):  # type: ignore[misc]
        def training_step(self, model: Any, inputs: Any, *rest: Any, **named: Any) -> Any:
            mask = inputs.get("attention_mask")
            watch.seen += int(mask.sum()) if mask is not None else inputs["input_ids"].numel()
            return super().training_step(model, inputs, *rest, **named)

    trainer = Counting(
        model=model, args=arguments, train_dataset=data, processing_class=tokenizer, callbacks=[watch.callback()]
    )
    trainer.train()
    return watch.rates, watch.losses


def _common_arguments(config: Any, compute: Any, steps: int) -> dict[str, Any]:
    return {
        "output_dir": "outputs/.benchmark",
        "max_steps": steps,
        "learning_rate": config.optimizer.lr or config.adapter.default_lr,
        "lr_scheduler_type": "cosine",
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": compute.device.type == "cpu",
    }


def _rows(prepared: Any, step: int) -> Any:
    return prepared.plan.step_examples(step)


def _record(examples: Any, index: int) -> dict[str, list[int]]:
    ids = examples.ids(index).tolist()
    first = int(examples.first_labels[index])
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": [-100] * first + ids[first:]}


def _in_order(base: Any) -> Any:
    """A trainer that takes rows in the order given, as every variant does."""
    from torch.utils.data import SequentialSampler

    class InOrder(base):  # type: ignore[misc]
        def _get_train_sampler(self, dataset: Any = None) -> Any:
            return SequentialSampler(dataset if dataset is not None else self.train_dataset)

    return InOrder


class _Watch:
    """Times optimizer steps from outside and counts their tokens."""

    def __init__(self, tokens: list[int] | None):
        self.tokens, self.seen = tokens, 0
        self.rates: list[float] = []
        self.losses: list[float] = []
        self._since = 0.0

    def callback(self) -> Any:
        from transformers import TrainerCallback

        watch = self

        class Callback(TrainerCallback):
            def on_step_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
                watch._since = watch._since or time.perf_counter()

            def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
                now = time.perf_counter()
                tokens = watch.tokens[state.global_step - 1] if watch.tokens is not None else watch.seen
                watch.rates.append(tokens / (now - watch._since))
                watch.seen, watch._since = 0, now

            def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **named: Any) -> None:
                if logs and "loss" in logs:
                    watch.losses.append(float(logs["loss"]))

        return Callback()


def _composed(overrides: list[str]) -> Any:
    from hydra import compose, initialize_config_dir
    from omegaconf import OmegaConf

    from alpaca import cli, paths

    cli.register()
    for name in ("run_dir", "sweep_dir"):
        OmegaConf.register_new_resolver(name, lambda *, _root_: "outputs", replace=True)
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        return cli.typed(compose("config", overrides=overrides))


class _Silent:
    def print(self, *_: Any, **__: Any) -> None:
        """Nothing: the table is the output."""

    def warn(self, text: str) -> None:
        """Nothing either."""


def _quiet() -> Any:
    import io

    return contextlib.redirect_stderr(io.StringIO())


def table(report: dict[str, Any]) -> str:
    """Markdown, one row for each variant, with the ratios that matter."""
    lines = [f"{report['device']}; {', '.join(f'{name} {found}' for name, found in report['versions'].items())}", ""]
    lines += [f"`{report['command']}`", ""]
    against = ["recipe fp32", "recipe bf16", "best TRL"]
    head = ["adapter", "variant", "tokens/s", *(f"× {name}" for name in against), "MFU", "model GiB", "peak GiB"]
    lines += ["| " + " | ".join([*head, "last loss"]) + " |", "| --- | --- |" + " ---: |" * (len(head) - 1)]
    rate: Callable[[dict[str, Any]], float] = lambda result: result.get("tokens_per_s", 0.0)  # noqa: E731
    for adapter in dict.fromkeys(result["adapter"] for result in report["results"]):
        mine = [result for result in report["results"] if result["adapter"] == adapter]
        base = {result["variant"]: rate(result) for result in mine}
        base["best TRL"] = max((rate(result) for result in mine if result["variant"].startswith("TRL")), default=0.0)
        for result in mine:
            cells = [adapter, result["variant"]]
            if "failed" in result:
                cells += [result["failed"].replace("|", "/"), *[""] * (len(head) - 2)]
            else:
                cells += [f"{rate(result):,.0f}"]
                cells += [f"{rate(result) / base[name]:.2f}" if base.get(name) else "–" for name in against]
                cells += ["–" if result["mfu"] is None else f"{result['mfu']:.0%}"]
                cells += [
                    f"{result['model_memory_gib']:.2f}",
                    f"{result['peak_memory_gib']:.2f}",
                    f"{result['loss']:.4f}",
                ]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _has_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _gpu_needs() -> str:
    """What the same table needs on a GPU: the command, and the memory of LLaMA 7B's weights and state by arithmetic."""
    sizes = _composed(["model=llama7b"]).model.architecture
    hidden, inner, layers = sizes["hidden_size"], sizes["intermediate_size"], sizes["num_hidden_layers"]
    shapes = [(hidden, hidden)] * 4 + [(hidden, inner)] * 3
    linear = layers * sum(rows * columns for rows, columns in shapes)
    others = 2 * sizes["vocab_size"] * hidden + (2 * layers + 1) * hidden
    needs = {"full": 16.0 * (linear + others)}
    for name in ("lora", "qlora"):
        rank = _composed(["model=llama7b", f"adapter={name}"]).adapter.rank
        trained = 16.0 * layers * rank * sum(rows + columns for rows, columns in shapes)
        needs[name] = (0.52 if name == "qlora" else 2) * linear + 2 * others + trained
    listed = ", ".join(f"{name} {needed / 2**30:.0f} GiB" for name, needed in needs.items())
    return (
        "No GPU was found. On one, `python scripts/benchmark_training.py model=llama7b model.weights=random` makes the "
        f"same table; weights, gradients and optimizer state of LLaMA 7B need by arithmetic: {listed}, activations "
        "beside them. (16 bytes for each trained weight, 2 for each frozen one, 0.52 for each one in 4 bits.)"
    )


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    found = [key for key, there in torch.cpu.get_capabilities().items() if there and key in ("avx512_bf16", "amx_bf16")]
    kind = f"{platform.machine()}, {', '.join(found) or 'no bf16 instructions'}"
    return f"{os.cpu_count()} CPU cores ({kind}), {torch.get_num_threads()} threads"


def _versions() -> dict[str, str]:
    found = {}
    for name in ("torch", "transformers", "peft", "trl"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    main()
