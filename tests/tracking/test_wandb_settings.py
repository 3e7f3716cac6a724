"""W&B's own variables and settings files decide what the config leaves open; what W&B would refuse is refused first."""

import os
from pathlib import Path

import pytest

from alpaca.config import Config
from alpaca.errors import UserError
from alpaca.tracking.wandb_settings import artifact_name, check_tracker, chosen_mode, names, notes

KEY = {"WANDB_API_KEY": "0" * 40}


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def tracked(**given: object) -> Config:
    config = Config(name="mine")
    for key, value in given.items():
        setattr(config.tracker, key, value)
    return config


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, "offline"),
        (KEY, "online"),
        ({**KEY, "WANDB_MODE": "offline"}, "offline"),
        ({**KEY, "WANDB_MODE": "dryrun"}, "offline"),
        ({**KEY, "WANDB_MODE": "disabled"}, "disabled"),
        ({**KEY, "WANDB_DISABLED": "true"}, "disabled"),
        ({**KEY, "WANDB_DISABLED": "false", "WANDB_MODE": ""}, "online"),
        ({"WANDB_MODE": "online"}, "online"),
        ({"WANDB_IDENTITY_TOKEN_FILE": "token"}, "online"),
    ],
    ids=str,
)
def test_auto_is_what_the_environment_says_and_online_only_with_a_key(
    environment: dict[str, str], expected: str, monkeypatch: pytest.MonkeyPatch
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert chosen_mode("auto") == expected
    assert chosen_mode("disabled") == "disabled"
    assert chosen_mode("online") == "online"


def test_wandb_offline_typed_in_this_folder_counts(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    Path("wandb").mkdir()
    Path("wandb/settings").write_text("[default]\nmode = offline\n")
    assert chosen_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_MODE", "online")
    assert chosen_mode("auto") == "online"


def test_a_key_in_netrc_counts_for_its_host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "netrc").write_text("machine wandb.example.org\n  login user\n  password " + "0" * 40 + "\n")
    os.chmod(tmp_path / "netrc", 0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    assert chosen_mode("auto") == "offline"
    monkeypatch.setenv("WANDB_BASE_URL", "https://wandb.example.org")
    assert chosen_mode("auto") == "online"


def test_what_the_config_leaves_open_the_environment_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    own = names(tracked(), tmp_path, "train")
    assert (own.project, own.entity, own.group, own.name) == ("alpaca", None, "mine", tmp_path.name)
    for name in ("PROJECT", "ENTITY", "RUN_GROUP", "NAME", "TAGS"):
        monkeypatch.setenv(f"WANDB_{name}", f"their-{name.lower()}")
    found = names(tracked(), tmp_path, "train")
    assert (found.project, found.entity) == (None, None), "W&B reads them itself"
    assert (found.group, found.name) == ("their-run_group", "their-name")
    assert "their-tags" in found.tags
    typed = names(tracked(project="p", entity="e", group="g"), tmp_path, "train")
    assert (typed.project, typed.entity, typed.group) == ("p", "e", "g")


def test_a_typed_mode_wins_over_the_environment_and_says_so(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert notes(tracked()) == []
    assert notes(tracked(mode="offline")) == []
    (line,) = notes(tracked(mode="online"))
    assert "tracker.mode=online is used, not WANDB_MODE=offline" in line


@pytest.mark.parametrize("project", ["team/project", "a#b", "a:b", "100%", "", " ", "x" * 129])
def test_a_project_that_wandb_would_refuse_is_refused_before_anything_starts(
    project: str, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(UserError, match=r"tracker\.project="):
        check_tracker(tracked(project=project).tracker)
    check_tracker(tracked(project=project, mode="disabled").tracker)
    if project.strip():
        monkeypatch.setenv("WANDB_PROJECT", project)
        with pytest.raises(UserError, match="WANDB_PROJECT="):
            check_tracker(tracked().tracker)


def test_an_unknown_wandb_mode_is_refused_unless_the_config_says_which(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("WANDB_MODE", "of-line")
    with pytest.raises(UserError, match="WANDB_MODE=of-line: choose one of online, offline, disabled"):
        check_tracker(tracked().tracker)
    check_tracker(tracked(mode="offline").tracker)


def test_what_tells_runs_apart_in_a_folders_name_is_allowed_in_an_artifacts():
    assert (
        artifact_name("model-adapter.rank=4,train.seed=0-0123456789") == "model-adapter.rank-4-train.seed-0-0123456789"
    )
    long = artifact_name("x" * 500 + "-0123456789")
    assert (len(long), long[-11:]) == (128, "-0123456789")
