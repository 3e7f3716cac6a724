"""Training throughput against the usual loops: the same rows, model, optimizer and steps, one table.

Each variant runs in a process of its own, one after another: the recipe's own way (transformers' Trainer,
rows padded to the longest of a batch of 4, logits everywhere), TRL's SFTTrainer if `trl` is installed, and
this project's loop, one ingredient after another. Rates count logical tokens: tokens of the rows, no padding.

    python scripts/benchmark_training.py [--adapters full,lora] [--rows 16] [--steps 3] [overrides]
    python scripts/benchmark_training.py model=llama7b model.weights=random           (on a GPU, unchanged)

The first step of each variant warms up and is not counted; a rate is the median over the counted steps.
Writes outputs/benchmark_training.json and prints a Markdown table.
"""

import argparse
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
    "TRL defaults": ("trl", {}),
    "TRL bf16": ("trl", {"bf16": True, "gradient_checkpointing": False}),
    "TRL bf16, packing": ("trl", {"bf16": True, "gradient_checkpointing": False, "packing": True}),
    "ours: labelled logits only, fp32": ("ours", {"precision": "fp32", "packing": "off", "share_prefix": "off"}),
    "ours: + no padding": ("ours", {"precision": "fp32", "share_prefix": "off"}),
    "ours: + shared prefixes": ("ours", {"precision": "fp32"}),
    "ours: + bf16 (the default)": ("ours", {"precision": "bf16"}),
    "ours: default, checkpointing": ("ours", {"precision": "bf16", "activation_checkpointing": "on"}),
    "ours: default, compiled": ("ours", {"precision": "bf16", "compile": True}),
}
SLOW = {"ours: default, compiled"}  # compiling takes minutes: only with --all


def main() -> None:
    """Run every variant in its own process, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapters", default="full,lora", help="comma-separated options of the adapter group")
    parser.add_argument("--rows", type=int, default=16, help="rows of one optimizer step, a multiple of 8")
    parser.add_argument("--steps", type=int, default=3, help="counted steps, after one that is not")
    parser.add_argument("--only", default="", help="only variants whose name this regular expression finds")
    parser.add_argument("--all", action="store_true", help="the slow variants too")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    options, overrides = parser.parse_known_args()
    if options.rows % 8:
        parser.error(f"--rows {options.rows}: must be a multiple of 8, the usual loops' batches of 4 and 8 rows")
    if options.variant:
        print("RESULT " + json.dumps(measure(options, overrides)), flush=True)
        return
    results = []
    for adapter in options.adapters.split(","):
        for name in VARIANTS:
            if not re.search(options.only, name) or (name in SLOW and not options.all):
                continue
            results.append({"adapter": adapter, "variant": name, **_in_a_process(options, overrides, adapter, name)})
            print(json.dumps(results[-1]), file=sys.stderr, flush=True)
    failed = [f"{result['adapter']} {result['variant']}" for result in results if "failed" in result]
    report = {"device": _device(), "versions": _versions(), "rows": options.rows, "steps": options.steps}
    report |= {"command": " ".join(["python", *sys.argv]), "results": results}
    target = Path("outputs/benchmark_training.json")
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(report, indent=2) + "\n")
    print(table(report))
    if failed:
        sys.exit(f"not measured, so ratios to the best TRL may be partial: {', '.join(failed)}")


def _in_a_process(options: argparse.Namespace, overrides: list[str], adapter: str, name: str) -> dict[str, Any]:
    command = [sys.executable, __file__, "--variant", name, "--rows", str(options.rows), "--steps", str(options.steps)]
    done = subprocess.run([*command, *overrides, f"adapter={adapter}"], capture_output=True, text=True, check=False)
    for line in done.stdout.splitlines():
        if line.startswith("RESULT "):
            return dict(json.loads(line.removeprefix("RESULT ")))
    reason = (done.stderr.strip().splitlines() or ["no output"])[-1]
    return {"failed": "out of memory" if "OutOfMemory" in done.stderr or done.returncode == -9 else reason[:200]}


def measure(options: argparse.Namespace, overrides: list[str]) -> dict[str, Any]:
    """One variant in this process: rates, peak memory, losses."""
    from alpaca.training.host import prepare_host

    kind, changes = VARIANTS[options.variant]
    prepare_host()  # the same memory and thread settings for every variant

    import torch

    from alpaca.modeling import attention
    from alpaca.training import worker
    from alpaca.training.metering import peak_memory_gib
    from alpaca.training.precision import choose

    worker.quiet_libraries()
    attention.register()
    total = options.rows * (options.steps + 1)
    config = _composed(
        ["model=smollm2_135m", "data_source=seed_tasks", *overrides, f"train.global_batch_size={options.rows}"]
    )
    config.train.eval_rows, config.train.max_steps, config.train.epochs = 0, options.steps + 1, 1000.0
    config.evaluation.quick, config.optimizer.warmup = None, 0.0
    if kind != "ours":
        config.train.packing = "off"  # the model keeps its own attention
    for key, value in changes.items():
        if kind == "ours":
            setattr(config.train, key, value)
    precision = changes.get("precision", "fp32" if kind == "trl" and not changes.get("bf16") else "bf16")
    compute = choose(precision)
    with _quiet():
        tokenizer = worker.load_tokenizer(config.model)
        prepared = worker.prepare(config, tokenizer, _Silent())
        model = worker.build_model(config, tokenizer, compute)
    run = {"ours": _ours, "recipe": _recipe, "trl": _trl}[kind]
    rates, losses = run(config, compute, prepared, model, tokenizer, changes)
    assert len(rates) == options.steps + 1, f"{len(rates)} steps of {total} rows"
    return {
        "tokens_per_s": round(statistics.median(rates[1:]), 1),
        "each_step": [round(rate, 1) for rate in rates[1:]],
        "peak_memory_gib": round(peak_memory_gib(torch.device(compute.device)), 2),
        "loss": round(losses[-1], 4),
    }


def _ours(config: Any, compute: Any, prepared: Any, model: Any, _: Any, __: Any) -> tuple[list[float], list[float]]:
    from alpaca.training import worker
    from alpaca.training.batches import Steps
    from alpaca.training.flops import ModelFlops, peak_tflops
    from alpaca.training.loop import training_arguments
    from alpaca.training.metering import Meter
    from alpaca.training.optimizers import build_optimizer, learning_rate_factor, peak_learning_rate
    from alpaca.training.trainer import AlpacaTrainer

    layout = worker.choose(config, compute, model, prepared.train).layout
    meter = Meter(compute.device, ModelFlops.of(model), peak_tflops(compute.device, compute.precision))
    rates: list[float] = []
    losses: list[float] = []

    def on_metrics(logs: dict[str, float]) -> None:
        rates.append(meter.metrics()["perf/logical_tokens_per_s"])
        losses.append(logs["loss"])

    rate = peak_learning_rate(config.optimizer, config.adapter)
    steps = prepared.plan.steps
    trainer = AlpacaTrainer(
        model=model,
        arguments=training_arguments(config, compute, "outputs/.benchmark", steps),
        steps=Steps(prepared.train, prepared.plan, layout),
        compute=compute,
        optimizer=lambda wrapped: build_optimizer(wrapped, config.optimizer, rate),
        learning_rate_factor=learning_rate_factor(config.optimizer.schedule, config.optimizer.warmup, steps),
        meter=meter,
        on_metrics=on_metrics,
    )
    meter.start()
    trainer.train()
    return rates, losses


def _recipe(
    config: Any, compute: Any, prepared: Any, model: Any, tokenizer: Any, _: Any
) -> tuple[list[float], list[float]]:
    """Stanford Alpaca's loop: batches of 4 padded to their longest row, gradient accumulation, logits everywhere."""
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainingArguments

    records = [_record(prepared.train, index) for step in range(prepared.plan.steps) for index in _rows(prepared, step)]
    watch = _Watch([int(prepared.train.lengths[_rows(prepared, step)].sum()) for step in range(prepared.plan.steps)])
    arguments = TrainingArguments(
        **_common_arguments(config, compute, prepared.plan.steps),
        per_device_train_batch_size=4,
        gradient_accumulation_steps=max(1, config.train.global_batch_size // 4),
        bf16=compute.precision == "bf16",
    )
    collator = DataCollatorForSeq2Seq(tokenizer, padding=True, label_pad_token_id=-100)
    trainer = _in_order(Trainer)(
        model=model, args=arguments, train_dataset=records, data_collator=collator, callbacks=[watch.callback()]
    )
    trainer.train()
    return watch.rates, watch.losses


def _trl(
    config: Any, compute: Any, prepared: Any, model: Any, tokenizer: Any, changes: dict[str, Any]
) -> tuple[list[float], list[float]]:
    """SFTTrainer on the same tokens; with packing a step holds the rows that fit, so its tokens are counted as seen."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    examples, packing = prepared.train, changes.get("packing", False)
    order = [index for step in range(prepared.plan.steps) for index in _rows(prepared, step)]
    records = [_record(examples, index) for index in order * (4 if packing else 1)]
    masks = [[int(label != -100) for label in record["labels"]] for record in records]
    data = Dataset.from_dict({"input_ids": [record["input_ids"] for record in records], "completion_mask": masks})
    per_device = 4 if packing else 8
    arguments = SFTConfig(
        **_common_arguments(config, compute, prepared.plan.steps),
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=1 if packing else max(1, config.train.global_batch_size // per_device),
        max_length=config.train.max_length,
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
    import contextlib
    import io

    return contextlib.redirect_stderr(io.StringIO())


def table(report: dict[str, Any]) -> str:
    """Markdown, one row for each variant, with the ratios that matter."""
    lines = [f"{report['device']}; {', '.join(f'{name} {found}' for name, found in report['versions'].items())}", ""]
    lines += [f"`{report['command']}`", ""]
    lines += ["| adapter | variant | tokens/s | × recipe fp32 | × recipe bf16 | × best TRL | peak GiB | last loss |"]
    lines += ["| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    rate: Callable[[dict[str, Any]], float] = lambda result: result.get("tokens_per_s", 0.0)  # noqa: E731
    for adapter in dict.fromkeys(result["adapter"] for result in report["results"]):
        mine = [result for result in report["results"] if result["adapter"] == adapter]
        base = {result["variant"]: rate(result) for result in mine}
        trl = max((rate(result) for result in mine if result["variant"].startswith("TRL")), default=0.0)
        for result in mine:
            if "failed" in result:
                lines.append(f"| {adapter} | {result['variant']} | {result['failed']} | | | | | |")
                continue
            against = (base.get("recipe fp32", 0), base.get("recipe bf16", 0), trl)
            ratios = " | ".join(f"{rate(result) / other:.2f}" if other else "–" for other in against)
            memory, loss = result["peak_memory_gib"], result["loss"]
            lines.append(f"| {adapter} | {result['variant']} | {rate(result):,.0f} | {ratios} | {memory} | {loss} |")
    return "\n".join(lines)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    found = [key for key, there in torch.cpu.get_capabilities().items() if there and key in ("avx512_bf16", "amx_bf16")]
    return f"{os.cpu_count()} CPU cores ({platform.machine()}, {', '.join(found) or 'no bf16 instructions'})"


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
