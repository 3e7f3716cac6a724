"""What a plan says about time is held against what others have published."""

import pytest
from configs import composed

from alpaca.planning.devices import find
from alpaca.planning.estimate import Planner
from alpaca.planning.published import FACTOR, RUNS, padded_hours, padded_operations


@pytest.fixture(scope="module")
def planner() -> Planner:
    return Planner.of(composed("experiment=alpaca_7b"))


@pytest.mark.parametrize("run", RUNS, ids=lambda run: f"{run.devices} devices")
def test_the_usual_loop_is_predicted_within_the_stated_factor_of_the_published_hours(run, planner: Planner):
    device = find(run.device)
    found = planner.estimate(device, run.devices)
    predicted = padded_hours(planner.config, found.parameters, planner.counts, found.schedule, device, run.devices)
    assert run.hours / FACTOR < predicted < run.hours * FACTOR


def test_our_loop_is_planned_faster_by_what_it_leaves_out_and_not_above_half_of_the_peak(planner: Planner):
    for run in RUNS:
        device = find(run.device)
        found = planner.estimate(device, run.devices)
        padded = padded_operations(planner.config, found.parameters, planner.counts, found.schedule)
        assert 1.5 < padded / found.operations < 2.5
        reached = found.operations / (found.hours * 3600 * run.devices * device.peak_tflops * 1e12)
        assert 0.1 < reached < 0.4
