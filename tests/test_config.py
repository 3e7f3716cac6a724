"""Every option of every group composes, and every YAML says what it is and how it is used."""

from pathlib import Path

import pytest
from commands import CHECKOUT
from hydra import compose, initialize_config_dir
from hypothesis import given
from hypothesis import strategies as st

from alpaca import cli, paths
from alpaca.checks import check
from alpaca.config import Config
from alpaca.errors import UserError

GROUP_FILES = sorted(path for path in (CHECKOUT / "conf").rglob("*.yaml") if path.parent.name != "conf")
SWEEP_FILES = sorted((CHECKOUT / "sweeps").glob("*.yaml"))
GROUPS = {
    "adapter", "data_source", "evaluation", "experiment", "generation", "hydra", "local",
    "model", "optimizer", "parallelism", "template", "tracker",
}  # fmt: skip
FEWEST_OPTIONS = 71  # how many there were when this was written; fewer means that the test went blind


def composed(*overrides: str) -> Config:
    cli.register()
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        return cli.typed(compose("config", overrides=["data_source.path=rows.json", *overrides]))


def test_the_recursion_through_conf_sees_every_group():
    seen = {path.relative_to(CHECKOUT / "conf").parts[0] for path in GROUP_FILES}
    assert seen >= GROUPS
    assert len(GROUP_FILES) >= FEWEST_OPTIONS
    assert len(SWEEP_FILES) >= 14


@pytest.mark.parametrize("path", GROUP_FILES, ids=lambda path: f"{path.parent.name}={path.stem}")
def test_every_option_of_every_group_composes_into_a_config_that_passes_the_checks(path: Path):
    group = path.parent.relative_to(CHECKOUT / "conf").as_posix()
    value = f"[{path.stem}]" if group == "evaluation" else path.stem
    config = composed(f"{group}={value}")
    check(config)
    named = getattr(config, group, None)
    assert getattr(named, "name", path.stem) == path.stem


@pytest.mark.parametrize(
    "path",
    [CHECKOUT / "conf/config.yaml", *GROUP_FILES, *SWEEP_FILES],
    ids=lambda path: f"{path.parent.name}-{path.stem}",
)
def test_every_yaml_opens_with_what_it_is_and_the_command_that_uses_it(path: Path):
    lines = path.read_text(encoding="utf-8").splitlines()
    comment = []
    for line in lines:
        if not line.startswith("#"):
            break
        comment.append(line)
    sentences = [line for line in comment if "@package" not in line]
    assert sentences, f"{path} does not open with a comment"
    assert any("Use:" in line and "python -m alpaca." in line for line in sentences)


def test_the_bare_defaults_are_the_alpaca_recipe_on_a_small_model():
    config = composed()
    assert (config.model.name, config.adapter.name, config.template.name) == ("smollm2_135m", "full", "alpaca")
    assert (config.train.epochs, config.train.global_batch_size, config.train.max_length) == (3, 128, 512)
    assert (config.optimizer.schedule, config.optimizer.warmup, config.optimizer.weight_decay) == ("cosine", 0.03, 0)


def test_the_alpaca_7b_experiment_holds_the_published_settings():
    config = composed("experiment=alpaca_7b")
    assert (config.model.name, config.adapter.name, config.parallelism.sharding) == ("llama7b", "full", "full")
    assert config.adapter.default_lr * config.optimizer.lr_factor == 2e-5
    assert config.optimizer.lr is None
    assert config.train.eval_rows == 0


def test_the_alpaca_13b_experiment_halves_the_rate_and_takes_five_epochs():
    config = composed("experiment=alpaca_13b")
    assert (config.model.name, config.optimizer.lr, config.train.epochs) == ("llama13b", 1e-5, 5)


def test_the_alpaca_template_is_stanfords_byte_for_byte():
    template = composed().template
    assert template.prompt_with_input == (
        "Below is an instruction that describes a task, paired with an input that provides further context. "
        "Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
    )
    assert template.prompt_without_input == (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\n{instruction}\n\n### Response:"
    )


@pytest.mark.parametrize("adapter", ["full", "lora"])
@pytest.mark.parametrize("parallelism", ["single", "ddp", "fsdp"])
def test_every_adapter_composes_with_every_parallelism(adapter: str, parallelism: str):
    check(composed("model=llama7b", f"adapter={adapter}", f"parallelism={parallelism}"))


@given(st.sampled_from(["train.epochs", "optimizer.lr", "adapter.alpha"]), st.floats(max_value=0, allow_nan=False))
def test_no_number_at_or_below_zero_passes_where_a_rate_or_length_is_needed(key: str, value: float):
    config = Config()
    config.model.weights, config.data_source.path = "somewhere", "rows.json"
    section, name = key.split(".")
    setattr(getattr(config, section), name, value)
    with pytest.raises(UserError, match=key):
        check(config)
