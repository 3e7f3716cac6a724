"""What others have published about the time of the same training, against which the assumed hours can be held.

Both runs are Stanford's command for Alpaca 7B: 52,002 rows, 3 epochs, global batch 128, rows padded to the longest of
four, FSDP, logits of every position. On its kind of machine one reached 5 % of the peak and the other 21 %, everything
included, so what their mean predicts is right within a factor of 2.5 for both and no closer.
"""

from dataclasses import dataclass, replace

import numpy as np

from alpaca.config import Config
from alpaca.planning.architecture import shape
from alpaca.planning.counts import Counts
from alpaca.planning.devices import Device
from alpaca.planning.parameters import Parameters
from alpaca.planning.schedule import Schedule
from alpaca.planning.work import operations

ROWS = 4  # of a padded batch on one device
SHARE = 0.10  # of the peak: geometric mean of the runs below
FACTOR = 2.5  # how far a prediction from it may be off, either way


@dataclass(frozen=True)
class PublishedRun:
    """One training that somebody else timed."""

    device: str
    devices: int
    hours: float
    source: str


RUNS = (
    PublishedRun("A100 80GB", 8, 3.0, "stanford_alpaca's README: 3 hours on 8 A100 80GB"),
    PublishedRun("A100 80GB", 4, 4745 / 3600, "a log of the same command on 4 A100 80GB: 4,745 s, 1,218 steps"),
)


def padded_operations(config: Config, counted: Parameters, counts: Counts, plan: Schedule) -> float:
    """Operations of the same steps by the usual loop: rows padded to the longest of four, logits everywhere."""
    draw = np.random.default_rng(0)
    groups = draw.permutation(np.resize(counts.lengths, 4096 * ROWS)).reshape(-1, ROWS)
    executed = round(plan.logical * float(groups.max(1).mean() / groups.mean()))
    whole = replace(plan, executed=executed, supervised=executed)
    return operations(config, shape(config.model), counted, whole)


def padded_hours(
    config: Config, counted: Parameters, counts: Counts, plan: Schedule, device: Device, devices: int
) -> float:
    """Hours by the usual padded loop at the share of the peak that the published runs reached, exchange included."""
    rate = SHARE * device.peak_tflops * 1e12 * devices
    return padded_operations(config, counted, counts, plan) / rate / 3600
