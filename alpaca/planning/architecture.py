"""A model's shape from the sizes of its config, by formulas: no weights, no torch.

Known are decoders of the Llama kind (llama, mistral, qwen2, qwen3) and OPT. Another type is
refused.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from alpaca import paths
from alpaca.config import ModelConfig
from alpaca.errors import UserError
from alpaca.signature import RANDOM

ATTENTION, MLP = "attention", "mlp"
LLAMA_KIND = ("llama", "mistral", "qwen2", "qwen3")
OPT_POSITIONS = 2  # OPT's table of positions has two rows more than positions


@dataclass(frozen=True)
class Linear:
    """One linear layer of a decoder layer.

    Attributes:
        name: last part of its name in the model.
        inputs, outputs: its size.
        bias: whether it has one.
        role: what it does: query, key, value, output, gate, up or down.
    """

    name: str
    inputs: int
    outputs: int
    bias: bool
    role: str

    @property
    def weights(self) -> int:
        """Weights of the matrix."""
        return self.inputs * self.outputs

    @property
    def part(self) -> str:
        """`attention` or `mlp`."""
        return ATTENTION if self.role in ("query", "key", "value", "output") else MLP


@dataclass(frozen=True)
class Shape:
    """Sizes of a decoder-only model.

    Attributes:
        hidden, layers, vocabulary: as everywhere.
        query_size, key_value_size: heads x head_dim of queries, and of keys (values are as large).
        linears: the linear layers of one decoder layer.
        layer_rest: other weights of one decoder layer (norms).
        positions: rows of a learned table of positions, 0 without.
        final_rest: weights of the last norm.
        tied: the output projection is the embedding.
        normed_heads: queries and keys have norms of their own.
        gated: the MLP is gated (two matrices in, one out).
        heads, key_value_heads: how many.
    """

    hidden: int
    layers: int
    vocabulary: int
    query_size: int
    key_value_size: int
    heads: int
    key_value_heads: int
    linears: tuple[Linear, ...]
    layer_rest: int
    final_rest: int
    tied: bool
    gated: bool
    normed_heads: bool = False
    positions: int = 0

    @property
    def embedding(self) -> int:
        """Weights of the embedding, and of the output projection where that is its own."""
        return self.vocabulary * self.hidden

    @property
    def intermediate(self) -> int:
        """Width of the MLP."""
        return next(linear.inputs for linear in self.linears if linear.role == "down")

    @property
    def matrices(self) -> int:
        """Weights of all decoder layers' matrices."""
        return self.layers * sum(linear.weights for linear in self.linears)

    @property
    def layer(self) -> int:
        """All weights of one decoder layer."""
        biases = sum(linear.outputs for linear in self.linears if linear.bias)
        return sum(linear.weights for linear in self.linears) + biases + self.layer_rest

    @property
    def parameters(self) -> int:
        """All weights, tied ones once."""
        heads = 1 if self.tied else 2
        return self.layers * self.layer + heads * self.embedding + self.positions * self.hidden + self.final_rest


def shape(model: ModelConfig) -> Shape:
    """The shape of `model`: from its folder's config.json, else from the sizes of its YAML.

    Raises:
        UserError: no sizes, or sizes that do not make a model.
    """
    sizes = sizes_of(model)
    kind = str(sizes.get("model_type"))
    try:
        if kind in LLAMA_KIND:
            return _llama(sizes, kind)
        if kind == "opt":
            return _opt(sizes)
    except (KeyError, TypeError, ValueError, ZeroDivisionError) as error:
        raise UserError(
            f"model={model.name}: its architecture has no usable {str(error).strip(chr(39))}; a {kind} needs "
            "hidden_size, num_hidden_layers, num_attention_heads, vocab_size and the width of its MLP"
        ) from None
    raise UserError(
        f"model={model.name}: model_type={kind} cannot be planned; planned are {', '.join((*LLAMA_KIND, 'opt'))}"
    )


def sizes_of(model: ModelConfig) -> dict[str, Any]:
    """The settings of transformers' config for `model`, by name.

    Raises:
        UserError: they are nowhere on this machine.
    """
    if model.weights != RANDOM and (folder := weights_folder(model.weights)) is not None:
        try:
            return dict(json.loads((folder / "config.json").read_text(encoding="utf-8")))
        except (OSError, ValueError):
            raise UserError(
                f"model.weights={model.weights}: no readable config.json in that folder; give the folder of a model"
            ) from None
    if model.architecture.get("model_type"):
        return model.architecture
    raise UserError(
        f"model={model.name or model.weights}: its sizes are not known here; give model.architecture "
        "(model_type, hidden_size, ...) or a local folder, model.weights=DIR"
    )


def weights_folder(weights: str) -> Path | None:
    """The folder that `model.weights` names; None for a hub id, a package or `random`."""
    if weights == RANDOM or weights.startswith(paths.PACKAGE_PREFIX):
        return None
    folder = Path(weights).expanduser()
    return folder if folder.is_dir() else None


def _llama(sizes: dict[str, Any], kind: str) -> Shape:
    hidden, heads = int(sizes["hidden_size"]), int(sizes["num_attention_heads"])
    wide = int(sizes["intermediate_size"])
    key_value_heads = int(sizes.get("num_key_value_heads") or heads)
    head_dim = int(sizes.get("head_dim") or hidden // heads)
    query, key = heads * head_dim, key_value_heads * head_dim
    biased = kind == "qwen2" or bool(sizes.get("attention_bias", False))
    mlp_biased = bool(sizes.get("mlp_bias", False))
    output_biased = biased and kind != "qwen2"
    linears = (
        Linear("q_proj", hidden, query, biased, "query"),
        Linear("k_proj", hidden, key, biased, "key"),
        Linear("v_proj", hidden, key, biased, "value"),
        Linear("o_proj", query, hidden, output_biased, "output"),
        Linear("gate_proj", hidden, wide, mlp_biased, "gate"),
        Linear("up_proj", hidden, wide, mlp_biased, "up"),
        Linear("down_proj", wide, hidden, mlp_biased, "down"),
    )
    return Shape(
        hidden=hidden,
        layers=int(sizes["num_hidden_layers"]),
        vocabulary=int(sizes["vocab_size"]),
        query_size=query,
        key_value_size=key,
        heads=heads,
        key_value_heads=key_value_heads,
        linears=linears,
        layer_rest=2 * hidden + (2 * head_dim if kind == "qwen3" else 0),
        final_rest=hidden,
        tied=bool(sizes.get("tie_word_embeddings", kind == "qwen2")),
        gated=True,
        normed_heads=kind == "qwen3",
    )


def _opt(sizes: dict[str, Any]) -> Shape:
    hidden, heads, wide = int(sizes["hidden_size"]), int(sizes["num_attention_heads"]), int(sizes["ffn_dim"])
    if int(sizes.get("word_embed_proj_dim") or hidden) != hidden:
        raise ValueError("word_embed_proj_dim (only one equal to hidden_size is planned)")
    names = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "output"))
    attention = tuple(Linear(name, hidden, hidden, True, role) for name, role in names)
    mlp = (Linear("fc1", hidden, wide, True, "up"), Linear("fc2", wide, hidden, True, "down"))
    return Shape(
        hidden=hidden,
        layers=int(sizes["num_hidden_layers"]),
        vocabulary=int(sizes["vocab_size"]),
        query_size=hidden,
        key_value_size=hidden,
        heads=heads,
        key_value_heads=heads,
        linears=attention + mlp,
        layer_rest=4 * hidden,
        final_rest=2 * hidden if sizes.get("do_layer_norm_before", True) else 0,
        tied=bool(sizes.get("tie_word_embeddings", True)),
        gated=False,
        positions=int(sizes["max_position_embeddings"]) + OPT_POSITIONS,
    )
