"""Settings of this process for training on a CPU; must be made before torch is imported.

* Large tensors are kept and reused. By default glibc gives every block over 32 MiB back when it is freed,
  and the next one is mapped and zeroed again, page by page; keeping blocks and asking for huge pages raised
  the throughput of a training step on two CPU cores by about a quarter.
* Compiled matrix products are kept for a few micro-batches only. oneDNN keeps one for each shape, half a MiB, and
  PyTorch keeps another; packed micro-batches all differ in length, so the usual 1,024 of each grow to half a GiB
  (pytorch/pytorch#27971).
* Threads that wait for others spin for a moment, some ten microseconds, and then sleep. A step is thousands of
  short waits, and waking up takes longer than most of them; but a thread that spins while something else has its
  partner's core holds up both. docs/performance.md has the numbers of either.
"""

import ctypes
import os
import sys

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h of glibc
SPINS = "3000"
KEPT_PRODUCTS = "256"  # a micro-batch has some fifty shapes, the same in every layer
_KEEP_BYTES = (1 << 31) - 1


def prepare_host() -> None:
    """Make the settings; whatever the user set in the environment is left as it is."""
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")  # huge pages, read by PyTorch's CPU allocator
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", KEPT_PRODUCTS)
    os.environ.setdefault("LRU_CACHE_CAPACITY", KEPT_PRODUCTS)
    if "OMP_WAIT_POLICY" not in os.environ:  # both are read by OpenMP when it is loaded, the first by GNU's alone
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
    if not sys.platform.startswith("linux") or "MALLOC_TRIM_THRESHOLD_" in os.environ:
        return
    try:
        mallopt = ctypes.CDLL("libc.so.6").mallopt
    except (OSError, AttributeError):
        return  # another C library: its own habits
    mallopt(_M_MMAP_THRESHOLD, 1 << 30)
    mallopt(_M_TRIM_THRESHOLD, _KEEP_BYTES)
