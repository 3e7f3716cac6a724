"""What may run on split weights takes the same steps there: FSDP2 on two processes against one."""

import os
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import distributed as dist
from torch.distributed.fsdp import fully_shard

HERE = Path(__file__).resolve().parent
BOUND = {"muon": 2e-4}  # its products are bf16, and their sums are taken in another order
ADAPTERS: dict[str, dict[str, Any]] = {
    "lora": {},
    "dora": {"use_dora": True},
    "pissa": {"init": "pissa"},
    "qlora": {"bits": 4},
    "qdora": {"bits": 4, "use_dora": True},
}
IDS = torch.arange(3, 83).view(2, 40)


def pairs() -> list[tuple[str, str]]:
    """Adapter and optimizer: every rule that is not refused on every weight, every adapter with AdamW."""
    from commands import CHECKOUT
    from omegaconf import OmegaConf

    from alpaca.config import OptimizerConfig
    from alpaca.pairs import refused_under

    shipped = {
        file.stem: OptimizerConfig(**OmegaConf.to_object(OmegaConf.load(file)))
        for file in sorted((CHECKOUT / "conf/optimizer").glob("*.yaml"))
    }
    allowed = [name for name, optimizer in shipped.items() if refused_under(optimizer, "full") is None]
    return [("full", name) for name in allowed] + [(adapter, "adamw") for adapter in ADAPTERS]


def losses(adapter: str, optimizer: str, *, split: bool) -> list[float]:
    """Losses of six steps over two sequences; split, each rank has one of them."""
    from commands import CHECKOUT
    from omegaconf import OmegaConf
    from tiny_models import FULL, LORA, family
    from transformers import AutoConfig, AutoModelForCausalLM

    from alpaca.config import OptimizerConfig
    from alpaca.modeling.adapters import add_adapter
    from alpaca.modeling.layers import repeated_layers
    from alpaca.modeling.quantised import made_exact, quantisation, quantise
    from alpaca.training.optimizers import build_optimizer

    chosen = FULL if adapter == "full" else replace(LORA, **ADAPTERS[adapter])
    sizes = dict(family("llama", hidden_size=64))
    torch.manual_seed(0)
    model: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model(sizes.pop("model_type"), **sizes))
    if chosen.bits:
        quantise(model, quantisation(chosen, torch.float32))
        made_exact(model)
    model = add_adapter(model, chosen, seed=0).train()
    root = model if adapter == "full" else model.get_base_model()
    if split:
        for layer in repeated_layers(model):
            fully_shard(layer)
        fully_shard(root)
    config = OptimizerConfig(**OmegaConf.to_object(OmegaConf.load(CHECKOUT / f"conf/optimizer/{optimizer}.yaml")))
    rule = build_optimizer(model, config, 0.1 if optimizer == "sgd" else 1e-2)
    found = []
    for _ in range(6):
        rows = IDS[dist.get_rank()][None] if split else IDS
        loss = model(input_ids=rows, labels=rows, use_cache=False).loss
        loss.backward()
        rule.step()
        rule.zero_grad()
        total = loss.detach().clone()
        if split:
            dist.all_reduce(total)
        found.append(float(total) / (2 if split else 1))
    return found


def rank(number: int, port: int, folder: str) -> None:
    """One of two processes; the first one writes what it found."""
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
    dist.init_process_group("gloo", rank=number, world_size=2)
    for adapter, optimizer in pairs():
        found = losses(adapter, optimizer, split=True)
        if number == 0:
            (Path(folder) / f"{adapter}-{optimizer}").write_text(" ".join(map(repr, found)))
    dist.destroy_process_group()


@pytest.mark.slow
def test_what_is_allowed_on_split_weights_takes_the_steps_of_one_process(tmp_path: Path):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(rank, (port, str(tmp_path)), nprocs=2)
    assert len(pairs()) == 10
    for adapter, optimizer in pairs():
        found = [float(value) for value in (tmp_path / f"{adapter}-{optimizer}").read_text().split()]
        expected = losses(adapter, optimizer, split=False)
        assert expected[-1] < 0.99 * expected[0], "a rank that takes no part would show"
        assert found == pytest.approx(expected, rel=BOUND.get(optimizer, 2e-6)), (adapter, optimizer)
