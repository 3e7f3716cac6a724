"""Rows of a hub data set, and a note when its content changed under the same name.

A source without a revision takes the newest commit. What it held is remembered in the cache folder, so
that a run can say that the rows are not those of an earlier run on this machine.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator
from pathlib import Path

from alpaca import paths
from alpaca.config import DataSourceConfig
from alpaca.data.files import KEY, Record
from alpaca.errors import UserError
from alpaca.signature import HUB_PREFIX, hub_commit

LOCAL_COPY = "without network use data_source=seed_tasks, or data_source=json data_source.path=FILE with a local copy"


def records(config: DataSourceConfig) -> tuple[Iterator[Record], str]:
    """The records of the data set `config.path` names, and the commit they are from.

    Raises:
        UserError: no such data set, revision, subset or split; a licence to accept first; no network.
    """
    name = str(config.path).removeprefix(HUB_PREFIX)
    commit = hub_commit("dataset", name, config.revision)
    import datasets
    from huggingface_hub import constants

    datasets.disable_progress_bars()
    logging.getLogger("huggingface_hub").setLevel(logging.ERROR)
    offline = constants.HF_HUB_OFFLINE
    try:
        _refuse_unknown(name, config.revision)
        loaded = datasets.load_dataset(name, config.subset, revision=commit, split=config.split)
    except UserError:
        raise
    except Exception as error:
        first = next(iter(str(error).splitlines()), "")[:200]
        raise UserError(
            f"{KEY}={config.path}: could not be loaded ({type(error).__name__}: {first}); {LOCAL_COPY}"
        ) from None
    finally:
        constants.HF_HUB_OFFLINE = offline
    where = f"{config.path}, row "
    return (Record(values, f"{where}{number}", number) for number, values in enumerate(loaded, 1)), commit


def _refuse_unknown(name: str, revision: str | None) -> None:
    """One question to the hub, without retries: what it refuses is an error, and no answer means offline."""
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    address = f"{KEY}={HUB_PREFIX}{name}"
    try:
        HfApi().dataset_info(name, revision=revision, timeout=10)
    except GatedRepoError:
        raise UserError(
            f"{address}: the hub asks you to accept its terms; accept them on its page and log in with `hf auth login`"
        ) from None
    except RepositoryNotFoundError:
        raise UserError(f"{address}: no such data set, or a private one; check OWNER/NAME or log in") from None
    except RevisionNotFoundError:
        raise UserError(f"{address}: data_source.revision={revision} does not exist; see its commits") from None
    except ValueError as error:
        raise UserError(f"{address}: {next(iter(str(error).splitlines()), '')[:200]}; write hub:OWNER/NAME") from None
    except Exception:
        constants.HF_HUB_OFFLINE = True  # the local cache answers at once, or says that it has nothing


def change_note(identity: str, commit: str | None, content_hash: str) -> str | None:
    """What to warn of when `identity` held other rows in an earlier run on this machine, else None.

    The new content is remembered, so one change is told once. A cache that cannot be written tells nothing.
    """
    name = hashlib.sha256(identity.encode()).hexdigest()[:24]
    file = paths.cache_dir() / "sources" / f"{name}.json"
    try:
        known = json.loads(file.read_text(encoding="utf-8"))
        before, before_commit, when = known["content_hash"], known["commit"], known["date"]
    except (OSError, ValueError, KeyError, TypeError):
        before, before_commit, when = content_hash, commit, ""
        known = None
    if known is None or before != content_hash:
        _remember(file, identity, commit, content_hash)
    if before == content_hash:
        return None
    pin = f"; data_source.revision={before_commit} gives the earlier rows" if before_commit else ""
    return (
        f"{identity} has changed since {when}: its rows hash to {content_hash[:12]}, then to {before[:12]}, so results "
        f"do not compare with runs from then{pin}"
    )


def _remember(file: Path, identity: str, commit: str | None, content_hash: str) -> None:
    record = {
        "source": identity,
        "commit": commit,
        "content_hash": content_hash,
        "date": time.strftime("%Y-%m-%d"),
    }
    paths.keep_json(file, record)
