"""The sections about the model: base, and which weights are trained."""

from dataclasses import dataclass
from typing import Any

from alpaca.config.fields import NOTHING, TRAINING, setting


@dataclass
class ModelConfig:
    """The base model: where its weights come from and what shape it has."""

    name: str = setting("", NOTHING, "Name of the YAML; appears in tags and tables.")
    weights: str = setting(
        "",
        TRAINING,
        "Hub id, local folder, `package:MODULE/FILE.gguf` (a GGUF inside an installed package), or `random`.",
    )
    revision: str | None = setting(None, TRAINING, "Hub commit, tag or branch; null takes the newest and records it.")
    architecture: dict[str, Any] = setting(
        {}, TRAINING, "Sizes by the names of the model's transformers config; builds `random` weights."
    )
    dtype: str = setting(
        "auto",
        TRAINING,
        "Storage of frozen weights; auto is the compute precision. Trained weights are always fp32.",
        choices=("auto", "fp32", "bf16", "fp16"),
    )
    attention: str = setting(
        "auto",
        NOTHING,
        "Kernel for packed rows: segment (matrix products per segment, any device), varlen (GPU); auto chooses.",
        choices=("auto", "segment", "varlen"),
    )
    hub_id: str = setting(
        "",
        NOTHING,
        "Hub id of the original of `package:` weights; named in adapter_config.json and cards for those without "
        "the package.",
    )
    license: str = setting("", NOTHING, "SPDX-like name of the weights' licence.")
    license_note: str = setting("", NOTHING, "What the licence means for the result, in one sentence.")


@dataclass
class AdapterConfig:
    """Which weights are trained."""

    name: str = setting("", NOTHING, "Name of the YAML; appears in tags and tables.")
    kind: str = setting("full", TRAINING, "full trains every weight, lora low-rank updates.", choices=("full", "lora"))
    rank: int = setting(8, TRAINING, "The LoRA rank", at_least=1)
    alpha: float = setting(16, TRAINING, "LoRA scaling: updates are multiplied by alpha / rank; it", above=0)
    dropout: float = setting(0.0, TRAINING, "Dropout before the LoRA A matrices", at_least=0, at_most=0.95)
    targets: list[str] = setting(
        [],
        TRAINING,
        "Linear layers that get LoRA: roles (all, attention, query_value, mlp) or names; empty means all.",
    )
    default_lr: float = setting(2e-5, TRAINING, "Peak learning rate where optimizer.lr is null", above=0)
    b_lr_ratio: float = setting(
        1.0, TRAINING, "LoRA+: the learning rate of the B matrices is this many times that of A", above=0
    )
    use_dora: bool = setting(False, TRAINING, "DoRA: a trained magnitude for each output beside the low-rank update.")
    use_rslora: bool = setting(False, TRAINING, "rsLoRA: updates are scaled by alpha / sqrt(rank).")
    init: str = setting(
        "default",
        TRAINING,
        "First A and B: default (uniform A, B zero), gaussian (normal A, B zero), pissa (principal singular "
        "vectors, taken out of the base).",
        choices=("default", "gaussian", "pissa"),
    )
    bits: int | None = setting(None, TRAINING, "Frozen linear layers in 4 or 8 bits; null leaves them as they are.")
    quant_type: str = setting("nf4", TRAINING, "Code of 4-bit weights.", choices=("nf4", "fp4"))
    double_quant: bool = setting(True, TRAINING, "Quantise the scales of 4-bit weights too: 0.37 bits a weight less.")
