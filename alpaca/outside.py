"""What started this process: a shell, Slurm's `srun`, or a launcher like torchrun that already made the ranks.

Reads environment variables only, and says in one sentence what to do where they do not fit the config.
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from alpaca.config import ParallelismConfig
from alpaca.errors import UserError

SLURM_PORTS = 10_000, 20_000  # first port and how many: the job's id chooses one, so that two jobs do not meet


@dataclass(frozen=True)
class Placement:
    """Where the ranks come from.

    Attributes:
        nodes: machines that take part.
        rendezvous: HOST:PORT where they meet; None on one machine.
        given: this process already is a rank (torchrun and its like); nothing is started.
    """

    nodes: int
    rendezvous: str | None
    given: bool = False


def placement(config: ParallelismConfig, environment: Mapping[str, str] = os.environ) -> Placement:
    """Nodes and rendezvous as the config says, else as Slurm knows them.

    Raises:
        UserError: the launcher around this command made ranks that the config does not want, or Slurm
            started several tasks on a machine.
    """
    if "RANK" in environment and "WORLD_SIZE" in environment:
        return _given(config, environment)
    if config.sharding == "none":
        return Placement(1, None)
    nodes, rendezvous = config.nodes, config.rendezvous
    tasks = int(environment.get("SLURM_STEP_NUM_TASKS", 1))
    machines = int(environment.get("SLURM_STEP_NUM_NODES", 1))
    if tasks > machines:
        raise UserError(
            f"parallelism={config.name}: Slurm started {tasks} tasks on {machines} machines, but each task starts the "
            "ranks of its machine itself; use srun --ntasks-per-node=1"
        )
    if machines > 1:
        if nodes not in (1, machines):
            raise UserError(
                f"parallelism.nodes={nodes}: Slurm gave this step {machines} machines; leave it out, or use "
                f"srun --nodes={nodes}"
            )
        nodes = machines
        rendezvous = rendezvous or _slurm_rendezvous(environment)
    if nodes > 1 and not rendezvous:
        raise UserError(
            f"parallelism.nodes={nodes}: the machines need a place to meet; on each of them give "
            "parallelism.rendezvous=HOST:PORT, the name of one of them and a free port"
        )
    return Placement(nodes, rendezvous)


def _given(config: ParallelismConfig, environment: Mapping[str, str]) -> Placement:
    size, here = int(environment["WORLD_SIZE"]), int(environment.get("LOCAL_WORLD_SIZE", 1))
    if size > 1 and config.sharding == "none":
        raise UserError(
            f"parallelism={config.name}: a launcher around this command made {size} ranks (WORLD_SIZE), each would "
            "train the same run; choose parallelism=ddp or fsdp, or start python -m alpaca.run alone"
        )
    if config.devices is not None and config.devices != here and config.sharding != "none":
        raise UserError(
            f"parallelism.devices={config.devices}: the launcher around this command made {here} ranks on this machine "
            "(LOCAL_WORLD_SIZE); leave parallelism.devices out"
        )
    return Placement(max(1, size // here), None, given=size > 1)


def _slurm_rendezvous(environment: Mapping[str, str]) -> str:
    hosts = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    port = SLURM_PORTS[0] + int(environment.get("SLURM_JOB_ID", 0)) % SLURM_PORTS[1]
    return f"{first_host(hosts)}:{port}"


def first_host(nodelist: str) -> str:
    """The first name of a Slurm node list: `a[03-05,7],b` begins with `a03`."""
    found = re.match(r"([^,\[]+)(?:\[([^\],-]+))?([^,\[\]]*)", nodelist)
    if not found:
        raise UserError(f"SLURM_STEP_NODELIST={nodelist!r}: no host name; give parallelism.rendezvous=HOST:PORT")
    name, number = found.group(1), found.group(2) or ""
    tail = re.match(r"[^\]]*\]([^,\[]*)", nodelist[len(name) :])
    return name + number + (tail.group(1) if number and tail else "")
