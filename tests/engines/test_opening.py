"""Settings that cannot work are refused with one line, before anything is imported, loaded or sent."""

import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import pytest

from alpaca.engines.exchange import EngineSettings
from alpaca.engines.openai_batch import OpenAIBatch
from alpaca.engines.openai_server import OpenAIServer
from alpaca.engines.opening import open_engine
from alpaca.errors import UserError


@pytest.mark.parametrize(("given", "words"), [
    ({"name": "opnai"}, "engine=opnai: no such engine; did you mean openai?"),
    ({"name": "mystery"}, "choose one of openai, openai_batch, local, vllm"),
    ({"api": "responses"}, "api=responses: choose one of chat, completions"),
    ({"model": ""}, "model is empty"),
    ({"concurrency": 0}, "concurrency=0: must be at least 1"),
    ({"retries": -1}, "retries=-1: must be at least 0"),
    ({"timeout_s": 0}, "timeout_s=0: must be above 0 seconds"),
    ({"timeout_s": float("inf")}, "timeout_s=inf"),
    ({"poll_s": -1}, "poll_s=-1"),
    ({"name": "local", "model": "/no/such/folder"}, "/no/such/folder"),
])  # fmt: skip
def test_bad_settings_are_one_line(given: dict[str, Any], words: str):
    with pytest.raises(UserError) as refused:
        open_engine(EngineSettings(**{"name": "openai", "model": "m", **given}))
    assert words in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_engine_is_chosen_by_name():
    assert isinstance(open_engine(EngineSettings("openai", "m")), OpenAIServer)
    assert isinstance(open_engine(EngineSettings("openai_batch", "m")), OpenAIBatch)


@pytest.mark.skipif(find_spec("vllm") is not None, reason="vllm is installed")
def test_without_vllm_the_engine_says_how_to_get_it():
    with pytest.raises(UserError, match=r"pip install 'alpaca-ablations\[vllm\]'"):
        open_engine(EngineSettings("vllm", "m"))


def test_settings_budgets_and_prices_need_no_heavy_import():
    heavy = "{'torch', 'transformers', 'openai', 'vllm'}"
    code = (
        "import sys, alpaca.engines.opening, alpaca.engines.budget, alpaca.engines.prices; "
        f"print({heavy} & set(sys.modules))"
    )
    outcome = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=300)
    assert outcome.stdout.strip() == "set()"
