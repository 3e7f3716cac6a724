"""Running out of memory: how it is recognised on every device, and what to change by how much."""

import contextlib
import gc
from collections.abc import Iterator

import torch

from alpaca.config import Config
from alpaca.errors import RunFailed
from alpaca.training.batches import Layout

_CPU_WORDS = ("DefaultCPUAllocator", "can't allocate memory", "Cannot allocate memory", "std::bad_alloc")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out: on an accelerator, or refused by the system on a CPU."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _CPU_WORDS)


def release_memory() -> None:
    """Give back what a failed step still holds."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def out_of_memory(config: Config, layout: Layout, longest: int) -> str:
    """The advice: what to change, by how much, in the order in which it costs least."""
    train, ways = config.train, []
    half = layout.micro_batch_tokens // 2
    if half >= longest:
        ways.append(f"train.micro_batch_tokens={half} (now {layout.micro_batch_tokens}; about half the activations)")
        if config.parallelism.sharding == "none" and train.on_oom != "halve_micro_batch":
            ways.append("train.on_oom=halve_micro_batch (does that by itself)")
    if train.activation_checkpointing != "on":
        ways.append("train.activation_checkpointing=on (about a tenth of the activations, a third more time)")
    if config.adapter.kind == "full":
        ways.append("adapter=lora (no gradients and optimizer state of the base) or adapter=qlora (4-bit base)")
        if config.optimizer.kind == "adamw" and config.optimizer.state_precision == "fp32":
            ways.append("optimizer.state_precision=bf16 (half the optimizer's state)")
    if config.parallelism.sharding in ("none", "replicate"):
        ways.append("parallelism=fsdp (weights and state split over the devices)")
    elif not config.parallelism.offload:
        ways.append("parallelism=fsdp_offload (state in the host's memory)")
    return "out of memory; in order of what it costs, set " + ", or ".join(ways)


@contextlib.contextmanager
def memory_advice(config: Config, layout: Layout, longest: int | None = None) -> Iterator[None]:
    """Turn running out of memory anywhere inside into that advice."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise RunFailed(out_of_memory(config, layout, longest or config.train.max_length)) from error
