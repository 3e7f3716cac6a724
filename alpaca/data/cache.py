"""Tokenised rows kept on disk under a name made of everything they depend on.

A file is found only when rows, template, tokenizer, settings and code are the same, so it is never stale;
it is written beside and renamed, so several processes at once do no harm; a damaged one counts as absent.
The folder is kept below a bound by removing what was unused longest. `train.cache=false` leaves it alone.
"""

import contextlib
import hashlib
import json
import os
import tempfile
import zipfile
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from alpaca import paths
from alpaca.data.encoding import Examples

CODE_VERSION = 1  # raise it whenever alpaca/data/encoding.py gives other tokens for the same rows
UNFINISHED = ".unfinished-"
MAX_BYTES = 4 << 30  # 52,002 Alpaca rows take about 27 MB
ARRAYS = ("tokens", "offsets", "prompt_lengths", "rows")


def folder() -> Path:
    """Where tokenised rows are kept."""
    return paths.cache_dir() / "tokens"


def kept(
    key: Mapping[str, Any], make: Callable[[], Examples], *, enabled: bool = True, max_bytes: int = MAX_BYTES
) -> tuple[Examples, bool]:
    """The examples for `key`, from disk or made and kept; the flag says whether they were on disk.

    Args:
        key: names everything the examples depend on, in plain values.
        make: computes them; what it raises goes through, and nothing is kept.
        enabled: false neither reads nor writes.
        max_bytes: bound on the folder's size.
    """
    if not enabled:
        return make(), False
    text = json.dumps({**key, "code": CODE_VERSION}, sort_keys=True)
    file = folder() / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"
    found = _read(file)
    if found is not None:
        with contextlib.suppress(OSError):
            os.utime(file)
        return found, True
    made = make()
    _write(file, made)
    _evict(file, max_bytes)
    return made, False


def _read(file: Path) -> Examples | None:
    try:
        with np.load(file, allow_pickle=False) as stored:
            facts = json.loads(stored["facts"].tobytes())
            arrays = {name: stored[name] for name in ARRAYS}
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return Examples(
        **arrays,
        truncated=facts["truncated"],
        dropped=Counter(facts["dropped"]),
        prompts_trained=facts["prompts_trained"],
    )


def _write(file: Path, examples: Examples) -> None:
    facts = {
        "truncated": examples.truncated,
        "dropped": dict(examples.dropped),
        "prompts_trained": examples.prompts_trained,
    }
    arrays = {name: getattr(examples, name) for name in ARRAYS}
    beside = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=file.parent, prefix=UNFINISHED)
        with os.fdopen(descriptor, "wb") as stream:
            np.savez(stream, facts=np.frombuffer(json.dumps(facts).encode(), dtype=np.uint8), **arrays)
        paths.give_usual_mode(Path(beside))
        os.replace(beside, file)
    except OSError:  # the cache only saves time
        if beside is not None:
            Path(beside).unlink(missing_ok=True)


def _evict(newest: Path, max_bytes: int) -> None:
    """Remove files, unused longest first, until the folder fits; never the one just written."""
    entries = []
    with contextlib.suppress(OSError):
        for entry in (*newest.parent.glob("*.npz"), *newest.parent.glob(f"{UNFINISHED}*")):
            with contextlib.suppress(OSError):  # another process may remove it meanwhile
                status = entry.stat()
                entries.append((status.st_mtime, status.st_size, entry))
    size = sum(bytes_ for _, bytes_, _ in entries)
    for _, bytes_, entry in sorted(entries, key=lambda item: item[:2]):
        if size <= max_bytes:
            return
        if entry != newest:
            with contextlib.suppress(OSError):
                entry.unlink()
            size -= bytes_
