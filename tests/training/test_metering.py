"""Throughput is counted from the plan: what `metrics.jsonl` and the summary say is what was trained."""

import json
from pathlib import Path

import pytest
import torch
from commands import SMALL, Outcome, alpaca_run
from tiny_models import CPU, build, shipped, some_examples

from alpaca.data.steps import StepPlan
from alpaca.training.batches import Layout, Steps
from alpaca.training.flops import ModelFlops
from alpaca.training.metering import Meter

NAMES = {
    "perf/logical_tokens_per_s",
    "perf/executed_tokens_per_s",
    "perf/supervised_tokens_per_s",
    "perf/model_tflops",
    "perf/packing",
    "perf/sharing",
    "perf/data_wait",
    "perf/step_time_s",
    "perf/peak_memory_gib",
}
QUICK = (*(one for one in SMALL if not one.startswith("evaluation")), "evaluation=none")


def steps_of(layout: Layout) -> Steps:
    examples = some_examples(24)
    return Steps(examples, StepPlan(len(examples), 0, 2, 7), layout)


def metered(layout: Layout, model: torch.nn.Module) -> tuple[Meter, Steps, dict[str, float]]:
    meter, steps = Meter(CPU, ModelFlops.of(model), None), steps_of(layout)
    meter.start()
    for step in range(len(steps)):
        meter.observe(steps[step])
    metrics = meter.metrics()
    meter.stop()
    return meter, steps, metrics


@pytest.mark.parametrize(
    "layout",
    [Layout(512), Layout(512, share_prefix=True), Layout(600, packed=False)],
    ids=["apart", "shared", "padded"],
)
def test_totals_are_the_sums_over_the_plan(layout: Layout):
    meter, steps, metrics = metered(layout, build(shipped("tiny")))
    examples = steps.examples
    order = [int(one) for step in range(len(steps)) for one in steps.plan.step_examples(step)]
    assert meter.examples == len(order) == 48
    assert meter.logical == sum(int(examples.lengths[one]) for one in order)
    assert meter.supervised == sum(int(examples.supervised[one]) for one in order)
    executed = sum(batch.executed for step in range(len(steps)) for batch in steps[step].micro_batches)
    assert meter.executed == executed
    labels = sum(len(batch.labels) for step in range(len(steps)) for batch in steps[step].micro_batches)
    assert meter.supervised == labels
    assert metrics["perf/sharing"] == pytest.approx(executed / meter.logical)


def test_ratios_tell_padding_and_sharing_apart():
    model = build(shipped("tiny"))
    apart, shared, padded = (
        metered(layout, model)[2] for layout in (Layout(512), Layout(512, share_prefix=True), Layout(600, packed=False))
    )
    assert (apart["perf/sharing"], apart["perf/packing"]) == (1, 1)
    assert shared["perf/sharing"] < 1
    assert shared["perf/packing"] == 1
    assert padded["perf/packing"] < 1
    assert padded["perf/sharing"] > 1
    assert padded["perf/packing"] * padded["perf/sharing"] == pytest.approx(1)


def test_mfu_is_the_operations_over_what_the_device_could_do():
    model, steps = build(shipped("tiny")), steps_of(Layout(512))
    meter = Meter(CPU, ModelFlops.of(model), 2.0)
    meter.start()
    meter.observe(steps[0])
    metrics = meter.metrics()
    assert metrics["perf/mfu"] == pytest.approx(metrics["perf/model_tflops"] / 2)
    assert "perf/mfu" not in metered(Layout(512), model)[2]


def test_a_log_line_counts_only_the_steps_since_the_one_before():
    meter, steps = Meter(CPU, ModelFlops.of(build(shipped("tiny"))), None), steps_of(Layout(512))
    meter.start()
    meter.observe(steps[0])
    meter.waited(1e-9)
    assert meter.metrics()["perf/data_wait"] > 0
    after = meter.metrics()
    assert {name: after[name] for name in ("perf/logical_tokens_per_s", "perf/data_wait", "perf/model_tflops")} == {
        "perf/logical_tokens_per_s": 0, "perf/data_wait": 0, "perf/model_tflops": 0,
    }  # fmt: skip
    assert meter.logical == steps[0].logical


def test_every_log_line_has_the_throughput_and_sharing_pays_with_a_template(finished: Outcome):
    lines = [json.loads(line) for line in (finished.directory / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "train/loss" in line]
    assert len(steps) == 5
    for line in steps:
        assert line.keys() >= NAMES
        assert 0 < line["perf/sharing"] < 1
        assert line["perf/packing"] == 1
        assert 0 <= line["perf/data_wait"] < 1
        executed = line["perf/executed_tokens_per_s"]
        assert executed == pytest.approx(line["perf/sharing"] * line["perf/logical_tokens_per_s"])


def test_the_summary_agrees_with_the_data_and_with_the_lines(finished: Outcome):
    summary = finished.summary
    facts = json.loads((finished.directory / "data.json").read_text())
    assert summary["logical_tokens"] == facts["logical_tokens"]  # one epoch
    assert summary["supervised_tokens"] == facts["supervised_tokens"]
    tokens = [
        rate * seconds
        for rate, seconds in zip(
            finished.metrics("perf/logical_tokens_per_s"), finished.metrics("perf/step_time_s"), strict=True
        )
    ]
    assert sum(tokens) == pytest.approx(summary["logical_tokens"])


def test_steps_after_the_last_full_log_interval_are_logged_and_timed_too(workplace: Path):
    outcome = alpaca_run(workplace, *QUICK, "train.log_every_steps=4")
    assert outcome.status == 0, outcome.err
    lines = [json.loads(line) for line in (outcome.directory / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [4, 5]
    seconds = 4 * lines[0]["perf/step_time_s"] + lines[1]["perf/step_time_s"]
    whole = outcome.summary["logical_tokens"] / outcome.summary["perf/logical_tokens_per_s"]
    assert whole >= seconds * 0.999
