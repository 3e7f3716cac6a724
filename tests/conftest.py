"""No test goes online: no W&B key, hub addresses that refuse at once, a cache of the test session's own."""

import json
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from commands import REFUSING, SMALL, Outcome, alpaca_run, some_rows

from alpaca import paths


@pytest.fixture(scope="session", autouse=True)
def _sealed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No network, no key, a cache of our own; everything is put back at the end.

    Only the converted embedded model is the user's: making it takes 25 s.
    """
    nothing, cache, converted = tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("cache"), paths.cache_dir()
    (converted / "models").mkdir(parents=True, exist_ok=True)
    (cache / "models").symlink_to(converted / "models", target_is_directory=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ALPACA_CACHE", str(cache))
        patch.setenv("HF_ENDPOINT", REFUSING)
        patch.setenv("NETRC", str(nothing / "netrc"))
        patch.setenv("TOKENIZERS_PARALLELISM", "false")
        for name in [name for name in os.environ if name.startswith("WANDB_")] + ["HYDRA_FULL_ERROR"]:
            patch.delenv(name, raising=False)
        patch.setenv("WANDB_CONFIG_DIR", str(nothing))
        hangup = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # `nohup make test` has it ignored, by children too
        yield
        signal.signal(signal.SIGHUP, hangup)


@pytest.fixture
def workplace(tmp_path: Path) -> Path:
    """An empty folder with 48 rows in `rows.json`."""
    (tmp_path / "rows.json").write_text(json.dumps(some_rows(48)))
    return tmp_path


@pytest.fixture
def free_port() -> int:
    """A port of this machine that nothing uses now."""
    with socket.socket() as chosen:
        chosen.bind(("127.0.0.1", 0))
        return int(chosen.getsockname()[1])


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    """A finished run of every weight of the tiny model, shared by tests that only look at it."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "rows.json").write_text(json.dumps(some_rows(48)))
    outcome = alpaca_run(folder, *SMALL)
    assert outcome.status == 0, outcome.err
    return outcome


@pytest.fixture(scope="session")
def finished_lora(tmp_path_factory: pytest.TempPathFactory, finished: Outcome) -> Outcome:
    """A finished LoRA run on top of `finished`'s model, logged to W&B as it is without a key."""
    folder = tmp_path_factory.mktemp("lora")
    (folder / "rows.json").write_text(json.dumps(some_rows(48)))
    base = f"model.weights='{finished.directory / 'model'}'"
    outcome = alpaca_run(folder, *SMALL, base, "adapter=lora", "tracker=auto", "extra_tags=[first, second]")
    assert outcome.status == 0, outcome.err
    return outcome
