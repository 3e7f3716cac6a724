"""Memory of one device while it trains, by what is kept: derived from the training code, then compared with it.

Bytes kept for the backward pass, for each token and decoder layer, with r bytes a number in the residual
stream and c in matrix products (autocast: r = 4 where weights are trained in fp32, r = c where they are
frozen in bf16; c = 2, or 4 in fp32):

* two norms keep their input, 2 r hidden; what they give to linear layers is kept where a trained matrix or an
  adapter reads it, c hidden each;
* attention keeps query, key and value, c (query + 2 key_value), and the output projection its input, c query; on a CPU
  its weights too, c heads for each key that a query sees, where they are few;
* a gated MLP keeps gate and up, 2 c intermediate, from which the input of the down projection is made again; in other
  MLPs that is kept, c intermediate;
* LoRA keeps c rank for each targeted matrix and, with dropout, the dropped input and its mask; DoRA what the base and
  the update gave, 2 c outputs.

With activation checkpointing a layer keeps its input alone and makes the rest again, one layer at a time.
The two constants that no code says, memory lost between blocks and what the libraries take for themselves,
are measured; docs/planning.md has the comparison.
"""

from dataclasses import dataclass, fields

from alpaca.config import Config
from alpaca.planning.architecture import Linear, Shape
from alpaca.planning.parameters import FULL, Parameters

GIB = 2**30
CHUNK = 1024  # positions whose logits exist at once, as in alpaca/training/loss.py
CPU_BLOCK = 64  # of these, positions whose logits a CPU has in fp32
BITS = {4: 0.5 + 4 / 64, 8: 1.0}  # bytes of a quantised weight; 4 bits with an fp32 scale for each 64
DOUBLE_QUANTISED = 0.5 + 1 / 64 + 4 / (64 * 256)  # scales in 8 bits, with an fp32 scale for each 256 of those
STATE_BYTES = {
    "adamw": 8.0,
    "adamw_8bit": 2.0,
    "paged_adamw_8bit": 2.0,
    "adafactor": 0.1,  # 4 for each row and column of a matrix
    "lion": 4.0,
    "muon": 8.0,  # 4 for a layer's matrices; embeddings may be most of a small model
    "schedule_free": 8.0,
    "sgd": 4.0,
}
QUERY_BLOCK, KEPT_SCORES = 64, 3  # as in alpaca/modeling/segment_products.py
BLOCK_WASTE = 1.2  # padding of blocks that are computed together; measured 1.1 to 1.3
PROCESS_CPU = 0.6 * GIB  # Python with torch, transformers and peft, before a model is loaded
PROCESS_GPU = 0.9 * GIB  # CUDA context, kernels and cuBLAS's workspace
FRAGMENTED_GPU = 0.05  # of activations and temporaries, lost between blocks; assumed
# A CPU's heap (glibc) keeps what was freed and cannot always use it again, since micro-batches differ in length. Fitted
# to runs of the embedded model, docs/planning.md: so many fp32 embeddings that loading, the self-check and the
# logits leave behind; and of the three outputs of LoRA's widest matrix, which lie between tensors that are kept, this
# much in every layer, by what else is kept. Full fine-tuning leaves no such holes.
HEAP_EMBEDDINGS = 2.2
HEAP_HOLES = {"off": 0.5, "selective": 0.45, "on": 0.4}
HEAP_HOLES_QUANTISED = {"off": 0.5, "selective": 0.3, "on": 0.05}  # a whole matrix, made and dropped, finds its place


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the peak of a step.

    Attributes:
        weights: of the model and its adapter as they are stored.
        gradients, optimizer: of what is trained.
        activations: kept from the forward for the backward pass.
        logits: of one chunk, with the gradients that the loss makes at once.
        workspace: copies of weights in the compute precision, gathered layers, temporaries, fragments.
        process: what the process takes before a model is loaded.
    """

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    workspace: int
    process: int

    @property
    def model(self) -> int:
        """All that loading and training the model adds to the process."""
        return self.total - self.process

    @property
    def total(self) -> int:
        """All together."""
        return sum(getattr(self, item.name) for item in fields(self))

    @property
    def total_gib(self) -> float:
        """All together, GiB."""
        return self.total / GIB


@dataclass(frozen=True)
class Placement:
    """Where a rank works.

    Attributes:
        ranks: devices of the run.
        split_over: devices that share one copy of weights, gradients and optimizer state; 1 where each has its own.
        gpu: on an accelerator.
        precision: bf16, fp16 or fp32.
    """

    ranks: int
    split_over: int
    gpu: bool
    precision: str

    @property
    def compute_bytes(self) -> int:
        """Bytes of a number in matrix products."""
        return 4 if self.precision == "fp32" else 2


@dataclass(frozen=True)
class Batch:
    """The largest micro-batch: executed tokens, labels, whether a step has several; keys seen by a query on average."""

    tokens: int
    labels: int
    several: bool
    seen: float = 0.0


def state_bytes(config: Config) -> float:
    """Bytes of optimizer state for each trained weight, about; a bound from above where it depends on the model."""
    return STATE_BYTES[config.optimizer.kind] / (2 if config.optimizer.state_precision == "bf16" else 1)


def memory(config: Config, shape: Shape, counted: Parameters, place: Placement, batch: Batch) -> Memory:
    """Bytes at the peak of a step."""
    split = place.split_over
    weights: float = weight_bytes(config, shape, counted, place)
    gradients: float = 4 * counted.trained
    optimizer = state_bytes(config) * counted.trained
    kept = activations(config, shape, counted, place, batch)
    logits = _logits(config, shape, place, batch)
    copies = _copies(config, shape, counted, place)
    if split > 1 and batch.several:  # whole gradients are kept until the step's last micro-batch has added its own
        copies += gradients
    if not batch.several:  # activations are freed while gradients are made: the smaller of both is there once
        kept -= min(kept, gradients / split)
    making = _temporaries(config, shape, counted, place, batch)
    lost = FRAGMENTED_GPU * (kept + making) if place.gpu else _lost_in_heap(config, shape, counted, place, batch)
    offloaded = config.parallelism.offload and split > 1
    if offloaded:
        weights = gradients = optimizer = 0
    workspace = copies + making + lost
    return Memory(
        weights=round(weights / split),
        gradients=round(gradients / split),
        optimizer=round(optimizer / split),
        activations=round(kept),
        logits=round(logits),
        workspace=round(workspace),
        process=round(PROCESS_GPU if place.gpu else PROCESS_CPU),
    )


def weight_bytes(config: Config, shape: Shape, counted: Parameters, place: Placement) -> float:
    """Bytes of all weights as they are stored: trained ones in fp32, frozen ones as narrow as the settings say."""
    stored = _stored_bytes(config, place)
    return _base_bytes(config, shape, counted, stored) + 4 * (counted.total - counted.base)


def _stored_bytes(config: Config, place: Placement) -> int:
    return 4 if config.adapter.kind == FULL else _frozen_bytes(config, place)


def _frozen_bytes(config: Config, place: Placement) -> int:
    stored = {"fp32": 4, "bf16": 2, "fp16": 2}
    return stored.get(config.model.dtype, place.compute_bytes)


def _base_bytes(config: Config, shape: Shape, counted: Parameters, stored: int) -> float:
    bits = config.adapter.bits
    if bits is None:
        return stored * counted.base
    each = DOUBLE_QUANTISED if bits == 4 and config.adapter.double_quant else BITS[bits]
    return each * shape.matrices + stored * (counted.base - shape.matrices)


def activations(config: Config, shape: Shape, counted: Parameters, place: Placement, batch: Batch) -> float:
    """Bytes kept from the forward for the backward pass, at their most."""
    layer = layer_bytes_per_token(config, shape, counted, place) + _weights_per_token(config, shape, place, batch)
    stream = _stream_bytes(config, place) * shape.hidden
    how = config.train.activation_checkpointing
    if how == "on":
        per_token = shape.layers * stream + layer
    elif how == "selective":
        per_token = (shape.layers // 2) * stream + (shape.layers - shape.layers // 2 + 1) * layer
    else:
        per_token = shape.layers * layer
    per_token += 3 * stream  # embedding and last norm
    return batch.tokens * per_token


def _weights_per_token(config: Config, shape: Shape, place: Placement, batch: Batch) -> float:
    """Bytes of attention weights that a layer keeps for each token: those of a packed micro-batch on a CPU, if few."""
    if place.gpu or config.train.packing == "off":
        return 0.0
    kept = shape.heads * BLOCK_WASTE * (batch.seen + QUERY_BLOCK / 2)
    return place.compute_bytes * kept if kept <= KEPT_SCORES * shape.query_size else 0.0


def _stream_bytes(config: Config, place: Placement) -> int:
    """Bytes of a number in the residual stream."""
    if config.adapter.kind == FULL:
        return 4
    return max(place.compute_bytes, _frozen_bytes(config, place))


def layer_bytes_per_token(config: Config, shape: Shape, counted: Parameters, place: Placement) -> float:
    """Bytes that one decoder layer keeps for each token."""
    stream, compute = _stream_bytes(config, place), place.compute_bytes
    kept: float = 2 * stream * shape.hidden + compute * (shape.query_size + 2 * shape.key_value_size)
    kept += compute * (2 if shape.gated else 0) * shape.intermediate
    if shape.normed_heads:
        kept += compute * (shape.query_size + shape.key_value_size)
    if place.gpu:
        kept += compute * shape.query_size + 4 * shape.heads  # attention's output and its log-sum-exp
    if config.adapter.kind != FULL:
        kept += _adapter_bytes_per_token(config, shape, counted.targets, place)
        if not shape.gated and not any(linear.role == "down" for linear in counted.targets):
            kept += compute * shape.intermediate  # what the activation gave
        return kept
    if not shape.gated and stream > compute:  # norms that are not fused hand each reader a copy of its own
        kept += compute * 2 * shape.hidden
    return kept + compute * (2 * shape.hidden + shape.query_size + (0 if shape.gated else shape.intermediate))


def _adapter_bytes_per_token(config: Config, shape: Shape, targets: tuple[Linear, ...], place: Placement) -> float:
    adapter, compute = config.adapter, place.compute_bytes
    kept = float(compute * adapter.rank * len(targets))
    if adapter.dropout:  # a dropped input and a mask for each matrix; on a CPU the mask is as wide as the input
        mask = 1 if place.gpu else compute
        kept += sum((compute + mask) * linear.inputs for linear in targets)
    elif adapter.use_dora and compute < 4:  # each matrix casts its own input
        kept += sum(compute * linear.inputs for linear in targets)
    else:  # one input for all matrices that read it
        read = {_reads(linear): linear.inputs for linear in targets if not (shape.gated and linear.role == "down")}
        kept += compute * sum(read.values())
    if adapter.use_dora:  # what the base and the update gave, for the gradient of the magnitudes
        kept += sum(2 * compute * linear.outputs for linear in targets)
    return kept


def _reads(linear: Linear) -> str:
    return {"query": "norm", "key": "norm", "value": "norm", "gate": "up"}.get(linear.role, linear.role)


def _logits(config: Config, shape: Shape, place: Placement, batch: Batch) -> float:
    """One chunk of logits in the compute precision, what of it is in fp32, and the gradients that the loss keeps."""
    compute = place.compute_bytes
    rows = min(CHUNK, max(1, batch.labels))
    wide = 0 if compute == 4 else 4 * (rows if place.gpu else min(CPU_BLOCK, rows))
    chunk: float = (rows * compute + wide) * shape.vocabulary
    kept = batch.labels * shape.hidden * _stream_bytes(config, place) * 2
    if config.adapter.kind == FULL:
        kept += shape.embedding * 4  # the gradient of the output projection
        chunk += shape.embedding * compute
    return chunk + kept


def _lost_in_heap(config: Config, shape: Shape, counted: Parameters, place: Placement, batch: Batch) -> float:
    """What a CPU's heap holds beside what is in use; the constants are measured."""
    left = HEAP_EMBEDDINGS * 4 * shape.embedding
    if config.adapter.kind == FULL or not counted.targets:
        return left
    widest = max(linear.outputs for linear in counted.targets)
    each = 3 * place.compute_bytes * widest * batch.tokens
    holes = HEAP_HOLES if config.adapter.bits is None else HEAP_HOLES_QUANTISED
    return left + holes[config.train.activation_checkpointing] * shape.layers * each


def _copies(config: Config, shape: Shape, counted: Parameters, place: Placement) -> float:
    """Weights that exist a second time: in the compute precision under autocast, and gathered ones of a split model."""
    compute, stored = place.compute_bytes, _stored_bytes(config, place)
    full = config.adapter.kind == FULL
    copies = 0.0
    if stored > compute:
        copies += compute * (counted.base - (0 if shape.tied else shape.embedding))
    if not full:
        copies += compute * counted.trained if compute < 4 else 0
    if place.split_over > 1:
        root = (1 if shape.tied else 2) * shape.embedding * stored
        layer = _base_bytes(config, shape, counted, stored) / shape.layers
        copies += root + 2 * layer
        if config.parallelism.sharding == "grad_op":
            copies += _base_bytes(config, shape, counted, stored) * (1 - 1 / place.split_over)
        if full:
            copies += 2 * layer + root  # gradients before they are split
    return copies


def _temporaries(config: Config, shape: Shape, counted: Parameters, place: Placement, batch: Batch) -> float:
    """The most that one layer's backward pass needs beside what was kept."""
    compute = place.compute_bytes
    mlp = (4 if shape.gated else 2) * compute * shape.intermediate
    norms = (3 * 4 + 2 * compute) * shape.hidden
    attention = (4 + compute) * 2 * shape.key_value_size + 2 * compute * shape.query_size
    needed = batch.tokens * (max(mlp, attention) + norms)
    if config.adapter.bits is not None:  # one matrix made whole, in fp32 on its way
        needed += max(linear.weights for linear in shape.linears) * (compute + 4)
    return float(needed)
