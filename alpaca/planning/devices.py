"""The table of devices, and the one at hand.

`find` takes the name that a driver gives (`NVIDIA A100-SXM4-80GB`) or one of the table's. torch is never
imported here: a GPU is asked for through `nvidia-smi`, or through torch where something else has loaded it.
"""

import functools
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import yaml

from alpaca.devices import multiplies_bf16

LIST = Path(__file__).with_name("devices.yaml")
CPU = "cpu"


@dataclass(frozen=True)
class Device:
    """One kind of device.

    Attributes:
        name: as in the table, or `cpu`.
        memory_gib: what one has; of a CPU the machine's, which all of a run's processes share.
        peak_tflops, peak_fp32_tflops: 10^12 operations a second at most; of a CPU what a training step reached.
        mfu: share of the peak that a training step is assumed to reach; 1 for a CPU, whose rates are measured.
        link: 10^9 bytes a second that each of several devices sends to the others; None for a CPU's processes.
        dollars_per_hour: list price of one; None where nobody has said, as for this machine.
        count: how many there are here; None for a device of the table.
        bf16: whether it computes in bf16.
        listed: whether a plan shows it without being asked.
    """

    name: str
    memory_gib: float
    peak_tflops: float
    peak_fp32_tflops: float
    mfu: float
    link: float | None = None
    dollars_per_hour: float | None = None
    count: int | None = None
    bf16: bool = True
    listed: bool = True

    @property
    def is_cpu(self) -> bool:
        """Whether its processes share the host's memory."""
        return self.name == CPU

    def precision(self, wanted: str) -> str:
        """What `train.precision` means on this device: auto is bf16 where it computes in that, else fp32."""
        return ("bf16" if self.bf16 else "fp32") if wanted == "auto" else wanted

    def rate(self, precision: str) -> float:
        """10^12 operations a second that a training step is taken to reach in `precision`."""
        return self.mfu * (self.peak_fp32_tflops if precision == "fp32" else self.peak_tflops)

    def assumption(self, precision: str) -> str:
        """Where the rate comes from, in words."""
        if self.is_cpu:
            return f"{self.rate(precision) * 1e3:,.0f} GFLOP/s, measured on two cores and scaled to this machine's"
        peak = self.peak_fp32_tflops if precision == "fp32" else self.peak_tflops
        return f"{self.mfu:.0%} of {peak:,.0f} TFLOP/s ({precision}), assumed"


def known_devices(mfu: float | None = None) -> list[Device]:
    """The table; `mfu` takes the place of each device's own assumption."""
    return [_device(name, facts, mfu) for name, facts in _table()["devices"].items()]


def find(device_name: str, mfu: float | None = None) -> Device | None:
    """The device of the table that `device_name` means; None for a CPU or one that is not listed."""
    for name, facts in _table()["devices"].items():
        if device_name.strip().lower() == name.lower():
            return _device(name, facts, mfu)
    for name, facts in _table()["devices"].items():
        if re.search(facts["match"], device_name, re.IGNORECASE):
            return _device(name, facts, mfu)
    return None


@dataclass(frozen=True)
class Links:
    """10^9 bytes a second between nodes, to the host's memory, and within it while it updates weights."""

    network: float
    bus: float
    host_update: float


def links() -> Links:
    """What the table assumes."""
    return Links(**{name: float(_table()[name]) for name in ("network", "bus", "host_update")})


def price_list() -> str:
    """Where the prices come from."""
    table = _table()
    return f"{table['source']}, {table['date']}"


def here(mfu: float | None = None) -> Device:
    """The accelerator of this machine, or its processor where there is none."""
    if (gpu := _gpu()) is None:
        return _processor()
    name, memory_gib, count = gpu
    known = find(name, mfu)
    if known is None:  # a GPU nobody has listed: memory is known, speed is taken as an A100's
        known = find("A100 40GB", mfu)
        assert known is not None
        return replace(known, name=name, memory_gib=memory_gib, dollars_per_hour=None, count=count)
    return replace(known, memory_gib=memory_gib, count=count)


def _device(name: str, facts: dict[str, Any], mfu: float | None) -> Device:
    return Device(
        name,
        facts["memory_gib"],
        facts["peak_tflops"],
        facts["peak_fp32_tflops"],
        facts["mfu"] if mfu is None else mfu,
        facts["link"],
        facts["dollars_per_hour"],
        bf16=facts.get("bf16", True),
        listed=facts.get("listed", True),
    )


@functools.cache
def _table() -> dict[str, Any]:
    return dict(yaml.safe_load(LIST.read_text(encoding="utf-8")))


def _gpu() -> tuple[str, float, int] | None:
    """Name and GiB of the first visible GPU and how many there are; None without one."""
    torch = sys.modules.get("torch")
    if torch is not None:
        if not torch.cuda.is_available():
            return None
        properties = torch.cuda.get_device_properties(0)
        return properties.name, properties.total_memory / 2**30, torch.cuda.device_count()
    return _asked_from_driver()


@functools.cache
def _asked_from_driver() -> tuple[str, float, int] | None:
    program = shutil.which("nvidia-smi")
    if program is None:
        return None
    command = [program, "--query-gpu=name,memory.total", "--format=csv,noheader,nounits"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout
        lines = [line.rsplit(",", 1) for line in found.splitlines() if "," in line]
        return (lines[0][0].strip(), float(lines[0][1]) / 1024, len(lines)) if lines else None
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def _processor() -> Device:
    rates, bf16 = _table()["cpu"], processor_has_bf16()
    cores = psutil.cpu_count(logical=False) or psutil.cpu_count() or 1
    slow, fast = (cores * rates[key] / 1e3 for key in ("gflops_fp32", "gflops_bf16"))
    return Device(CPU, _host_memory() / 2**30, fast if bf16 else slow, slow, 1.0, count=1, bf16=bf16)


def available_gib() -> float:
    """GiB of the host's memory that nothing uses now."""
    return float(psutil.virtual_memory().available) / 2**30


def _host_memory() -> float:
    """Bytes that this machine, or the container around this process, has."""
    total = float(psutil.virtual_memory().total)
    for file in ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"):
        try:
            total = min(total, float(Path(file).read_text(encoding="ascii")))
        except (OSError, ValueError):
            continue  # no such file, or `max`
    return total


def processor_has_bf16() -> bool:
    """Whether this machine's processor multiplies bf16 matrices: the rule of `train.precision=auto`."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return multiplies_bf16(set(text.split()), os.environ.get("ONEDNN_MAX_CPU_ISA", ""))
