"""From a section of the config to its engine: settings, prices, the checks, and errors in the section's words.

`section` is always the section's dotted name, as the user types it in front of a key.
"""

import os
import re
from urllib.parse import urlsplit

from alpaca.config import EngineConfig
from alpaca.engines.dialect import LEAVABLE
from alpaca.engines.exchange import ADDRESS, KEY, EngineSettings
from alpaca.engines.prices import ON_THIS_MACHINE, Prices, prices_of
from alpaca.errors import UserError

_OWN_KEYS = re.compile(
    r"(?<![\w.])((?:engine|api|model|concurrency|retries|timeout_s)(?==)|base_url|budget_\w+|price_\w+)"
)


def engine_settings(filled: EngineConfig, *, api: str = "chat", state_dir: str | None = None) -> EngineSettings:
    """How the engine of a section without nulls is opened; `seed: null` sends no seed."""
    unseeded = getattr(filled, "seed", 0) is None
    return EngineSettings(
        name=filled.engine,
        model=filled.model or "",
        base_url=filled.base_url,
        api=api,
        concurrency=filled.concurrency or 1,
        timeout_s=filled.timeout_s,
        retries=filled.retries,
        state_dir=state_dir,
        poll_s=filled.poll_s,
        leave_out=(*filled.leave_out, *(("seed",) if unseeded else ())),
    )


def address(section: EngineConfig) -> str | None:
    """The server's address: as set, else of the environment variable OPENAI_BASE_URL; None is OpenAI's own."""
    if section.base_url is not None or section.engine in ON_THIS_MACHINE:
        return section.base_url
    return os.environ.get(ADDRESS, "").strip() or None


def prices(filled: EngineConfig) -> Prices | None:
    """What the model costs; None where nobody has said."""
    return prices_of(
        engine_settings(filled), price_prompt=filled.price_prompt, price_completion=filled.price_completion
    )


def check_engine(filled: EngineConfig, section: str) -> None:
    """Raise `UserError` for an address, prices or a budget that cannot work; nothing is opened."""
    _check_address(filled, section)
    if unknown := [name for name in filled.leave_out if name not in LEAVABLE]:
        raise UserError(
            f"{section}.leave_out={unknown}: choose from {', '.join(LEAVABLE)}; nothing else can be left out"
        )
    if (filled.price_prompt is None) != (filled.price_completion is None):
        raise UserError(
            f"{section}.price_prompt and {section}.price_completion go together: set both, in dollars a million tokens"
        )
    if filled.budget_usd is not None and prices(filled) is None:
        raise UserError(
            f"{section}.budget_usd={filled.budget_usd:g}: the price of {section}.model={filled.model} is not known; "
            f"give {section}.price_prompt and price_completion in dollars a million tokens, or limit "
            f"{section}.budget_tokens"
        )


def in_words_of(section: str, error: UserError) -> UserError:
    """An engine knows its settings by their own names; the user types them with the section in front."""
    text = _OWN_KEYS.sub(rf"{section}.\1", str(error))
    return type(error)(text.replace("model.weights", f"{section}.model"))


def _check_address(filled: EngineConfig, section: str) -> None:
    if filled.base_url is None:
        return
    if filled.engine in ON_THIS_MACHINE:
        raise UserError(
            f"{section}.base_url={filled.base_url}: {section}.engine={filled.engine} asks no server; set "
            f"{section}.engine=openai, or leave the address out"
        )
    try:
        address = urlsplit(filled.base_url)
        host, _ = address.hostname, address.port
    except ValueError:
        host = None
    if not host or address.scheme not in ("http", "https"):
        raise UserError(f"{section}.base_url={filled.base_url}: no web address; write it as http://127.0.0.1:8000/v1")
    if address.username or address.password or address.query:
        raise UserError(
            f"{section}.base_url={address.scheme}://...{host}...: an address is written into files, so it must hold no "
            f"password and no query; put the key into the environment as {KEY}"
        )
