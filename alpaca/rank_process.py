"""The first thing a rank's process runs (`python -m alpaca.rank_process FOLDER AGENT`): it dies with its agent.

Nothing heavy is imported before that is arranged: an agent killed while its ranks import torch would leave
them behind. The system kills a rank whose agent has died (Linux); one that was too late to ask looks itself.
"""

import contextlib
import ctypes
import os
import signal
import sys

_PARENT_DIED = 1  # PR_SET_PDEATHSIG of Linux's prctl


def main() -> int:
    """Arrange it, then work as a rank."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PARENT_DIED, signal.SIGKILL)
    if os.getppid() != int(sys.argv[2]):
        return 1
    from alpaca import startup

    startup.start()
    from alpaca.training import rank

    return rank.main(sys.argv[1])


if __name__ == "__main__":
    sys.exit(main())
