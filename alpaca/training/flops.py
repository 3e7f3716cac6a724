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
        frozen, trained: weights of linear layers without the head, by whether they are trained.
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
        linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module is not head]
        weights = [(module.in_features * module.out_features, module.weight.requires_grad) for module in linear]
        config: Any = model.config
        head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return cls(
            frozen=sum(size for size, trained in weights if not trained),
            trained=sum(size for size, trained in weights if trained),
            head=head.weight.numel(),  # type: ignore[operator, union-attr]
            head_trained=bool(head.weight.requires_grad),  # type: ignore[union-attr]
            attention=4 * config.num_attention_heads * head_dim * config.num_hidden_layers,
        )

    def training_step(self, batch: MicroBatch) -> float:
        """Operations of forward and backward of one micro-batch."""
        weights = batch.executed * (2 * self.frozen * 2 + 2 * self.trained * 3)
        head = len(batch.labels) * 2 * self.head * (3 if self.head_trained else 2)
        return weights + head + 3 * self.attention * attended_pairs(batch)


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
