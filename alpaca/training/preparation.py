"""What a rank trains, made ready: rows as examples with a plan over them, and the model with its adapter.

Data comes first, for everything that a user can get wrong in it is found before weights load.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.markup import escape
from torch import nn
from transformers import PreTrainedTokenizerBase

from alpaca.config import Config, ModelConfig
from alpaca.data.encoding import Examples
from alpaca.data.preparation import prepare as prepare_rows
from alpaca.data.steps import StepPlan
from alpaca.data.templates import Template
from alpaca.errors import UserError
from alpaca.evaluation.held_out import HeldOut
from alpaca.modeling import attention
from alpaca.modeling.adapters import FULL, add_adapter
from alpaca.modeling.base import DTYPES, load_model
from alpaca.modeling.fused import fuse_layers
from alpaca.modeling.layers import checkpoint_activations, compile_layers
from alpaca.modeling.quantised import quantisation
from alpaca.modeling.tokenizer import end_warning, template_for, text_encoder
from alpaca.tracking.terminal import Terminal
from alpaca.training.precision import Compute
from alpaca.training.saving import keep_drawn_base


@dataclass(frozen=True)
class Prepared:
    """Rows turned into examples, and the plan over them."""

    train: Examples
    held_out: HeldOut | None
    template: Template
    plan: StepPlan
    facts: dict[str, Any]


def prepare(config: Config, tokenizer: PreTrainedTokenizerBase, terminal: Terminal) -> Prepared:
    """Rows to examples and plan; prints and returns what was used, dropped and truncated."""
    train = config.train
    template = template_for(tokenizer, config.template)
    data = prepare_rows(config, template, text_encoder(tokenizer))
    facts = data.facts
    terminal.print(
        f"[bold]data[/]   {escape(data.source.name)}: {facts['rows_in']:,} rows, {len(data.train):,} trained, "
        f"{facts['rows_evaluated']:,} held out, {sum(facts['rows_dropped'].values()):,} left out, "
        f"{facts['rows_truncated']:,} truncated; licence {escape(facts['license'])}"
    )
    for reason, count in facts["rows_dropped"].items():
        terminal.print(f"       left out: {count:,} {reason}")
    for warning in (*data.warnings, end_warning(tokenizer)):
        if warning:
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
    if config.train.packing == "on" and attention.not_packable(base, config.train.max_length) is None:
        base.set_attn_implementation(_packed_attention(config.model, compute))
    checkpoint_activations(base, config.train.activation_checkpointing)
    model = add_adapter(base, config.adapter, seed=config.train.seed)
    if config.train.compile:
        compile_layers(model)  # which fuses by itself
    else:
        fuse_layers(model)
    return model


def _packed_attention(model: ModelConfig, compute: Compute) -> str:
    """Which of our own kernels attends over the segments of a packed micro-batch."""
    varlen_works = compute.device.type == "cuda" and compute.precision != "fp32"
    if model.attention == "varlen" and not varlen_works:
        raise UserError(
            f"model.attention=varlen: its kernel needs a GPU and bf16 or fp16, here it is {compute.precision} on "
            f"{compute.device}; set model.attention=auto"
        )
    uses_varlen = model.attention == "varlen" or (model.attention == "auto" and varlen_works)
    return attention.VARLEN if uses_varlen else attention.SEGMENT
