"""What a rank does: load rows and model, train, score, save. Rank 0 writes the run directory.

Order of a run: rows and split, tokens and mask, step plan, model and adapter, scores before, the newest
checkpoint if there is one, training, scores after, result, summary. Everything a user can get wrong in the
data is found before weights load.
"""

import json
import logging
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from torch import nn
from transformers import PreTrainedTokenizerBase

from alpaca.config import Config
from alpaca.data import preparation
from alpaca.data.encoding import Examples
from alpaca.data.steps import StepPlan
from alpaca.data.templates import Template
from alpaca.errors import UserError
from alpaca.evaluation.quick import HeldOut, QuickScores
from alpaca.modeling import attention
from alpaca.modeling.adapters import FULL, add_adapter, trained_parameters
from alpaca.modeling.base import DTYPES, load_model, load_tokenizer
from alpaca.modeling.fused import fuse_layers
from alpaca.modeling.layers import checkpoint_activations, compile_layers
from alpaca.modeling.quantised import quantisation
from alpaca.modeling.tokenizer import template_for, text_encoder
from alpaca.planning.command import at_the_start
from alpaca.signature import variant_of
from alpaca.tracking.run_directory import FAILED, FINISHED, INTERRUPTED, RunDirectory, read_json, write_text
from alpaca.tracking.terminal import Terminal
from alpaca.tracking.wandb_run import WandbRun, artifact_name
from alpaca.training.batches import Layout, Steps, label_tensors, model_inputs
from alpaca.training.checkpoint import Checkpoints
from alpaca.training.choices import Choices, choose_layout, fits_on_gpu, largest_that_fits
from alpaca.training.guards import memory_advice
from alpaca.training.loop import Session
from alpaca.training.loss import supervised_loss
from alpaca.training.metering import Meter, peak_memory_gib
from alpaca.training.optimizers import state_bytes
from alpaca.training.precision import Compute
from alpaca.training.saving import keep_drawn_base, save_model, save_probe
from alpaca.training.scoring import log_scores, save_predictions, score, score_before
from alpaca.training.segment import Segment
from alpaca.training.self_check import self_check
from alpaca.training.sharding import is_sharded, splits, spread, whole_weights, without_wrapper
from alpaca.training.stopping import Stopping
from alpaca.training.watchdog import Beats
from alpaca.training.world import World

SHARDED_TOKENS = 8192
FEW_STEPS = 10  # below this a schedule with warm-up is hardly a schedule


@dataclass(frozen=True)
class Prepared:
    """Rows turned into examples, and the plan over them."""

    train: Examples
    held_out: HeldOut | None
    template: Template
    plan: StepPlan
    facts: dict[str, Any]


def run(
    config: Config,
    mark: str,
    compute: Compute,
    directory: RunDirectory,
    terminal: Terminal,
    world: World,
    stopping: Stopping,
    beats: Beats,
) -> dict[str, Any]:
    """Train one run, whose signature is `mark`, to its summary, as one of `world`'s ranks.

    Raises:
        UserError: bad data or a setting that this model or device cannot have.
        RunFailed: it cannot finish.
    """
    quiet_libraries()
    attention.register()
    with beats.while_working("loading data and model"):
        if not world.is_main:
            world.barrier()  # rank 0 fills the caches of model and tokens, the others read them
        tokenizer = load_tokenizer(config.model)
        prepared = prepare(config, tokenizer, terminal)
        directory.write_json("data.json", prepared.facts)
        needs = at_the_start(config, prepared.train, devices=world.size, nodes=world.size // world.local_size)
        if needs is not None:
            terminal.print(f"[bold]needs[/]  {escape(needs)}")
        if world.is_main:
            world.barrier()
        with memory_advice(config, Layout(config.train.micro_batch_tokens or config.train.max_length)):
            split = splits(config.parallelism, world)
            model = build_model(config, tokenizer, compute, directory.path if world.is_main else None, split=split)
    choices = _same_on_every_rank(choose(config, compute, model, prepared.train, world), directory, config, world)
    directory.write_environment(
        device=str(compute.device), precision=compute.precision, world_size=world.size, choices=choices.recorded()
    )
    trained, total = trained_parameters(model)
    _announce(config, prepared, choices, compute, trained, total, terminal)
    if config.train.self_check and not split:
        check(model, prepared.train, choices.layout, compute, world, terminal)
    facts = {
        "signature": mark,
        "variant": variant_of(directory.identity.get("settings", {})),
        "data": prepared.facts,
        "trained_parameters": trained,
    }
    tracker = WandbRun(config, directory.path, facts, terminal.warn, watch=world.is_main)
    session = Session(config, compute, directory, terminal, tracker, world, stopping, beats)
    try:
        model = spread(model, config.parallelism, world, compute.device)
        if config.train.self_check and split:
            check(model, prepared.train, choices.layout, compute, world, terminal)
        summary = {"signature": mark, **_train_and_score(session, prepared, choices, model, tokenizer)}
        summary["trained_parameters"], summary["parameters"] = trained, total
        directory.finish(FINISHED, summary)
        if config.train.keep_checkpoints == 0:
            Checkpoints(directory.path / "checkpoints", world, compute.device).remove_all()
    except BaseException as error:
        ended = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
        session.tracker.finish(1, {"status": ended, "error": str(error)})
        raise
    with beats.while_working("closing the run"):
        session.tracker.finish(0, {"status": FINISHED, **summary})
    return summary


def check(
    model: nn.Module, examples: Examples, layout: Layout, compute: Compute, world: World, terminal: Terminal
) -> None:
    """The self-check, and a line about it."""
    checked = self_check(model, examples, layout, compute, world)
    terminal.print(
        f"[bold]check[/]  {checked.rows} rows together and one at a time: loss differs by {checked.loss:.0e}, "
        f"gradient by {checked.gradient:.0e} (relative)"
    )


def quiet_libraries() -> None:
    """Libraries' progress bars and notices belong in no user's terminal; errors still come through."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("accelerate").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", module=r"torch\.|transformers\.|peft\.|accelerate\.")


def prepare(config: Config, tokenizer: PreTrainedTokenizerBase, terminal: Terminal) -> Prepared:
    """Rows to examples and plan; prints and returns what was used, dropped and truncated."""
    train = config.train
    template = template_for(tokenizer, config.template)
    data = preparation.prepare(config, template, text_encoder(tokenizer))
    facts = data.facts
    terminal.print(
        f"[bold]data[/]   {escape(data.source.name)}: {facts['rows_in']:,} rows, {len(data.train):,} trained, "
        f"{facts['rows_evaluated']:,} held out, {sum(facts['rows_dropped'].values()):,} left out, "
        f"{facts['rows_truncated']:,} truncated; licence {escape(facts['license'])}"
    )
    for reason, count in facts["rows_dropped"].items():
        terminal.print(f"       left out: {count:,} {reason}")
    for warning in data.warnings:
        terminal.warn(warning)
    plan = StepPlan(len(data.train), train.seed, train.epochs, train.global_batch_size, train.max_steps)
    held_out = HeldOut(data.held_out_rows, data.held_out, template, tokenizer) if data.held_out else None
    return Prepared(data.train, held_out, template, plan, facts)


def build_model(
    config: Config,
    tokenizer: PreTrainedTokenizerBase,
    compute: Compute,
    run: Path | None = None,
    *,
    split: bool = False,
) -> nn.Module:
    """The base model with the adapter on it and the attention of its layout set; trained weights are fp32.

    A random base of an adapter is kept in the run directory `run`, for the result to be loadable. A model that will
    be `split` is loaded into the host's memory: the whole of it may not fit on one device. A quantised one is made
    on the device.
    """
    stays = split and config.adapter.bits is None
    stored = compute.frozen_dtype if config.model.dtype == "auto" else DTYPES[config.model.dtype]
    dtype = torch.float32 if config.adapter.kind == FULL else stored
    base = load_model(
        config.model,
        tokenizer,
        seed=config.train.seed,
        dtype=dtype,
        device=torch.device("cpu") if stays else compute.device,
        quantisation=quantisation(config.adapter, compute.frozen_dtype),
        on_drawn=lambda drawn: (
            keep_drawn_base(drawn, tokenizer, run) if run is not None and config.adapter.kind != FULL else None
        ),
    )
    if config.train.packing == "on":
        chosen = config.model.attention
        varlen_works = compute.device.type == "cuda" and compute.precision != "fp32"
        if chosen == "auto":
            chosen = "varlen" if varlen_works else "segment"
        if chosen == "varlen" and not varlen_works:
            raise UserError(
                f"model.attention=varlen: its kernel needs a GPU and bf16 or fp16, here it is {compute.precision} on "
                f"{compute.device}; set model.attention=auto"
            )
        base.set_attn_implementation(attention.VARLEN if chosen == "varlen" else attention.SEGMENT)
    checkpoint_activations(base, config.train.activation_checkpointing)
    model = add_adapter(base, config.adapter, seed=config.train.seed)
    if config.train.compile:
        compile_layers(model)  # which fuses by itself
    else:
        fuse_layers(model)
    return model


def _same_on_every_rank(choices: Choices, directory: RunDirectory, config: Config, world: World) -> Choices:
    """The smallest micro-batch that any rank chose; a run that goes on keeps what it chose at first."""
    tokens = min(world.gather(choices.layout.micro_batch_tokens))
    before = world.tell(read_json(directory.path / "env.json").get("automatic", {}).get("micro_batch_tokens"))
    if before and config.train.micro_batch_tokens is None and before >= config.train.max_length:
        tokens = int(before)
    return replace(choices, layout=replace(choices.layout, micro_batch_tokens=tokens))


def choose(config: Config, compute: Compute, model: nn.Module, examples: Examples, world: World) -> Choices:
    """The layout of micro-batches; on a GPU that holds the whole model their size is found by trying unless it is set.

    Before sharding every rank holds more than it will: there the rule is 8,192 tokens.
    """
    choices = choose_layout(config.train, config.adapter, model, max_length=config.train.max_length)
    if config.train.micro_batch_tokens is not None or compute.device.type != "cuda":
        return choices
    if config.parallelism.sharding not in ("none", "replicate") and not world.alone:
        tokens = max(SHARDED_TOKENS, choices.layout.micro_batch_tokens)
        return replace(choices, layout=replace(choices.layout, micro_batch_tokens=tokens))
    layout = choices.layout
    longest = int(examples.lengths.argmax())

    def run_micro_batch(tokens: int) -> None:
        rows = [longest] * max(1, tokens // int(examples.lengths[longest]))
        batch = replace(layout, share_prefix=False).lay_out(examples, rows)
        model.train()
        try:
            with compute.autocast():
                summed = supervised_loss(
                    model, model_inputs(batch, compute.device), *label_tensors(batch, compute.device)
                )
            (summed / len(batch.labels)).backward()
        finally:
            model.zero_grad(set_to_none=True)

    state = int(trained_parameters(model)[0] * state_bytes(config.optimizer))
    found = largest_that_fits(
        lambda tokens: fits_on_gpu(run_micro_batch, tokens, state), layout.micro_batch_tokens, config.train.max_length
    )
    return Choices(
        replace(layout, micro_batch_tokens=found), {**choices.reasons, "micro_batch_tokens": "largest that fits"}
    )


def _announce(
    config: Config,
    prepared: Prepared,
    choices: Choices,
    compute: Compute,
    trained: int,
    total: int,
    terminal: Terminal,
) -> None:
    plan, facts, layout = prepared.plan, prepared.facts, choices.layout
    what = escape(f"{config.model.name}, adapter {config.adapter.name}")
    terminal.print(
        f"[bold]model[/]  {what}: {trained:,} of {total:,} parameters trained ({trained / total:.2%}); "
        f"{compute.precision} on {compute.device}; licence {escape(config.model.license)}"
    )
    shared = "shared prefixes" if layout.share_prefix else f"no shared prefixes: {choices.reasons['share_prefix']}"
    terminal.print(
        f"[bold]plan[/]   {plan.steps:,} steps of {plan.global_batch_size} examples, {config.train.epochs:g} epochs, "
        f"{facts['logical_tokens']:,} tokens an epoch ({facts['supervised_tokens'] / facts['logical_tokens']:.0%} "
        f"supervised), micro-batches of {layout.micro_batch_tokens:,} tokens, {shared}"
    )
    if plan.steps < FEW_STEPS:
        terminal.warn(
            f"only {plan.steps} optimizer steps: lower train.global_batch_size or raise train.epochs "
            "for a result that means something"
        )


def _train_and_score(
    session: Session,
    prepared: Prepared,
    choices: Choices,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
) -> dict[str, Any]:
    config, directory, plan, layout = session.config, session.directory, prepared.plan, choices.layout
    world = session.world
    quick, held_out = config.evaluation.quick, prepared.held_out
    before = after = None
    if quick is not None and held_out is not None:
        before = score_before(session, quick, held_out, model, layout)
    steps = Steps(prepared.train, plan, layout, rank=world.rank, ranks=world.size)
    segment = Segment(session, model, steps, held_out)
    if not segment.begin() and before is not None:
        log_scores(session, 0, 0.0, before)
    meter = segment.train()
    if quick is not None and held_out is not None:
        after = score(session, quick, held_out, model, layout, "scoring after")
        log_scores(session, plan.steps, plan.epoch_after(plan.steps), after)
    folder = directory.path / "model"
    with session.beats.while_working("saving the model"):
        _save(session, prepared, model, tokenizer, before, after)
    return _summary(config, prepared, meter, session.compute, before, after, str(folder))


def _save(
    session: Session,
    prepared: Prepared,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    before: QuickScores | None,
    after: QuickScores | None,
) -> None:
    """Model, probe, predictions and artifacts; every rank gathers, rank 0 writes."""
    config, directory, world = session.config, session.directory, session.world
    held_out, folder = prepared.held_out, directory.path / "model"
    template = prepared.template.settings()
    weights = whole_weights(model, keep=world.is_main)
    inner = without_wrapper(model)
    if world.is_main:
        write_json = lambda path, content: write_text(path, json.dumps(content))  # noqa: E731
        save_model(inner, tokenizer, folder, template, write_json, weights)
    if world.is_main or is_sharded(model):
        save_probe(inner, prepared.train.prompt(0), directory.path / "probe.safetensors", keep=world.is_main)
    if not world.is_main:
        return
    if before is not None and after is not None and held_out is not None:
        save_predictions(session, held_out, before, after)
    lineage = prepared.facts["lineage"]
    tracker = session.tracker
    data, model_name = f"data-{config.data_source.name}", f"model-{directory.path.name}"
    tracker.log_artifact(data, "dataset", directory.path / "data.json", prepared.facts, is_input=True)
    made_from = {**lineage, "base": config.model.weights, "data": artifact_name(data)}
    if config.adapter.kind != FULL:
        tracker.log_artifact(model_name, "model", folder, made_from)
    if (answers := directory.path / "predictions.jsonl").is_file():
        made_from["model"] = artifact_name(model_name) if config.adapter.kind != FULL else str(folder)
        tracker.log_artifact(f"predictions-{directory.path.name}", "predictions", answers, made_from)


def _summary(
    config: Config,
    prepared: Prepared,
    meter: Meter,
    compute: Compute,
    before: QuickScores | None,
    after: QuickScores | None,
    model_path: str,
) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "steps": prepared.plan.steps,
        "examples": meter.examples,
        "logical_tokens": meter.logical,
        "supervised_tokens": meter.supervised,
    }
    if before is not None:
        summary |= {f"{name}_before": value for name, value in before.metrics.items()}
    if after is not None:
        summary |= after.metrics
    return summary | {
        "perf/logical_tokens_per_s": meter.logical / meter.train_time_s,
        "perf/peak_memory_gib": peak_memory_gib(compute.device),
        "model_path": model_path,
    }
