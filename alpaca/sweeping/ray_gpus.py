"""`${ray_gpus:}` of conf/hydra/launcher/ray.yaml: GPUs that Ray keeps for a job, as many as its run can use.

Ray waits for ever for a GPU that its cluster does not have.
"""

import os
import subprocess
import sys

from omegaconf import DictConfig, OmegaConf

from alpaca.jobs import visible_devices

ASK_S = 60  # for an answer of the cluster
# In a process of its own: the launcher connects by itself, with its own settings.
ASK = """
import sys, ray
ray.init(address=sys.argv[1], logging_level="ERROR", log_to_driver=False, configure_logging=False)
print("GPUs", max((node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]), default=0))
"""


def register() -> None:
    """Register the resolver."""
    OmegaConf.register_new_resolver("ray_gpus", ray_gpus, replace=True)


def ray_gpus(*, _root_: DictConfig) -> int:
    """What one run can use: `parallelism.devices`, at most what a machine of the cluster has."""
    address = _root_.hydra.launcher.ray.init.get("address") or os.environ.get("RAY_ADDRESS")
    on_a_machine = _of_cluster(str(address)) if address else len(visible_devices())
    if _root_.parallelism.sharding == "none":
        return min(1, on_a_machine)
    return min(_root_.parallelism.devices or on_a_machine, on_a_machine)


def _of_cluster(address: str) -> int:
    """GPUs of the largest machine of a running cluster; 0 where it does not answer, which the launcher then says."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", ASK, address], capture_output=True, text=True, check=False, timeout=ASK_S
        )
    except subprocess.TimeoutExpired:
        return 0
    said = [line for line in done.stdout.splitlines() if line.startswith("GPUs ")]
    return int(float(said[-1].split()[1])) if said else 0
