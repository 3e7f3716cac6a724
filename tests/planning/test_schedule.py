"""Steps, tokens and operations of a plan are those of the run's own planner, to the last one."""

from pathlib import Path

import numpy as np
import pytest
from configs import composed, rows_file

from alpaca.data.preparation import prepare
from alpaca.data.steps import StepPlan
from alpaca.errors import UserError
from alpaca.modeling.base import load_tokenizer
from alpaca.modeling.tokenizer import template_for, text_encoder
from alpaca.planning.counts import count
from alpaca.planning.estimate import estimate
from alpaca.planning.schedule import schedule, shares_prefix
from alpaca.training.batches import Layout, Steps
from alpaca.training.choices import choose_layout

SETTINGS = ("model=tiny", "data_source=json", "train.eval_rows=8", "train.global_batch_size=12")


def real_steps(config, ranks: int, tokens: int) -> list[Steps]:
    """The steps of each rank, as the worker makes them."""
    tokenizer = load_tokenizer(config.model)
    data = prepare(config, template_for(tokenizer, config.template), text_encoder(tokenizer))
    train = config.train
    plan = StepPlan(len(data.train), train.seed, train.epochs, train.global_batch_size, train.max_steps)
    layout = Layout(tokens, train.packing == "on", shares_prefix(config))
    return [Steps(data.train, plan, layout, rank=rank, ranks=ranks) for rank in range(ranks)]


@pytest.mark.parametrize(
    ("extra", "ranks", "tokens"),
    [
        ([], 1, 4096),
        (["train.epochs=2.5", "train.seed=3"], 1, 512),
        (["train.max_steps=3"], 2, 512),
        (["train.packing=off"], 2, 600),
        (["train.train_on_prompt=true"], 1, 512),
        (["adapter=qlora", "data_source.limit=30"], 1, 512),
        (["train.max_length=80", "train.micro_batch_tokens=80"], 2, 80),
    ],
)
def test_a_plan_counts_what_the_run_will_execute(workplace: Path, extra: list[str], ranks: int, tokens: int):
    config = composed(*SETTINGS, rows_file(workplace), *extra)
    found = schedule(config, count(config), ranks=ranks, micro_batch_tokens=tokens)
    each = real_steps(config, ranks, tokens)
    steps = [[rank[number] for rank in each] for number in range(len(each[0]))]
    batches = [batch for step in steps for rank in step for batch in rank.micro_batches]
    assert found.exact
    assert found.steps == len(steps)
    assert found.logical == sum(step[0].logical for step in steps)
    assert found.supervised == sum(step[0].supervised for step in steps)
    assert found.executed == sum(batch.executed for batch in batches)
    assert found.largest == max(batch.executed for batch in batches)
    assert found.largest_labels == max(len(batch.labels) for batch in batches)
    assert found.micro_batches == np.mean([len(step[0].micro_batches) for step in steps])


def test_alpaca_7b_takes_1219_steps_where_the_original_takes_1218():
    found = estimate(composed("experiment=alpaca_7b")).schedule
    assert (found.steps, found.original_steps) == (1219, 1218)
    assert found.logical == pytest.approx(3 * 6.63e6, rel=0.01)  # Stanford's rows by the LLaMA tokenizer
    assert found.supervised / found.logical == pytest.approx(0.518, abs=0.005)


def test_the_rule_for_shared_prefixes_is_the_worker_s(workplace: Path):
    from alpaca.modeling.base import random_model
    from alpaca.training.precision import choose

    for extra in ([], ["train.packing=off"], ["adapter=qlora"], ["train.train_on_prompt=true"]):
        config = composed(*SETTINGS, rows_file(workplace), *extra)
        model = random_model(
            config.model.architecture,
            load_tokenizer(config.model),
            seed=0,
            dtype=choose("fp32").frozen_dtype,
            device=choose("fp32").device,
        )
        chosen = choose_layout(config.train, config.adapter, model, max_length=config.train.max_length)
        assert shares_prefix(config) == chosen.layout.share_prefix


def test_the_second_plan_of_the_same_rows_needs_no_tokenizer(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    config = composed(*SETTINGS, rows_file(workplace))
    first = count(config)

    def refuse(*_: object) -> None:
        raise AssertionError("tokenised again")

    monkeypatch.setattr("alpaca.planning.exact._prepared", refuse)
    second = count(config)
    assert (
        (second.rows, second.examples, second.held_out) == (first.rows, first.examples, first.held_out) == (48, 40, 8)
    )
    assert second.lengths.tolist() == first.lengths.tolist()
    (workplace / "rows.json").write_text((workplace / "rows.json").read_text().replace("Count", "Tell"))
    with pytest.raises(AssertionError, match="tokenised again"):
        count(config)


def test_known_data_sets_follow_their_knobs():
    assert count(composed()).examples == 52002 - 128
    assert count(composed("data_source.fraction=0.5", "train.eval_rows=0", "evaluation=none")).examples == 26001
    assert count(composed("data_source.limit=1000")).examples == 1000
    inputs = count(composed("data_source.with_input=only", "train.eval_rows=0", "evaluation=none"))
    assert inputs.examples == round(52002 * 0.3977)
    short = count(composed("train.max_length=128"))
    assert short.lengths.max() == 128
    assert short.logical < count(composed()).logical
    mixed = count(composed("data_source=mix", "data_source.mix={alpaca_52k:1,lima:1}"))
    assert mixed.examples == 2 * 1030 - 128
    made = count(composed("data_source=self_instruct", "generation.target=500", "train.eval_rows=100"))
    assert made.examples == 400
    assert not made.exact
    assert "assumed" in made.source


def test_rows_without_a_tokenizer_are_counted_and_their_tokens_estimated(workplace: Path):
    named = composed("model=mistral_7b", "data_source=json", rows_file(workplace), "train.eval_rows=8")
    found = count(named)
    exact = count(composed("model=tiny", "data_source=json", rows_file(workplace), "train.eval_rows=8"))
    assert (found.rows, found.examples, found.held_out) == (48, 40, 8)
    assert not found.exact
    assert "4.2 characters each (assumed)" in found.source
    assert found.logical == pytest.approx(exact.logical, rel=0.5)


def test_an_unknown_hub_data_set_needs_a_number_of_rows():
    with pytest.raises(UserError, match=r"hub:a/b: its size is not known here .* data_source.limit=ROWS"):
        count(composed("data_source=hub", "data_source.path=hub:a/b"))
    assert count(composed("data_source=hub", "data_source.path=hub:a/b", "data_source.limit=700")).rows == 700
