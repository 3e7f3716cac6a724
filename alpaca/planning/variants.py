"""Other ways to run the same thing: more devices, checkpointing, smaller micro-batches, another adapter.

The first three change no number of the run; an adapter is another experiment and says so. Changes are
ordered by how much they change: what the user typed is kept as long as something fits with it.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

from omegaconf import OmegaConf

from alpaca import paths
from alpaca.config import AdapterConfig, Config, ParallelismConfig
from alpaca.errors import UserError
from alpaca.pairs import SPLIT, check_pairs
from alpaca.planning.devices import Device
from alpaca.planning.estimate import Estimate, Planner
from alpaca.planning.schedule import QUICK

Section = TypeVar("Section")

COUNTS = (1, 2, 4, 8)
SMALLER = ("lora", "qlora")  # adapters that a plan tries in place of what does not fit


@dataclass(frozen=True)
class Variant:
    """One way to run, and what to type for it.

    Attributes:
        config: the whole of it.
        devices: how many.
        overrides: what differs from what the user typed.
        same_numbers: whether it trains the same experiment.
        distance: how much it changes; small is near.
    """

    config: Config
    devices: int
    overrides: tuple[str, ...]
    same_numbers: bool
    distance: int


@dataclass(frozen=True)
class Choice:
    """A variant on a device, and its plan."""

    variant: Variant
    estimate: Estimate


def over(config: Config, devices: int) -> Config:
    """The same run on `devices`: one holds everything, several as `parallelism` says, for single copies (ddp)."""
    parallelism = config.parallelism
    if devices == 1:
        return replace(config, parallelism=_parallelism("single"))
    if parallelism.sharding == "none":
        parallelism = _parallelism("ddp")
    return replace(config, parallelism=replace(parallelism, devices=devices // parallelism.nodes))


def wanted_counts(config: Config) -> tuple[int, ...]:
    """Numbers of devices a plan shows: the one that is set, else 1, 2, 4 and 8, as far as nodes divide them."""
    parallelism = config.parallelism
    if parallelism.sharding != "none" and parallelism.devices is not None:
        return (parallelism.devices * parallelism.nodes,)
    if parallelism.nodes > 1:
        return tuple(count * parallelism.nodes for count in COUNTS)
    return COUNTS


def counts_here(config: Config, device: Device) -> tuple[int, ...]:
    """Numbers of devices that a run on this machine, or on as many like it as `parallelism.nodes` says, can have."""
    nodes = config.parallelism.nodes
    return tuple(nodes * each for each in range(1, (device.count or 1) + 1))


def variants(config: Config, counts: tuple[int, ...]) -> list[Variant]:
    """Every variant that is allowed, the nearest first."""
    found = list(_variants(config, counts))
    return sorted(found, key=lambda variant: variant.distance)


def nearest(planner: Planner, device: Device, counts: tuple[int, ...]) -> Choice | None:
    """The smallest change with which the run fits on `device`, none being the smallest of all; None if nothing does."""
    for variant in variants(planner.config, counts):
        found = planner.estimate(device, variant.devices, variant.config, look_at=QUICK)
        if found.fits:
            return Choice(variant, found)
    return None


def cheapest(planner: Planner, devices: list[Device], *, same_numbers: bool) -> Choice | None:
    """The variant that costs least on any of `devices`; with `same_numbers` only those of the same experiment."""
    best: Choice | None = None
    for variant in variants(planner.config, wanted_counts(planner.config)):
        if same_numbers and not variant.same_numbers:
            continue
        for device in devices:
            found = planner.estimate(device, variant.devices, variant.config, look_at=QUICK)
            if found.dollars is None or not found.fits:
                continue
            if best is None or found.dollars < (best.estimate.dollars or 0) * 0.999:
                best = Choice(variant, found)
    return best


def _variants(config: Config, counts: tuple[int, ...]) -> Iterator[Variant]:
    own = config.parallelism.sharding
    for adapter, farther in _adapters(config):
        for how, again in (("off", 0), ("selective", 1), ("on", 2)):
            current = config.train.activation_checkpointing
            if again < ("off", "selective", "on").index(current):
                continue
            for small in (False, True):
                if small and config.train.micro_batch_tokens == config.train.max_length:
                    continue
                for devices in counts:
                    for split in (False, True) if devices > 1 and own not in SPLIT else (False,):
                        yield from _variant(config, adapter, farther, how, small, devices, split, counts)


def _variant(
    config: Config,
    adapter: AdapterConfig,
    farther: int,
    how: str,
    small: bool,
    devices: int,
    split: bool,
    counts: tuple[int, ...],
) -> Iterator[Variant]:
    """The variant with these settings, if they go together."""
    overrides: list[str] = []
    distance = farther
    if adapter is not config.adapter:
        overrides.append(f"adapter={adapter.name}")
    made = over(replace(config, adapter=adapter), devices)
    if split:
        made = replace(made, parallelism=replace(_parallelism("fsdp"), devices=devices))
    if made.parallelism.name != config.parallelism.name:
        overrides.append(f"parallelism={made.parallelism.name}")
    if devices > 1 and (made.parallelism.devices != config.parallelism.devices or made.parallelism.name == "fsdp"):
        overrides.append(f"parallelism.devices={made.parallelism.devices}")
    distance += 8 * counts.index(devices) + (4 if split else 0)
    train = made.train
    if how != train.activation_checkpointing:
        overrides.append(f"train.activation_checkpointing={how}")
        distance += {"selective": 1, "on": 2}[how]
    if small:
        overrides.append(f"train.micro_batch_tokens={train.max_length}")
        train = replace(train, micro_batch_tokens=train.max_length)
        distance += 3
    made = replace(made, train=replace(train, activation_checkpointing=how))
    try:
        check_pairs(made)
    except UserError:
        return
    yield Variant(made, devices, tuple(overrides), adapter is config.adapter, distance)


def _adapters(config: Config) -> Iterator[tuple[AdapterConfig, int]]:
    """The chosen adapter, and those that need less memory; each 100 farther."""
    yield config.adapter, 0
    if config.adapter.bits is not None:
        return
    for place, name in enumerate(SMALLER, 1):
        if name == "lora" and config.adapter.kind != "full":
            continue
        yield _adapter(name), 100 * place


@functools.cache
def _adapter(name: str) -> AdapterConfig:
    """The section of adapter=NAME; one object for all, so nobody may change it."""
    return _section(AdapterConfig, paths.conf_dir() / "adapter" / f"{name}.yaml")


@functools.cache
def _parallelism(name: str) -> ParallelismConfig:
    """The section of parallelism=NAME; likewise."""
    return _section(ParallelismConfig, paths.conf_dir() / "parallelism" / f"{name}.yaml")


def _section(kind: type[Section], file: Path) -> Section:
    merged = OmegaConf.merge(OmegaConf.structured(kind), OmegaConf.load(file))
    made = OmegaConf.to_object(merged)
    assert isinstance(made, kind)
    return made
