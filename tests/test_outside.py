"""What a launcher around the command set up is used, or one sentence says what to do."""

import pytest

from alpaca.config import ParallelismConfig
from alpaca.errors import UserError
from alpaca.outside import Placement, first_host, placement

FSDP = ParallelismConfig(name="fsdp", sharding="full")
SINGLE = ParallelismConfig(name="single", sharding="none", devices=1)


def slurm(machines: int, tasks: int | None = None) -> dict[str, str]:
    return {
        "SLURM_JOB_ID": "41234567",
        "SLURM_STEP_NUM_NODES": str(machines),
        "SLURM_STEP_NUM_TASKS": str(tasks or machines),
        "SLURM_STEP_NODELIST": "gpu[03-06]",
    }


def ranks(size: int, here: int) -> dict[str, str]:
    return {"RANK": "0", "WORLD_SIZE": str(size), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": str(here)}


def test_without_a_launcher_the_config_decides():
    assert placement(FSDP, {}) == Placement(1, None)
    two = ParallelismConfig(name="fsdp", sharding="full", nodes=2, rendezvous="host0:29500")
    assert placement(two, {}) == Placement(2, "host0:29500")


def test_several_nodes_need_a_place_to_meet():
    with pytest.raises(UserError, match=r"parallelism.nodes=2: .* parallelism.rendezvous=HOST:PORT"):
        placement(ParallelismConfig(name="fsdp", sharding="full", nodes=2), {})


def test_a_slurm_step_over_several_machines_meets_at_its_first_one():
    assert placement(FSDP, slurm(4)) == Placement(4, "gpu03:24567")


def test_a_slurm_allocation_without_a_step_is_one_machine():
    assert placement(FSDP, {"SLURM_JOB_ID": "1", "SLURM_JOB_NUM_NODES": "4"}) == Placement(1, None)


def test_several_slurm_tasks_on_a_machine_are_refused():
    with pytest.raises(UserError, match=r"8 tasks on 2 machines.*srun --ntasks-per-node=1"):
        placement(FSDP, slurm(2, 8))


def test_another_number_of_nodes_than_slurm_gave_is_refused():
    three = ParallelismConfig(name="fsdp", sharding="full", nodes=3, rendezvous="a:1")
    with pytest.raises(UserError, match=r"parallelism\.nodes=3: Slurm gave this step 2 machines"):
        placement(three, slurm(2))


def test_ranks_of_an_outer_launcher_are_taken_as_they_are():
    assert placement(FSDP, ranks(16, 8)) == Placement(2, None, given=True)
    assert placement(SINGLE, ranks(1, 1)) == Placement(1, None, given=False)


def test_an_outer_launcher_with_one_device_configured_is_refused():
    with pytest.raises(UserError, match=r"parallelism=single: .* made 2 ranks .* parallelism=ddp"):
        placement(SINGLE, ranks(2, 2))


def test_an_outer_launcher_with_another_number_of_devices_is_refused():
    with pytest.raises(UserError, match=r"parallelism.devices=4: .* 2 ranks on this machine"):
        placement(ParallelismConfig(name="ddp", sharding="replicate", devices=4), ranks(2, 2))


@pytest.mark.parametrize(
    ("nodelist", "host"),
    [
        ("node7", "node7"),
        ("gpu[03-06]", "gpu03"),
        ("gpu[3,5-7],login1", "gpu3"),
        ("a-b[001]-ib,c", "a-b001-ib"),
        ("x1,x2", "x1"),
    ],
)
def test_the_first_host_of_a_node_list(nodelist: str, host: str):
    assert first_host(nodelist) == host
