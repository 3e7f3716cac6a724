"""A Slurm cluster of this one machine, for as long as a test wants it: daemons, ports and folders of its own."""

import contextlib
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol")
PATH = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def missing() -> str:
    """Why there can be no cluster here; empty if there can."""
    absent = [name for name in PROGRAMS if shutil.which(name, path=PATH) is None]
    if absent:
        return f"Slurm is not installed ({', '.join(absent)})"
    return "" if os.geteuid() == 0 else "slurmd starts jobs as root only"


@contextlib.contextmanager
def cluster(folder: Path, *, grace_s: int = 60) -> Iterator[dict[str, str]]:
    """Start it in `folder` and yield the variables that its clients need; all its processes end with the context.

    Two partitions share the machine: jobs of `urgent` preempt those of `usual`, which are requeued `grace_s` s later.
    """
    folder = folder.absolute()
    processes: list[subprocess.Popen] = []
    name = socket.gethostname()
    for each in ("state", "spool", "munge"):
        (folder / each).mkdir(mode=0o700)
    key, munge = folder / "munge" / "key", folder / "munge" / "socket"
    key.touch(mode=0o600)
    key.write_bytes(os.urandom(128))
    (folder / "slurm.conf").write_text(
        f"""
ClusterName=trial
SlurmctldHost={name}(127.0.0.1)
SlurmctldPort={_free_port()}
SlurmdPort={_free_port()}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={munge}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=1,sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
ReturnToService=2
KillWait=30
MinJobAge=600
NodeName={name} NodeAddr=127.0.0.1 CPUs=2 RealMemory=2000 State=UNKNOWN
PartitionName=usual Nodes={name} Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime={grace_s}
PartitionName=urgent Nodes={name} MaxTime=INFINITE State=UP PriorityTier=9
"""
    )
    variables = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PATH}
    environment = {**os.environ, **variables}

    def start(*command: str) -> None:
        with (folder / f"{command[0]}.out").open("wb") as log:
            processes.append(subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT))

    try:
        start(
            "munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge}",
            f"--pid-file={folder}/munge/pid", f"--log-file={folder}/munge/log", f"--seed-file={folder}/munge/seed",
        )  # fmt: skip
        _until(munge.exists, "munged does not answer")
        start("slurmctld", "-D", "-L", str(folder / "slurmctld.log"))
        start("slurmd", "-D", "-N", name, "-L", str(folder / "slurmd.log"))

        def is_up() -> bool:
            said = subprocess.run(
                ["sinfo", "--noheader", "--format=%T"], env=environment, capture_output=True, text=True, check=False,
                timeout=30,
            )  # fmt: skip
            return "idle" in said.stdout

        _until(is_up, "the node does not come up")
        yield variables
        subprocess.run(["scancel", "--user=root", "--signal=KILL"], env=environment, check=False, timeout=30)
    finally:
        for process in reversed(processes):
            process.terminate()
        for process in processes:
            try:
                process.wait(timeout=20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait(timeout=20)


def _free_port() -> int:
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


def _until(holds, why: str, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < end, why
        time.sleep(0.2)
