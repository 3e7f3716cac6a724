"""What the chosen adapter and optimizer ask of this machine, looked at before any weight or row is loaded.

Torch is imported only where the answer depends on it.
"""

from collections.abc import Collection
from importlib.util import find_spec

from alpaca.config import Config
from alpaca.errors import UserError
from alpaca.pairs import EIGHT_BIT

PAGED = "paged_adamw_8bit"


def check_device(config: Config) -> list[str]:
    """Lines about what will run otherwise than its name says.

    Raises:
        UserError: bitsandbytes is needed and missing, or was built without this machine's GPU.
    """
    setting = f"adapter.bits={config.adapter.bits}"
    if config.optimizer.kind in EIGHT_BIT:
        setting = f"optimizer={config.optimizer.name or config.optimizer.kind}"
    elif config.adapter.bits is None:
        return []
    require_bitsandbytes(setting)
    import torch

    if torch.cuda.is_available():
        from alpaca.modeling.quantised import quiet_import

        with quiet_import():
            from bitsandbytes.cextension import lib
        if not getattr(lib, "compiled_with_cuda", False):
            raise UserError(
                f"{setting}: the installed bitsandbytes has no kernels for this GPU; install the bitsandbytes that "
                "matches your CUDA, or choose adapter=lora optimizer=adamw"
            )
    elif config.optimizer.kind == PAGED:
        return ["optimizer=paged_adamw_8bit: a CPU has nothing to page to, so its state stays where it is (adamw_8bit)"]
    return []


def require_bitsandbytes(setting: str) -> None:
    """Raise `UserError` where `setting` needs a bitsandbytes that is not there."""
    if find_spec("bitsandbytes") is None:
        raise UserError(
            f"{setting}: needs bitsandbytes, which is not installed; install it with: pip install bitsandbytes"
        )


def multiplies_bf16(flags: Collection[str], isa_limit: str = "") -> bool:
    """Whether a CPU multiplies bf16 matrices by instructions of its own: the rule of `train.precision=auto`.

    Args:
        flags: names of the instructions it has, as `/proc/cpuinfo` and torch have them.
        isa_limit: `ONEDNN_MAX_CPU_ISA`, the newest instructions that oneDNN, which multiplies matrices, may use.
    """
    limit = isa_limit.upper()
    if limit not in ("", "DEFAULT", "ALL") and not any(part in limit for part in ("BF16", "FP16", "AMX", "AVX10")):
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags
