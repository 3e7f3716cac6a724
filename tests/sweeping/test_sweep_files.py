"""Every sweep that is shipped: each of its jobs composes and passes the checks, and its file says what it asks."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from commands import CHECKOUT, SMALL, alpaca_run
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from alpaca import cli, paths
from alpaca.checks import check
from alpaca.config import Config
from alpaca.help import text as help_text
from alpaca.report.reading import flat
from alpaca.report.variants import fits_settings
from alpaca.sweeping.expansion import Combination, combinations
from alpaca.sweeping.record import SEED, parsed_header

FILES = sorted((CHECKOUT / "sweeps").glob("*.yaml"))
WANDB_FILES = sorted((CHECKOUT / "sweeps" / "wandb").glob("*.yaml"))
NAMES = {
    "adapter", "data_size", "data_source", "epochs", "learning_rate", "lora_rank", "lora_targets", "loss_mask",
    "model_size", "optimizer", "parallelism", "recipe", "smoke", "template",
}  # fmt: skip


@pytest.fixture
def hydra() -> Iterator[None]:
    cli.register()
    with initialize_config_dir(str(paths.conf_dir()), version_base="1.3"):
        yield


def typed(*overrides: str) -> Config:
    return cli.typed(compose("config", overrides=list(overrides)))


def jobs_of(file: Path) -> list[Combination]:
    content = OmegaConf.load(file)
    grid = OmegaConf.select(content, "hydra.sweeper.params") or {}
    changes = OmegaConf.select(content, "sweep.one_at_a_time") or []
    return combinations([f"sweep={file.stem}"], dict(grid), list(changes))


def test_every_question_of_the_recipe_has_its_sweep():
    assert {file.stem for file in FILES} >= NAMES
    assert {file.stem for file in WANDB_FILES} == {"lora_bayes", "lr_bayes"}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_variant_of_every_sweep_composes_and_passes_the_checks(file: Path, hydra: None):
    jobs = jobs_of(file)
    assert len({job.name for job in jobs}) == len(jobs) > 1
    named = 0
    for job in jobs:
        if "train.seed=1" in job.overrides or "train.seed=2" in job.overrides:
            continue  # the next test has the other seeds
        config = typed(*job.overrides)
        check(config)
        assert config.name == file.stem
        assert not config.sweep.dry_run
        settings = dict(flat(OmegaConf.to_container(OmegaConf.structured(config))))
        apart = tuple(part for part in job.differs if not SEED.match(part))
        named += bool(config.sweep.baseline and fits_settings(settings, apart, config.sweep.baseline))
    asks_for_one = "the base" in parsed_header(file.read_text(encoding="utf-8")).read
    assert named == asks_for_one, "the baseline that the text speaks of is one of the variants"


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_no_question_says_how_many_runs_there_are_or_of_which_values(file: Path):
    """They are printed with whatever values the user gave."""
    header = parsed_header(file.read_text(encoding="utf-8"))
    if file.stem != "smoke":
        assert not re.search(r"\b(two|three|four|five|six) (seeds|ranks)|one seed", header.question, re.IGNORECASE)
        assert not re.search(r"against (?!the base|different)", header.read)


@pytest.mark.slow
@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_job_of_every_sweep_composes_and_passes_the_checks(file: Path, hydra: None):
    for job in jobs_of(file):
        check(typed(*job.overrides))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_sweep_opens_with_its_question_its_cost_how_to_read_it_and_the_command(file: Path):
    text = file.read_text(encoding="utf-8")
    header = parsed_header(text)
    assert "?" in header.question
    assert len(header.cost) > 40
    assert len(header.read) > 40
    assert f"# Use:   python -m alpaca.run sweep={file.stem}" in text
    assert header.question.partition("?")[0] in help_text()


def test_the_recipe_swaps_one_ingredient_at_a_time(hydra: None):
    """Against the base, every other job changes the fields of one section, and nothing else."""
    jobs = [job for job in jobs_of(CHECKOUT / "sweeps" / "recipe.yaml") if "train.seed=0" in job.overrides]
    base = typed(*jobs[0].overrides)
    assert jobs[0].differs[0] == "base"
    touched = set()
    for job in jobs[1:]:
        other = typed(*job.overrides)
        changed = {name for name in vars(base) if getattr(base, name) != getattr(other, name)}
        if changed:  # the base is full fine-tuning: that swap is none here
            (section,) = changed
            touched.add(section)
    assert touched == {"model", "data_source", "template", "adapter", "optimizer", "train"}


def test_an_unknown_sweep_lists_the_known_ones_or_names_the_nearest(workplace: Path):
    outcome = alpaca_run(workplace, *SMALL, "sweep=what_matters")
    assert (outcome.status, outcome.err.count("\n")) == (2, 1)
    assert all(name in outcome.err for name in NAMES), outcome.err
    assert "did you mean learning_rate?" in alpaca_run(workplace, *SMALL, "sweep=learning_rat").err


def values(parameter: dict[str, Any]) -> list[Any]:
    """A value of each kind that W&B may draw: every listed one, or both ends of a range."""
    return list(parameter.get("values", [])) or [parameter["min"], parameter["max"]]


@pytest.mark.parametrize("file", WANDB_FILES, ids=lambda file: file.stem)
def test_a_wandb_agent_starts_runs_that_compose(file: Path, hydra: None, monkeypatch: pytest.MonkeyPatch):
    """Values go through W&B's own builder of arguments, which writes null as None."""
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    sweep = yaml.safe_load(file.read_text(encoding="utf-8"))
    assert parsed_header(file.read_text(encoding="utf-8")).question.count("?") == 1
    command = create_sweep_command(list(sweep["command"]))
    assert command[:4] == ["${env}", "${interpreter}", "-m", "alpaca.run"]
    monkeypatch.setenv("WANDB_SWEEP_ID", "abcdefgh")
    drawn = {key: values(parameter) for key, parameter in sweep["parameters"].items()}
    for turn in range(max(map(len, drawn.values()))):
        chosen = {key: several[turn % len(several)] for key, several in drawn.items()}
        built = create_sweep_command_args({"args": {key: {"value": value} for key, value in chosen.items()}})
        config = typed(*cli.given_arguments([*command[4:-1], *built["args_no_hyphens"]]))
        check(config)
        for key, value in chosen.items():
            section, name = key.split(".")
            expected = yaml.safe_load(value) if isinstance(value, str) and value[0] == "[" else value
            assert getattr(getattr(config, section), name) == expected
    assert sweep["metric"] == {"name": "eval/loss", "goal": "minimize"}


def test_none_is_a_word_like_any_other_outside_of_an_agent(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WANDB_SWEEP_ID", raising=False)
    assert cli.given_arguments(["notes=None"]) == ["notes=None"]
    monkeypatch.setenv("WANDB_SWEEP_ID", "abcdefgh")
    assert cli.given_arguments(["train.max_steps=None", "-m"]) == ["-m", "train.max_steps=null"]
