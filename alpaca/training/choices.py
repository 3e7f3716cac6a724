"""What a run chooses by itself, by written rules; recorded in `env.json` under `automatic`.

* `micro_batch_tokens` on a CPU: 4,096, or `train.max_length` where that is longer. Below about 2,000 tokens
  matrix products lose speed, above 8,192 activations leave the caches for nothing. On a GPU the largest
  power of two from 4,096 to 65,536 whose forward and backward leave 15 % of the memory free beside the
  optimizer's state, found by trying; where 4,096 is too much, half as often as needed down to the longest example.
* `share_prefix`: on wherever it is exact, that is without dropout, with packing, and with prompts that
  carry no labels. A shared token costs a gathered key in attention and saves every other operation on it;
  on Alpaca rows about a quarter of all tokens need not be executed.
* `packed`: on unless `train.packing=off`; rows are padded where the model's attention cannot run over segments, and
  one row is taken at a time where padding changes a number too (found by the self-check).
* `attention`: variable-length kernels on a GPU in bf16 or fp16, matrix products per segment otherwise.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from alpaca.config import AdapterConfig, Config, TrainConfig
from alpaca.data.encoding import Examples
from alpaca.data.steps import token_budget
from alpaca.errors import UserError
from alpaca.modeling.adapters import trained_parameters
from alpaca.modeling.attention import not_packable
from alpaca.modeling.layers import dropout_settings
from alpaca.planning.memory import state_bytes
from alpaca.planning.micro_batch import FREE_SHARE, SHARDED_TOKENS, largest_that_fits
from alpaca.training.batches import Layout, label_tensors, model_inputs
from alpaca.training.loss import supervised_loss
from alpaca.training.precision import Compute
from alpaca.training.world import World


@dataclass(frozen=True)
class Choices:
    """The layout of micro-batches and, in words, why it is so."""

    layout: Layout
    reasons: dict[str, str] = field(default_factory=dict)

    def recorded(self) -> dict[str, Any]:
        """For `env.json`."""
        return {**vars(self.layout), "reasons": self.reasons}


def choose_size(
    choices: Choices, config: Config, compute: Compute, model: nn.Module, examples: Examples, world: World
) -> Choices:
    """Micro-batch tokens: as set, or on a GPU that holds the whole model found by trying.

    Before sharding every rank holds more than it will: there the rule is 8,192 tokens.
    """
    if config.train.micro_batch_tokens is not None or compute.device.type != "cuda":
        return choices
    if config.parallelism.sharding not in ("none", "replicate") and not world.alone:
        tokens = max(SHARDED_TOKENS, choices.layout.micro_batch_tokens)
        return replace(choices, layout=replace(choices.layout, micro_batch_tokens=tokens))
    layout = choices.layout
    longest = int(examples.lengths.argmax())

    def run_micro_batch(tokens: int) -> None:
        rows = [longest] * max(1, tokens // int(examples.lengths[longest]))
        if layout.one_by_one:
            rows = rows[:1]
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

    state = int(trained_parameters(model)[0] * state_bytes(config))
    found = largest_that_fits(
        lambda tokens: fits_on_gpu(run_micro_batch, tokens, state), layout.micro_batch_tokens, config.train.max_length
    )
    return Choices(
        replace(layout, micro_batch_tokens=found), {**choices.reasons, "micro_batch_tokens": "largest that fits"}
    )


def choose_layout(train: TrainConfig, adapter: AdapterConfig, model: Any, *, max_length: int) -> Choices:
    """The layout for `model`, by the rules above; micro-batch tokens as on a CPU.

    Raises:
        UserError: sharing is forced where it is inexact.
    """
    unpacked = "as set" if train.packing == "off" else not_packable(model, max_length)
    packed = unpacked is None
    inexact = _why_not_shared(train, adapter, model) if packed else "rows are padded"
    if train.share_prefix == "on" and inexact:
        raise UserError(f"train.share_prefix=on: {inexact}, so sharing would not be exact; set train.share_prefix=auto")
    shared = train.share_prefix != "off" and not inexact
    reasons = {"share_prefix": inexact or ("as set" if train.share_prefix != "auto" else "exact here")}
    if unpacked is not None:
        reasons["packed"] = unpacked
    return Choices(Layout(token_budget(train.micro_batch_tokens, max_length), packed, shared), reasons)


def _why_not_shared(train: TrainConfig, adapter: AdapterConfig, model: Any) -> str:
    if train.train_on_prompt:
        return "prompts carry labels (train.train_on_prompt)"
    if adapter.kind != "full" and adapter.dropout:
        return f"adapter.dropout={adapter.dropout:g} draws anew for each token"
    if dropout_settings(model):
        return "the model has dropout"
    return ""


def _inner(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def fits_on_gpu(run_micro_batch: Callable[[int], None], tokens: int, later: int = 0) -> bool:
    """Whether a forward and backward of `tokens`, and `later` bytes beside it, leave the free share of memory."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    try:
        run_micro_batch(tokens)
    except torch.cuda.OutOfMemoryError:
        return False
    finally:
        torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return bool(torch.cuda.max_memory_reserved() + later <= (1 - FREE_SHARE) * total)
