"""A target as a `Subject`: its model or engine, template, held-out rows, and how to compute with it."""

from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase

from alpaca.config import Config, ModelConfig, QuickConfig
from alpaca.data.rows import Row
from alpaca.data.steps import token_budget
from alpaca.data.templates import Template
from alpaca.errors import UserError
from alpaca.evaluation.answering import Answerer, EngineAnswerer, ModelAnswerer, OnDone, engine_model
from alpaca.evaluation.further import Subject, chosen
from alpaca.evaluation.held_out import HeldOut, load_held_out
from alpaca.evaluation.instruction_sets import HELD_OUT
from alpaca.evaluation.output_sets import read_output_set
from alpaca.evaluation.quick import QuickScores, quick_scores
from alpaca.evaluation.targets import OUTPUTS, RUN, Target
from alpaca.modeling.base import DTYPES, load_tokenizer
from alpaca.modeling.finished import MODEL, load_finished, read_record, read_template, readable_model
from alpaca.modeling.quiet import quiet_libraries
from alpaca.modeling.tokenizer import template_for
from alpaca.tracking.terminal import Terminal
from alpaca.training import precision
from alpaca.training.batches import Layout
from alpaca.training.precision import Compute
from alpaca.training.world import World


def subject(target: Target, config: Config, place: Path, terminal: Terminal) -> Subject:
    """Load what the chosen evaluations need, and nothing else.

    Raises:
        UserError: model, template or rows that are not there.
    """
    quiet_libraries()
    if target.kind == OUTPUTS:
        return _of_outputs(target, place)
    compute = _compute(target, config)
    with_model = config.evaluation.decode.engine == "local" or any(
        name in ("quick", "loss", "lm_eval") for name in chosen(config.evaluation)
    )
    tokenizer, template, model = _model(target, config, compute, load=with_model)
    held_out: HeldOut | None = None
    rows: list[Row] = []
    if _wants_held_out(config, target):
        held_out, rows, content = load_held_out(config, template, tokenizer)
        _warn_of_other_rows(target, content, terminal)
    answerer: Answerer
    if config.evaluation.decode.engine == "local":
        answerer = ModelAnswerer(model, tokenizer, template, config.evaluation.decode, compute, World())
    else:
        folders = [target.path / "export", target.path / MODEL] if target.kind == RUN else [target.path]
        name = engine_model(config.evaluation.decode, folders)
        answerer = EngineAnswerer(template, config.evaluation.decode, name)
    what = (
        f"{type(model).__name__}, {compute.precision} on {compute.device}" if model is not None else "not loaded here"
    )
    terminal.print(f"[bold]model[/]    {escape(what)}; template {escape(template.name)}")
    return Subject(
        name=target.name,
        place=place,
        template=template,
        answerer=answerer,
        model=model,
        tokenizer=tokenizer,
        held_out=held_out,
        held_out_rows=rows,
        compute=compute,
        layout=Layout(token_budget(config.train.micro_batch_tokens, config.train.max_length), False, False),
        world=World(),
    )


def quick(found: Subject, settings: QuickConfig, on_done: OnDone) -> QuickScores:
    """The scores that a run ends with, of a loaded model.

    Raises:
        UserError: there are no held-out rows.
    """
    if found.held_out is None:
        raise UserError("evaluation=quick: there are no held-out rows; a run with train.eval_rows=1 or more has them")
    return quick_scores(
        found.model,
        found.held_out,
        settings,
        compute=found.compute,
        layout=found.layout,
        world=found.world,
        on_answers=on_done,
    )


def predictions(
    found: Subject, scores: QuickScores, before: list[dict[str, Any]], *, keep_answers: bool
) -> list[dict[str, Any]]:
    """Records of `predictions.jsonl`: the new scores beside those from before training, which are the run's.

    Answers from before training stay where they were made under the same settings (`keep_answers`).
    """
    from alpaca.training.scoring import prediction

    assert found.held_out is not None
    known = {record.get("id"): record for record in before}
    records = []
    for index, new in enumerate(scores.examples):
        old = known.get(new["id"], {})
        numbers = old.get("scores", {})
        past: dict[str, Any] = {"loss": numbers.get("loss_before")}
        if keep_answers:
            past |= {"output": old.get("output_before"), "rougeL": numbers.get("rougeL_before")}
        records.append(prediction(found.held_out, index, past, new))
    return records


def _of_outputs(target: Target, place: Path) -> Subject:
    found = read_output_set(target.path)
    answered = [
        {
            "id": key,
            "instruction": row.instruction,
            "input": row.input,
            "category": row.category,
            "reference": row.output or None,
            "output": made.text,
            "made": made,
        }
        for key, row, made in zip(found.ids, found.rows, found.made, strict=True)
    ]
    return Subject(
        name=found.generator,
        place=place,
        template=None,
        answerer=None,
        model=None,
        tokenizer=None,
        held_out=None,
        held_out_rows=[],
        compute=Compute(torch.device("cpu"), "fp32"),
        layout=Layout(1, False, False),
        world=World(),
        answered=answered,
    )


def _compute(target: Target, config: Config) -> Compute:
    """The precision the run computed in, where this machine has it; else what `train.precision` says here."""
    if target.kind == RUN:
        recorded = read_record(target.path).environment.get("precision")
        try:
            return precision.choose(recorded if recorded in DTYPES else config.train.precision)
        except UserError:
            return precision.choose("auto")
    return precision.choose(config.train.precision)


def _model(
    target: Target, config: Config, compute: Compute, *, load: bool
) -> tuple[PreTrainedTokenizerBase, Template, Any]:
    if target.kind == RUN:
        if load:
            finished = load_finished(target.path, device=compute.device)
            return finished.tokenizer, finished.template, finished.model.to(compute.device)
        folder = target.path / MODEL
        return load_tokenizer(ModelConfig(name=target.name, weights=str(folder))), read_template(folder), None
    tokenizer = load_tokenizer(ModelConfig(name=target.name, weights=str(target.path)))
    has_own = (target.path / "template.json").is_file()
    template = read_template(target.path) if has_own else template_for(tokenizer, config.template)
    if not load:
        return tokenizer, template, None
    with readable_model(target.path):
        model: Any = AutoModelForCausalLM.from_pretrained(
            target.path, dtype=compute.frozen_dtype, use_safetensors=True
        ).to(compute.device)
    return tokenizer, template, model.eval()


def _wants_held_out(config: Config, target: Target) -> bool:
    wanted = config.evaluation
    if config.train.eval_rows == 0:
        return False
    asks = wanted.generate is not None and wanted.generate.instructions == HELD_OUT
    judges = wanted.judge is not None and wanted.generate is None and wanted.quick is None and target.kind == RUN
    return wanted.quick is not None or wanted.loss is not None or asks or judges


def _warn_of_other_rows(target: Target, content: str, terminal: Terminal) -> None:
    if target.kind != RUN:
        return
    recorded = read_record(target.path).data.get("content_hash")
    if recorded and recorded != content:
        terminal.warn("the data source has changed since the run, so its held-out rows may have been trained on")
