"""What a plan says about time is held against what others have published."""

import pytest
from configs import composed

from alpaca.planning.counts import count, tokenizer_family
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


@pytest.mark.parametrize(
    ("model", "change", "family"),
    [
        ("llama7b", [], "llama"),
        ("llama7b", ["model.architecture.vocab_size=32001"], "llama"),  # Alpaca's own, with a token to pad
        ("mistral_7b", [], "llama"),
        ("llama3_8b", [], "llama3"),
        ("qwen3_8b", [], "qwen"),
        ("opt_6_7b", [], "gpt2"),
        ("smollm2_135m", [], "gpt2"),
        ("llama7b", ["model.architecture.model_type=qwen3"], None),  # as large, but of another kind
    ],
)
def test_a_tokenizer_is_known_by_its_family_not_by_the_size_of_its_vocabulary(model, change, family):
    assert tokenizer_family(composed(f"model={model}", *change)) == family


def test_tokens_of_a_row_follow_the_family_and_the_plan_names_it():
    def planned(model: str, source: str) -> tuple[float, str]:
        whole = ("train.max_length=2048", "train.eval_rows=0", "evaluation=none")
        found = count(composed(f"model={model}", f"data_source={source}", *whole))
        return found.logical / found.examples, found.source

    known_rows = (("alpaca_52k", 127.5, "llama7b", "qwen3_8b"), ("alpaca_gpt4", 206, "opt_6_7b", "llama7b"))
    for source, known, model, other in known_rows:
        mean, words = planned(model, source)
        assert mean == pytest.approx(known, rel=0.03)
        assert "tokenizer" in words
        assert planned(other, source)[0] != pytest.approx(mean, rel=0.1)
    assert "Qwen's tokenizer" in planned("qwen3_8b", "alpaca_52k")[1]
