"""Settings on a model's layers: activation checkpointing, compilation, dropout."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn


def repeated_layers(model: Any) -> list[nn.Module]:
    """The model's decoder layers in order, found by the class names it gives itself (`_no_split_modules`)."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    names = set(inner._no_split_modules or ())
    return [module for module in inner.modules() if type(module).__name__ in names]


def checkpoint_activations(model: Any, how: str) -> None:
    """`on`: every layer makes its activations again in the backward pass; `selective`: every second; `off`: none."""
    if how == "off":
        return
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if how == "selective":
        for layer in repeated_layers(model)[1::2]:
            layer.gradient_checkpointing = False  # type: ignore[assignment]


def dropout_settings(model: nn.Module) -> list[tuple[nn.Module, str]]:
    """Where the model draws random numbers when it trains: modules and the attribute that holds how much, above 0.

    Some models call the function with a number they keep (OPT's `dropout`) instead of a module; routers of experts
    may add noise (`jitter`).
    """
    found = []
    for module in model.modules():
        names = ["p"] if isinstance(module, nn.Dropout) else [name for name in vars(module) if _RANDOM.search(name)]
        found += [(module, name) for name in names if _is_probability(getattr(module, name))]
    return found


@contextmanager
def without_dropout(model: nn.Module) -> Iterator[None]:
    """The model in training mode, so that checkpointing and compilation are as they will be, but without dropout."""
    training = model.training
    settings = [(module, name, getattr(module, name)) for module, name in dropout_settings(model)]
    model.train()
    for module, name, _ in settings:
        setattr(module, name, 0.0)
    try:
        yield
    finally:
        for module, name, before in settings:
            setattr(module, name, before)
        model.train(training)


_RANDOM = re.compile(r"dropout|pdrop|layerdrop|jitter")


def _is_probability(value: Any) -> bool:
    return isinstance(value, float) and value > 0


def compile_layers(model: Any) -> None:
    """Compile each layer on its own, sizes left open: one compilation serves all layers and all micro-batches."""
    for layer in repeated_layers(model):
        layer.compile(dynamic=True)
