"""How one model is spread over ranks: a copy on each (DDP), or its weights split (FSDP2).

Every rank starts from the same whole model: equal seeds draw equal weights. FSDP splits by the classes
the model itself calls indivisible (`_no_split_modules`), so no list of layer names is kept here. Weights
travel in the precision they are stored in and are cast where they are used, as on one device, so that
the numbers do not depend on the sharding.
"""

import warnings
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from alpaca.config import ParallelismConfig
from alpaca.modeling.layers import repeated_layers
from alpaca.training.world import World

REPLICATE, GRAD_OP, HYBRID = "replicate", "grad_op", "hybrid"


def spread(model: nn.Module, config: ParallelismConfig, world: World, device: torch.device) -> nn.Module:
    """The model as this rank trains it; call its forward, never that of a part."""
    if world.alone:
        return model
    if config.sharding == REPLICATE:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # its new name is not in torch 2.11
            return DistributedDataParallel(
                model,
                device_ids=[device] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
    shape: tuple[int, ...] = (world.size,)
    names: tuple[str, ...] = ("shard",)
    if config.sharding == HYBRID:
        shape, names = (world.size // world.local_size, world.local_size), ("replicate", "shard")
    policy = CPUOffloadPolicy() if config.offload else OffloadPolicy()
    settings: Any = {
        "mesh": init_device_mesh(device.type, shape, mesh_dim_names=names),
        "reshard_after_forward": config.sharding != GRAD_OP,
        "offload_policy": policy,
    }
    root = whole(model)
    for layer in repeated_layers(root):
        fully_shard(layer, **settings)
    fully_shard(root, **settings)
    return model


def without_wrapper(model: Any) -> Any:
    """The model under DDP, if that is around it."""
    return model.module if isinstance(model, DistributedDataParallel) else model


def whole(model: Any) -> Any:
    """The causal language model itself, under DDP and PEFT."""
    inner = without_wrapper(model)
    return inner.get_base_model() if hasattr(inner, "get_base_model") else inner


def is_sharded(model: Any) -> bool:
    """Whether the weights are split over ranks."""
    return isinstance(whole(model), FSDPModule)


def collect_gradients(model: Any, wanted: bool) -> None:
    """Whether the next backward passes exchange gradients: only a step's last one need."""
    if isinstance(model, DistributedDataParallel):
        model.require_backward_grad_sync = wanted
    elif is_sharded(model):
        whole(model).set_requires_gradient_sync(wanted)


def gathered(tensor: torch.Tensor) -> torch.Tensor:
    """The whole of a tensor that may be split; every rank must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def trained(model: Any) -> dict[str, nn.Parameter]:
    """Trained parameters by name, as the model without wrappers calls them."""
    return {name: found for name, found in without_wrapper(model).named_parameters() if found.requires_grad}


def whole_weights(model: Any, *, keep: bool) -> dict[str, torch.Tensor] | None:
    """Every rank gathers; with `keep` the state dict to save, on the CPU. None where the model is not split.

    Of an adapter only the trained tensors are gathered: its base is saved by nobody.
    """
    if not is_sharded(model):
        return None
    inner = without_wrapper(model)
    names = set(trained(model)) if hasattr(inner, "peft_config") else None
    parameters = dict(inner.named_parameters(remove_duplicate=False))
    kept: dict[str, torch.Tensor] = {}
    first_name: dict[int, str] = {}  # tied weights stay one tensor, so that they are saved once
    for name, tensor in inner.state_dict().items():
        if names is not None and name not in names:
            continue
        same = first_name.setdefault(id(parameters.get(name, tensor)), name)
        if same == name:
            full = gathered(tensor.detach())
            if keep:
                kept[name] = full.cpu()
        elif keep:
            kept[name] = kept[same]
    return kept
