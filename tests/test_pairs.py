"""Adapters, optimizers and shardings that exclude each other are refused before anything is loaded."""

import re
from typing import Any

import pytest
from commands import CHECKOUT
from hydra import compose, initialize_config_dir

from alpaca import cli, paths
from alpaca.checks import check
from alpaca.errors import UserError
from alpaca.pairs import READS, SPLIT, adapter_refused_under, refused_under

ADAPTERS = sorted(file.stem for file in (CHECKOUT / "conf/adapter").glob("*.yaml"))
OPTIMIZERS = sorted(file.stem for file in (CHECKOUT / "conf/optimizer").glob("*.yaml"))
WHOLE_TENSORS = {"adamw_8bit", "paged_adamw_8bit", "adafactor"}


def composed(*overrides: str):
    cli.register()
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        return cli.typed(compose("config", overrides=["model=tiny", "data_source=seed_tasks", *overrides]))


REFUSED = {
    "adapter=full adapter.bits=4": ("adapter.bits=4 with adapter=full", "choose adapter=qlora"),
    "adapter=full adapter.use_dora=true": ("adapter.use_dora=True with adapter=full", "choose adapter=lora"),
    "adapter=full adapter.b_lr_ratio=16": ("adapter.b_lr_ratio=16.0 with adapter=full", "choose adapter=lora"),
    "adapter=lora adapter.bits=5": ("adapter.bits=5", "in 4 or 8 bits"),
    "adapter=qlora adapter.init=pissa": ("adapter.init=pissa with adapter.bits=4", "adapter.init=default"),
    "adapter=dora adapter.init=pissa": ("adapter.init=pissa with adapter.use_dora=true", "adapter=dora"),
    "adapter=qlora_8bit adapter.quant_type=fp4": ("adapter.quant_type=fp4", "set adapter.bits=4"),
    "adapter=lora adapter.double_quant=false": ("adapter.bits=null", "set adapter.bits=4"),
    "optimizer=sgd optimizer.betas=[0.9,0.99]": ("optimizer.betas=[0.9, 0.99]", "sgd has none; set []"),
    "optimizer=adamw optimizer.betas=[]": ("optimizer.betas=[]", "two numbers from 0 to below 1"),
    "optimizer=adamw optimizer.eps=null": ("optimizer.eps=null", "optimizer=adamw needs a number"),
    "optimizer=lion optimizer.eps=1e-8": ("optimizer.eps=1e-08", "optimizer=lion has none; set null"),
    "optimizer=muon optimizer.momentum=null": ("optimizer.momentum=null", "needs a number"),
    "optimizer=adamw optimizer.momentum=0.9": ("optimizer.momentum=0.9", "has none; set null"),
    "optimizer=lion optimizer.state_precision=bf16": ("optimizer.state_precision=bf16", "choose optimizer=adamw"),
    "optimizer=schedule_free optimizer.schedule=cosine": ("optimizer.schedule=cosine", "schedule=constant"),
    "optimizer.schedule=wsd optimizer.warmup=0.5 optimizer.decay_share=0.6": ("optimizer.decay_share=0.6", "lower one"),
    "parallelism=fsdp optimizer=adamw_8bit": ("optimizer=adamw_8bit quantises whole", "choose optimizer=adamw"),
    "parallelism=fsdp optimizer=adafactor": ("optimizer=adafactor takes means", "parallelism=ddp"),
    "parallelism=fsdp optimizer.state_precision=bf16": ("rounds its state by chance", "state_precision=fp32"),
    "parallelism=fsdp adapter=qlora_8bit": ("adapter=qlora_8bit keeps weights as bytes", "set adapter.bits=4"),
}  # fmt: skip


@pytest.mark.parametrize("overrides", REFUSED)
def test_what_excludes_each_other_is_refused_with_reason_and_way_out(overrides: str):
    reason, way_out = REFUSED[overrides]
    with pytest.raises(UserError, match=rf"{re.escape(reason)}.*{re.escape(way_out)}"):
        check(composed(*overrides.split()))


@pytest.fixture(scope="module")
def shipped() -> dict[str, dict[str, Any]]:
    """Every adapter and optimizer as its YAML composes."""
    return {
        "adapter": {name: composed(f"adapter={name}").adapter for name in ADAPTERS},
        "optimizer": {name: composed(f"optimizer={name}").optimizer for name in OPTIMIZERS},
    }


def test_every_adapter_goes_with_every_optimizer_on_one_device(shipped: dict[str, dict[str, Any]]):
    config = composed()
    for config.adapter in shipped["adapter"].values():
        for config.optimizer in shipped["optimizer"].values():
            check(config)


def test_split_weights_go_with_what_works_on_parts(shipped: dict[str, dict[str, Any]]):
    for sharding in ("none", "replicate", *SPLIT):
        optimizers = {name for name, one in shipped["optimizer"].items() if refused_under(one, sharding)}
        adapters = {name for name, one in shipped["adapter"].items() if adapter_refused_under(one, sharding)}
        split = sharding in SPLIT
        assert (optimizers, adapters) == ((WHOLE_TENSORS, {"qlora_8bit"}) if split else (set(), set()))


def test_every_rule_says_which_settings_it_reads():
    assert READS.keys() == set(OPTIMIZERS)
