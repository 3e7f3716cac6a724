"""Config-driven ablations of the Stanford Alpaca recipe: make instruction data, fine-tune on it, compare the runs."""

import sys

__version__ = "0.1.0"

if sys.version_info >= (3, 14):
    from importlib.metadata import version

    if version("hydra-core").startswith("1.3."):  # it ends in a traceback there, while it reads its options
        print("alpaca: hydra-core 1.3 does not start on Python 3.14; use Python 3.11, 3.12 or 3.13", file=sys.stderr)
        sys.exit(2)
