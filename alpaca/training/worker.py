"""What a rank does: make rows and model ready, train, score, save. Rank 0 writes the run directory.

Order of a run: rows and split, tokens and mask, step plan, model and adapter, scores before, the newest
checkpoint if there is one, training, scores after, result, summary. Everything a user can get wrong in the
data is found before weights load.
"""

import json
from dataclasses import replace
from typing import Any

from rich.markup import escape
from torch import nn
from transformers import PreTrainedTokenizerBase

from alpaca.config import Config
from alpaca.data.encoding import Examples
from alpaca.evaluation.further import check_ready
from alpaca.evaluation.quick import DIRECTIONS as QUICK
from alpaca.evaluation.quick import QuickScores
from alpaca.evaluation.scores import DIRECTIONS, declared
from alpaca.evaluation.text_metrics import never_stops
from alpaca.modeling import attention
from alpaca.modeling.adapters import FULL, left_out, trained_parameters
from alpaca.modeling.base import load_tokenizer, starting_point
from alpaca.modeling.base_checks import base_settings, refuse_quantised, refuse_unknown_tokens
from alpaca.modeling.card import saved_card
from alpaca.modeling.finished import MODEL, PROBE, Record, stored_dtype
from alpaca.modeling.identity import public_name, recorded
from alpaca.modeling.quiet import quiet_libraries
from alpaca.modeling.tokenizer import other_end_warning
from alpaca.planning.command import at_the_start
from alpaca.signature import variant_of
from alpaca.tracking.run_directory import FAILED, FINISHED, INTERRUPTED, RunDirectory, read_json, write_text
from alpaca.tracking.terminal import Terminal
from alpaca.tracking.wandb_run import WandbRun
from alpaca.tracking.wandb_settings import artifact_name, is_silent
from alpaca.training.batches import Layout, Steps
from alpaca.training.checkpoint import Checkpoints
from alpaca.training.choices import Choices, choose_layout, choose_size
from alpaca.training.guards import memory_advice
from alpaca.training.loop import Session
from alpaca.training.metering import DIRECTIONS as PERFORMANCE
from alpaca.training.metering import Meter, peak_memory_gib
from alpaca.training.precision import Compute
from alpaca.training.preparation import Prepared, build_model, prepare
from alpaca.training.reloading import check_reload
from alpaca.training.saving import save_model, save_probe
from alpaca.training.scoring import log_scores, save_predictions, score, score_before, score_further
from alpaca.training.segment import Segment
from alpaca.training.self_check import exact_layout
from alpaca.training.sharding import is_sharded, splits, spread, whole, whole_weights, without_wrapper
from alpaca.training.stopping import Stopping
from alpaca.training.watchdog import Beats
from alpaca.training.world import World

FEW_STEPS = 10  # below this a schedule with warm-up is hardly a schedule


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
        if world.is_main:
            check_ready(config.evaluation)
        if not world.is_main:
            world.barrier()  # rank 0 fills the caches of model and tokens, the others read them
        config = replace(config, model=starting_point(config.model))
        settings = base_settings(config.model)
        refuse_quantised(config.model, settings)
        tokenizer = load_tokenizer(config.model)
        prepared = prepare(config, tokenizer, terminal)
        rows = [prepared.train, *([prepared.held_out.examples] if prepared.held_out else [])]
        refuse_unknown_tokens(config.model, settings, tokenizer, [part.tokens for part in rows])
        if world.is_main:  # of the weights every byte is read, once for each version of a file
            prepared.facts["lineage"]["model"] |= recorded(config.model)
        directory.write_json("data.json", prepared.facts)
        needs = at_the_start(config, prepared.train, devices=world.size, nodes=world.size // world.local_size)
        if needs is not None:
            terminal.print(f"[bold]needs[/]  {escape(needs)}")
        if world.is_main:
            world.barrier()
        with memory_advice(config, Layout(config.train.micro_batch_tokens or config.train.max_length)):
            split = splits(config.parallelism, world)
            model = build_model(config, tokenizer, compute, directory.path if world.is_main else None, split=split)
        if config.adapter.kind != FULL and "all" in (config.adapter.targets or ["all"]) and (rest := left_out(model)):
            terminal.warn(f"adapter={config.adapter.name}: {rest}")
        if config.adapter.kind != FULL and (sentence := other_end_warning(whole(model), tokenizer)):
            terminal.warn(sentence)
        choices = choose_layout(config.train, config.adapter, model, max_length=config.train.max_length)
        if config.train.packing == "on" and not choices.layout.packed:
            terminal.warn(f"rows are padded, which is slower than packing: the model {choices.reasons['packed']}")
        if config.train.self_check and not split:
            choices = checked(model, prepared.train, choices, compute, world, terminal)
        choices = choose_size(choices, config, compute, model, prepared.train, world)
    choices = _same_on_every_rank(choices, directory, config, world)
    trained, total = trained_parameters(model)
    _announce(config, prepared, choices, compute, trained, total, terminal)
    facts = {
        "signature": mark,
        "variant": variant_of(directory.identity.get("settings", {})),
        "data": prepared.facts,
        "trained_parameters": trained,
    }
    tracker = WandbRun(config, directory.path, facts, terminal.warn, watch=world.is_main)
    if tracker.url and not is_silent():
        terminal.print(f"[bold]wandb[/]  {escape(tracker.url)}")
    session = Session(config, compute, directory, terminal, tracker, world, stopping, beats)
    try:
        model = spread(model, config.parallelism, world, compute.device)
        if config.train.self_check and split:
            choices = checked(model, prepared.train, choices, compute, world, terminal)
        directory.write_environment(
            device=str(compute.device), precision=compute.precision, world_size=world.size, choices=choices.recorded()
        )
        summary = {"signature": mark, **_train_and_score(session, prepared, choices, model, tokenizer)}
        summary["trained_parameters"], summary["parameters"] = trained, total
        if world.is_main:
            with beats.while_working("loading the saved model again"):
                tokens = prepared.train.tokens
                check_reload(config, directory.path, prepared.facts, model, tokenizer, tokens, compute.device, terminal)
                stored = stored_dtype(directory.path / PROBE)
                record = Record(directory.path, config, summary, prepared.facts, {}, stored)
                write_text(directory.path / MODEL / "README.md", saved_card(record, prepared.template, tokenizer))
        directory.finish(FINISHED, summary)
        if config.train.keep_checkpoints == 0:
            Checkpoints(directory.path / "checkpoints", world, compute.device).remove_all()
    except BaseException as error:
        ended = INTERRUPTED if isinstance(error, KeyboardInterrupt) else FAILED
        session.tracker.finish(1, {"status": ended, "error": str(error)})
        if tracker.where:
            terminal.print(f"[bold]wandb[/]  {escape(tracker.where)}")
        raise
    with beats.while_working("closing the run"):
        session.tracker.finish(0, {"status": FINISHED, **summary})
    return summary | {"wandb": tracker.where}


def checked(
    model: nn.Module, examples: Examples, choices: Choices, compute: Compute, world: World, terminal: Terminal
) -> Choices:
    """The layout that the self-check finds exact, and a line about it; a second where it is slower than the choice."""
    layout, found, reasons = exact_layout(model, examples, choices.layout, compute, world)
    terminal.print(
        f"[bold]check[/]  {found.rows} rows together and one at a time: loss differs by {found.loss:.0e}, "
        f"gradient by {found.gradient:.0e} (relative)"
    )
    if not reasons:
        return choices
    terminal.warn(f"{layout.in_words}, which is slower: not exact with this model are {'; '.join(reasons)}")
    why = {"share_prefix" if layout.packed else "packed": reasons[-1]}
    return Choices(layout, {**choices.reasons, **why})


def _same_on_every_rank(choices: Choices, directory: RunDirectory, config: Config, world: World) -> Choices:
    """The smallest micro-batch that any rank chose; a run that goes on keeps what it chose at first."""
    tokens = min(world.gather(choices.layout.micro_batch_tokens))
    before = world.tell(read_json(directory.path / "env.json").get("automatic", {}).get("micro_batch_tokens"))
    if before and config.train.micro_batch_tokens is None and before >= config.train.max_length:
        tokens = int(before)
    return replace(choices, layout=replace(choices.layout, micro_batch_tokens=tokens))


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
        scored_at = int(segment.progress.best["step"]) if segment.progress.best is not None else plan.steps
        log_scores(session, scored_at, plan.epoch_after(scored_at), after)
        if sentence := never_stops(
            min(quick.generate_rows, len(held_out.examples)), after.metrics.get("eval/stop_rate"), quick.max_new_tokens
        ):
            session.terminal.warn(sentence)
    folder = directory.path / "model"
    with session.beats.while_working("saving the model"):
        _save(session, prepared, model, tokenizer, before, after)
    summary = _summary(config, prepared, meter, session.compute, before, after, str(folder))
    if segment.best is not None and segment.progress.best is not None:
        summary |= {"best_step": segment.progress.best["step"], "best_value": segment.progress.best["value"]}
        segment.best.remove()
    further = score_further(session, prepared.held_out, prepared.template, model, tokenizer, layout, after, plan.steps)
    own = declared(summary, {**QUICK, **PERFORMANCE})
    return summary | further | {DIRECTIONS: own | further[DIRECTIONS]}


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
        save_model(inner, tokenizer, folder, template, write_json, weights, public_name(config.model))
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
