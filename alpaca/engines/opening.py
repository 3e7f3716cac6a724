"""From settings to an engine. What an engine needs is imported when it is chosen."""

import math
from difflib import get_close_matches

from alpaca.engines.exchange import Engine, EngineSettings
from alpaca.errors import UserError

ENGINES = ("openai", "openai_batch", "local", "vllm")
APIS = ("chat", "completions")


def check_settings(settings: EngineSettings) -> None:
    """What can be said about settings without opening anything.

    Raises:
        UserError: the first setting that cannot work.
    """
    if settings.name not in ENGINES:
        close = get_close_matches(settings.name, ENGINES, n=1, cutoff=0.5)
        raise UserError(
            f"engine={settings.name}: no such engine; "
            + (f"did you mean {close[0]}?" if close else f"choose one of {', '.join(ENGINES)}")
        )
    if settings.api not in APIS:
        raise UserError(f"api={settings.api}: choose one of {', '.join(APIS)}")
    if not settings.model:
        raise UserError(f"engine={settings.name}: model is empty; name the model to ask")
    for key, value, least in (("concurrency", settings.concurrency, 1), ("retries", settings.retries, 0)):
        if value < least:
            raise UserError(f"{key}={value}: must be at least {least}")
    for key, seconds in (("timeout_s", settings.timeout_s), ("poll_s", settings.poll_s)):
        if not (math.isfinite(seconds) and seconds > 0):
            raise UserError(f"{key}={seconds}: must be above 0 seconds")


def open_engine(settings: EngineSettings) -> Engine:
    """The engine of that name, ready for `answer`; nothing has been sent yet.

    Raises:
        UserError: settings that cannot work, a missing key, package or model.
    """
    check_settings(settings)
    if settings.name == "openai":
        from alpaca.engines.openai_server import OpenAIServer

        return OpenAIServer(settings)
    if settings.name == "openai_batch":
        from alpaca.engines.openai_batch import OpenAIBatch

        return OpenAIBatch(settings)
    if settings.name == "local":
        from alpaca.engines.local import open_local

        return open_local(settings)
    from alpaca.engines.vllm_offline import open_vllm

    return open_vllm(settings)
