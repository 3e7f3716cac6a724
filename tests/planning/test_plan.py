"""The command, what a run says before it starts, and every mistake in one line."""

import contextlib
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from commands import SMALL, Outcome, alpaca_run, command_environment
from configs import composed

from alpaca import plan
from alpaca.errors import UserError
from alpaca.planning.command import one_line, refuse_impossible
from alpaca.planning.devices import here, known_devices
from alpaca.planning.estimate import Planner
from alpaca.planning.generation import generation_cost
from alpaca.planning.variants import cheapest, nearest, variants, wanted_counts

HUGE = tuple(
    f"model.architecture.{key}={value}"
    for key, value in {"hidden_size": 16384, "intermediate_size": 65536, "num_hidden_layers": 400}.items()
)  # 1.7 trillion parameters


def planned(folder: Path, *arguments: str) -> Outcome:
    """`alpaca.plan` in this process, with `folder` as current directory."""
    out, err, given = io.StringIO(), io.StringIO(), list(sys.argv)
    try:
        with contextlib.chdir(folder), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = plan.main(list(arguments))
    finally:
        sys.argv[:] = given
    return Outcome(status, out.getvalue(), err.getvalue(), folder)


def test_a_plan_says_steps_memory_hours_dollars_and_what_fits(tmp_path: Path):
    shown = planned(tmp_path, "experiment=alpaca_7b")
    assert (shown.status, shown.err) == (0, "")
    for said in (
        "6,738,415,616 of 6,738,415,616 parameters trained",
        "1,219 of 128 examples, 3 epochs (the original's loop: 1,218, 406 whole batches of each epoch",
        "optimizer state",
        "1 device ",
        "8 devices",
        "RTX 4090",
        "Speed is assumed",
        "the cheapest that fits",
    ):
        assert said in shown.out
    assert list(tmp_path.iterdir()) == []


def test_a_plan_as_json_has_the_same_and_more(tmp_path: Path):
    shown = planned(tmp_path, "--json", "experiment=alpaca_7b", "parallelism.devices=4")
    assert shown.status == 0
    found = json.loads(shown.out)
    assert (found["steps"], found["original_steps"], found["trained_parameters"]) == (1219, 1218, 6738415616)
    assert [device["name"] for device in found["devices"]] == [one.name for one in known_devices() if one.listed]
    for device in found["devices"]:
        (only,) = device["plans"]
        assert only["devices"] == 4
        assert only["total_gib"] == pytest.approx(sum(only["memory_gib"].values()), abs=0.01)
        assert only["fits"] == (only["total_gib"] <= device["memory_gib"])
        assert only["dollars"] == pytest.approx(only["hours"] * 4 * device["dollars_per_hour"], abs=0.02)


@pytest.mark.parametrize("asked", [["--help"], ["experiment=alpaca_7b"], ["--json", "model=llama7b", "adapter=qlora"]])
def test_help_and_plans_of_known_data_need_no_torch(tmp_path: Path, asked: list[str]):
    code = (
        "import sys; from alpaca.plan import main\n"
        f"try: status = main({asked!r})\n"
        "except SystemExit as stop: status = stop.code\n"
        "heavy = {'torch', 'transformers', 'wandb', 'matplotlib', 'scipy'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=command_environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["model=lama7b"], "model=lama7b: no such option; did you mean llama7b?"),
        (["data_source=json"], "data_source.path is missing"),
        (["data_source=json", "data_source.path=nowhere.json"], "nowhere.json"),
        (["data_source=hub", "data_source.path=hub:a/b"], "set data_source.limit=ROWS to plan with that many"),
        (["-m", "adapter.rank=1,2", "adapter=lora"], "alpaca.plan looks at one configuration"),
        (["train.epochs=0"], "train.epochs=0.0: must be above 0"),
        (["model.path=org/name"], "model.path: no such setting; did you mean model.weights?"),
        (["model.weights=org/name"], "model.weights=org/name: its sizes are not known here"),
        (["model=llama7b", "model.weights=org/name"], "give a local folder, model.weights=DIR, or what differs"),
        (["adapter=qlora_8bit", "parallelism=fsdp"], "parallelism=fsdp: adapter=qlora_8bit keeps weights as bytes"),
        (["data_source=self_instruct", "generation.target=null"], "generation.target is missing"),
    ],
)
def test_a_mistake_is_one_line_with_the_way_out(tmp_path: Path, arguments: list[str], said: str):
    shown = planned(tmp_path, *arguments)
    assert shown.status == 2
    assert shown.out == ""
    assert shown.err.count("\n") == 1
    assert said in shown.err


def test_a_hub_id_is_planned_with_sizes_that_were_typed(tmp_path: Path):
    sizes = ("model.architecture.num_hidden_layers=16", "model.weights=org/name")
    shown = planned(tmp_path, "model=llama7b", *sizes)
    assert (shown.status, shown.err) == (0, "")
    assert "3,500,281,856 of 3,500,281,856 parameters trained" in shown.out  # 16 layers of 202,383,360 fewer


@pytest.mark.parametrize("share", ["0", "1.5", "much"])
def test_an_impossible_share_of_the_peak_is_refused(tmp_path: Path, share: str, capsys: pytest.CaptureFixture[str]):
    assert plan.main(["--mfu", share]) == 2
    said = capsys.readouterr().err
    assert "is no share; give a number above 0 and at most 1" in said
    assert said.count("\n") == 1


def test_a_share_of_the_peak_takes_the_place_of_the_table_s(tmp_path: Path):
    half, tenth = (
        json.loads(planned(tmp_path, "--json", "--mfu", share, "model=llama7b", "adapter=lora").out)["devices"][0]
        for share in ("0.5", "0.1")
    )
    assert tenth["plans"][0]["hours"] == pytest.approx(5 * half["plans"][0]["hours"], rel=0.01)


def test_a_run_says_what_it_needs_before_weights_load(workplace: Path):
    outcome = alpaca_run(workplace, *SMALL)
    assert outcome.status == 0, outcome.err
    lines = outcome.out.splitlines()
    (place,) = [number for number, line in enumerate(lines) if line.startswith("needs  about ")]
    assert lines[place - 1].startswith(("data ", "warning:", "       left out"))
    assert any("model  tiny" in line for line in lines[place + 1 :])
    assert "needs  about " in (outcome.directory / "run.log").read_text()


def test_a_run_that_cannot_fit_is_refused_before_weights_load_unless_forced(workplace: Path):
    outcome = alpaca_run(workplace, *SMALL, *HUGE)
    assert outcome.status == 2
    assert outcome.err.count("\n") == 1
    assert "parallelism=single: needs about " in outcome.err
    assert "train.force=true to start all the same" in outcome.err
    assert outcome.summary["status"] == "failed"
    assert "model  tiny" not in outcome.out
    small = [part for part in SMALL if not part.startswith("data_source.path")]
    settings = (*small, *HUGE, f"data_source.path={workplace / 'rows.json'}")
    with pytest.raises(UserError, match="needs about"):
        refuse_impossible(composed(*settings))
    refuse_impossible(composed(*settings, "train.force=true"))


def test_a_run_within_the_margin_of_a_prediction_is_not_refused():
    refuse_impossible(composed("model=tiny", "data_source=seed_tasks"))
    line = one_line(composed("experiment=quickstart", "model=tiny"))
    assert line.startswith("about ")
    assert f"of {here().memory_gib:.1f} GiB" in line


def test_the_nearest_change_keeps_the_experiment_as_long_as_it_can():
    config = composed("model=llama7b", "parallelism=fsdp")
    planner = Planner.of(config)
    every = variants(config, wanted_counts(config))
    first_other = next(place for place, variant in enumerate(every) if not variant.same_numbers)
    assert all(variant.same_numbers for variant in every[:first_other])
    assert not any(variant.same_numbers for variant in every[first_other:])
    by_name = {device.name: device for device in known_devices()}
    large = nearest(planner, by_name["A100 80GB"], wanted_counts(config))
    assert large is not None
    assert large.variant.same_numbers
    assert large.estimate.fits
    small = nearest(planner, by_name["RTX 4090"], (1,))
    assert small is not None
    assert "adapter=" in " ".join(small.variant.overrides)


def test_what_a_choice_says_to_type_is_what_it_planned():
    given = ("model=llama7b", "parallelism=fsdp")
    planner = Planner.of(composed(*given))
    for same in (True, False):
        choice = cheapest(planner, known_devices(), same_numbers=same)
        assert choice is not None
        typed = composed(*given, *choice.variant.overrides)
        again = Planner.of(typed).estimate(choice.estimate.device, choice.estimate.devices, look_at=1536)
        assert again.memory == choice.estimate.memory
        assert again.dollars == choice.estimate.dollars


def test_nothing_cheaper_is_passed_over():
    planner = Planner.of(composed("model=llama7b"))
    best = cheapest(planner, known_devices(), same_numbers=False)
    assert best is not None
    for variant in variants(planner.config, wanted_counts(planner.config)):
        for device in known_devices():
            found = planner.estimate(device, variant.devices, variant.config, look_at=1536)
            assert not found.fits or (found.dollars or 0) >= 0.998 * (best.estimate.dollars or 0)


def test_the_cost_of_making_data_follows_the_price_list(tmp_path: Path):
    shown = planned(tmp_path, "data_source=self_instruct", "generation.target=1000", "train.eval_rows=100")
    assert shown.status == 0, shown.err
    assert "1,000 tasks from gpt-4.1-mini: about 79 requests" in shown.out  # 17 new tasks a request, 75 % kept
    config = composed("data_source=self_instruct", "generation.target=1000").generation
    cost = generation_cost(config)
    assert cost.dollars == pytest.approx(cost.prompt_tokens * 0.40e-6 + cost.completion_tokens * 1.60e-6)
    config.engine = "openai_batch"
    assert generation_cost(config).dollars == pytest.approx((cost.dollars or 0) / 2)
    config.engine, config.model = "openai", "a-model-of-ours"
    assert generation_cost(config).dollars is None
    config.engine, config.model = "local", None
    assert generation_cost(config).dollars == 0
