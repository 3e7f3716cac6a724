"""Which adapters, optimizers and ways to shard go together; what does not is refused before anything is loaded.

Every refusal says why and names the nearest pair that works. No torch here: static checks read this.
"""

from alpaca.config import AdapterConfig, Config, OptimizerConfig
from alpaca.errors import UserError

SPLIT = ("full", "grad_op", "hybrid")  # values of parallelism.sharding that split weights over devices
EIGHT_BIT = ("adamw_8bit", "paged_adamw_8bit")

# Which settings a rule reads: betas, eps, momentum.
READS = {
    "adamw": ("betas", "eps"),
    "adamw_8bit": ("betas", "eps"),
    "paged_adamw_8bit": ("betas", "eps"),
    "adafactor": ("eps",),
    "lion": ("betas",),
    "muon": ("betas", "eps", "momentum"),
    "schedule_free": ("betas", "eps"),
    "sgd": ("momentum",),
}


def check_pairs(config: Config) -> None:
    """Raise `UserError` for settings of adapter, optimizer and parallelism that exclude each other."""
    _check_adapter(config.adapter)
    _check_optimizer(config.optimizer)
    sharding = config.parallelism.sharding
    if reason := refused_under(config.optimizer, sharding) or adapter_refused_under(config.adapter, sharding):
        raise UserError(f"parallelism={config.parallelism.name}: {reason}")


def refused_under(optimizer: OptimizerConfig, sharding: str) -> str | None:
    """Why `optimizer` cannot run under `sharding`, with the nearest that can; None if it can."""
    if sharding not in SPLIT:
        return None
    what = f"optimizer={optimizer.name or optimizer.kind}"
    if optimizer.kind in EIGHT_BIT:
        return f"{what} quantises whole tensors and cannot see split ones; choose optimizer=adamw or parallelism=ddp"
    if optimizer.kind == "adafactor":
        return f"{what} takes means over whole rows and columns; choose optimizer=adamw or parallelism=ddp"
    if optimizer.state_precision == "bf16":
        return f"{what} rounds its state by chance on whole tensors; set optimizer.state_precision=fp32"
    return None


def adapter_refused_under(adapter: AdapterConfig, sharding: str) -> str | None:
    """Why `adapter` cannot run under `sharding`, with the nearest that can; None if it can."""
    if sharding in SPLIT and adapter.bits == 8:
        return (
            f"adapter={adapter.name} keeps weights as bytes, which are not split; set adapter.bits=4 or parallelism=ddp"
        )
    return None


def _check_adapter(adapter: AdapterConfig) -> None:
    default = AdapterConfig()
    if adapter.kind == "full":
        for key in ("bits", "use_dora", "use_rslora", "init", "b_lr_ratio", "dropout", "targets"):
            if (value := getattr(adapter, key)) != getattr(default, key):
                nearest = "adapter=qlora" if key == "bits" else "adapter=lora"
                raise UserError(
                    f"adapter.{key}={value} with adapter={adapter.name}: full fine-tuning has no LoRA and trains every "
                    f"weight; choose {nearest}"
                )
        return
    if adapter.bits not in (None, 4, 8):
        raise UserError(f"adapter.bits={adapter.bits}: bases are stored in 4 or 8 bits; null leaves them as they are")
    if adapter.init == "pissa" and adapter.bits is not None:
        raise UserError(
            f"adapter.init=pissa with adapter.bits={adapter.bits}: the base changes first, and its quantised form "
            "would not be anyone else's; set adapter.bits=null (adapter=pissa) or adapter.init=default (adapter=qlora)"
        )
    if adapter.init == "pissa" and adapter.use_dora:
        raise UserError(
            "adapter.init=pissa with adapter.use_dora=true: magnitudes of a changed base cannot be saved for the base "
            "as it was; set adapter.init=default (adapter=dora) or adapter.use_dora=false (adapter=pissa)"
        )
    if adapter.bits != 4 and (adapter.quant_type, adapter.double_quant) != (default.quant_type, default.double_quant):
        raise UserError(
            f"adapter.quant_type={adapter.quant_type}, adapter.double_quant={str(adapter.double_quant).lower()} with "
            f"adapter.bits={'null' if adapter.bits is None else adapter.bits}: only 4-bit weights read them; "
            "set adapter.bits=4"
        )


def _check_optimizer(optimizer: OptimizerConfig) -> None:
    kind, reads = optimizer.kind, READS[optimizer.kind]
    wanted = 2 if "betas" in reads else 0
    if len(optimizer.betas) != wanted or not all(0 <= beta < 1 for beta in optimizer.betas):
        rule = "two numbers from 0 to below 1, such as [0.9,0.999]" if wanted else f"{kind} has none; set []"
        raise UserError(f"optimizer.betas={optimizer.betas}: {rule}")
    for key in ("eps", "momentum"):
        value = getattr(optimizer, key)
        if (value is None) == (key in reads):
            rule = f"optimizer={kind} needs a number" if value is None else f"optimizer={kind} has none; set null"
            raise UserError(f"optimizer.{key}={'null' if value is None else value}: {rule}")
    if kind != "adamw" and optimizer.state_precision != "fp32":
        raise UserError(
            f"optimizer.state_precision={optimizer.state_precision} with optimizer={optimizer.name}: only adamw stores "
            "its state so; choose optimizer=adamw, or optimizer=adamw_8bit for 2 bytes a weight"
        )
    if kind == "schedule_free" and optimizer.schedule != "constant":
        raise UserError(
            f"optimizer.schedule={optimizer.schedule} with optimizer={optimizer.name}: averaging takes the place of a "
            "falling rate; set optimizer.schedule=constant, or choose optimizer=adamw"
        )
    if optimizer.schedule == "wsd" and optimizer.warmup < 1 and optimizer.warmup + optimizer.decay_share > 1:
        raise UserError(
            f"optimizer.decay_share={optimizer.decay_share} with optimizer.warmup={optimizer.warmup}: together they "
            "are more than all steps; lower one of them"
        )
