"""Floating-point operations of a training step, and what a device could do at most.

Counted as multiply and add of every matrix product that was executed: 2 for each weight of a linear
layer and token, 4 x heads x head_dim for each pair of a query and a key it sees, 2 x vocabulary x hidden
for each supervised position (Kaplan et al. 2020, arXiv:2001.08361, appendix B, without embeddings). The
backward pass costs as much again for the activations and, where the weight is trained, once more for it.
Recomputation by activation checkpointing is not counted, so MFU stays comparable (Chowdhery et al. 2022).
"""

import re
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from alpaca.data.microbatch import MicroBatch
from alpaca.modeling.targets import text_part
from alpaca.training.loss import output_projection

# Dense peak in TFLOP/s of bf16 (fp16 on V100 and T4) matrix products, from NVIDIA's data sheets.
PEAK_TFLOPS = {
    "H200": 989,
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "RTX 4090": 165,
    "V100": 125,
    "T4": 65,
}


@dataclass(frozen=True)
class ModelFlops:
    """Forward costs of one model.

    Attributes:
        frozen, trained: weights that a token is multiplied with, without the head, by whether they are trained; of
            experts the share that a token is sent to.
        head: weights of the output projection; `head_trained` says whether they are.
        attention: operations for each query-key pair, all layers.
    """

    frozen: int
    trained: int
    head: int
    head_trained: bool
    attention: int

    @classmethod
    def of(cls, model: nn.Module) -> "ModelFlops":
        """Counts from the modules of `model`, adapters included."""
        head = output_projection(model)
        modules = [module for module in text_part(model).modules() if module is not head]
        weights = [
            (module.in_features * module.out_features, module.weight.requires_grad)
            for module in modules
            if isinstance(module, nn.Linear)
        ]
        weights += [
            (part.numel() * _routed(model) // len(part), part.requires_grad)
            for module in modules
            for part in module.parameters(recurse=False)
            if part.dim() == 3 and not isinstance(module, nn.Conv1d)
        ]
        return cls(
            frozen=sum(size for size, trained in weights if not trained),
            trained=sum(size for size, trained in weights if trained),
            head=head.weight.numel() if head is not None else 0,
            head_trained=head is not None and bool(head.weight.requires_grad),
            attention=4 * sum(map(_attention_width, modules)),
        )

    def training_step(self, batch: MicroBatch) -> float:
        """Operations of forward and backward of one micro-batch."""
        weights = batch.executed * (2 * self.frozen * 2 + 2 * self.trained * 3)
        head = len(batch.labels) * 2 * self.head * (3 if self.head_trained else 2)
        return weights + head + 3 * self.attention * attended_pairs(batch)


def counted(model: nn.Module) -> ModelFlops | None:
    """`ModelFlops.of`, or None for a model built in a way that it does not know: a count never ends a run."""
    try:
        return ModelFlops.of(model)
    except Exception:
        return None


def _routed(model: Any) -> int:
    """Experts that one token is sent to."""
    config = model.config.get_text_config()
    names = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k")
    return next((value for name in names if isinstance(value := getattr(config, name, None), int)), 1)


def _attention_width(module: Any) -> int:
    """heads x head_dim of a module that attends, 0 of any other."""
    head_dim = getattr(module, "head_dim", None)
    if "attention" not in type(module).__name__.lower() or not isinstance(head_dim, int):
        return 0
    heads = getattr(module, "num_heads", None) or getattr(getattr(module, "config", None), "num_attention_heads", 0)
    return int(heads or 0) * head_dim


def attended_pairs(batch: MicroBatch) -> int:
    """Query-key pairs that attention computes: a causal triangle for each segment and its whole chain before it."""
    if batch.segments is None:
        width = batch.executed // batch.rows
        return batch.rows * width * (width + 1) // 2
    lengths = batch.segments.lengths
    pairs = 0
    for index, length in enumerate(lengths):
        before = sum(lengths[part] for part in batch.segments.chain(index)[:-1])
        pairs += length * before + length * (length + 1) // 2
    return pairs


def peak_tflops(device: torch.device, precision: str) -> float | None:
    """What the device could do at most; None for a CPU, an unknown GPU or fp32, where no MFU is given."""
    if device.type != "cuda" or precision == "fp32":
        return None
    name = torch.cuda.get_device_name(device)
    return next((float(peak) for known, peak in PEAK_TFLOPS.items() if re.search(rf"\b{known}\b", name)), None)
