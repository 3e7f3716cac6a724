"""Where the configuration folders, the shipped data and the cache are, in a checkout and in an installed wheel.

A wheel carries `conf/` and `sweeps/` as `alpaca/conf` and `alpaca/sweeps` (see `setup.cfg`); in a
checkout or an editable install they are at its top level. Nothing here imports anything heavy.
"""

import contextlib
import json
import os
import shlex
import shutil
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from alpaca.errors import UserError

PACKAGE = Path(__file__).resolve().parent
PACKAGE_PREFIX = "package:"


def conf_dir() -> Path:
    """The folder of `config.yaml` and its groups."""
    return _beside_package("conf")


def sweeps_dir() -> Path:
    """The folder of the sweep files, chosen with `sweep=NAME`."""
    return _beside_package("sweeps")


def shown(path: Path) -> Path:
    """`path` as it is short to type: relative where it is below the working directory."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def python_command() -> str:
    """How to start this interpreter, quoted for a shell: `python` in an activated environment, else its path."""
    found = shutil.which("python")
    if found is not None and Path(found).parent.absolute() == Path(sys.executable).parent.absolute():
        return "python"
    return shlex.quote(str(shown(Path(sys.executable))))


def _beside_package(name: str) -> Path:
    for folder in (PACKAGE / name, PACKAGE.parent / name):
        if any(folder.glob("*.yaml")):
            return folder
    raise UserError(f"{name}/ is missing beside {PACKAGE}: reinstall alpaca, or run it from its checkout")


def cache_dir() -> Path:
    """Converted models, scores before training and tokenised data: `$ALPACA_CACHE`, else the user's cache folder."""
    if configured := os.environ.get("ALPACA_CACHE"):
        return Path(configured).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "alpaca"


def packaged_file(reference: str, *, key: str, how_to_install: str = "") -> Path:
    """The file that `package:MODULE/PATH` names, found without importing the module.

    Raises:
        UserError: the package is not installed or has no such file; says how to install it.
    """
    module, _, relative = reference.removeprefix(PACKAGE_PREFIX).partition("/")
    try:
        spec = find_spec(module)
    except (ModuleNotFoundError, ValueError):  # the package around it is missing, or the name is none
        spec = None
    roots = list(spec.submodule_search_locations or []) if spec else []
    for root in roots:
        if (path := Path(root) / relative).is_file():
            return path
    what = f"package {module!r} has no file {relative!r}" if roots else f"package {module!r} is not installed"
    raise UserError(f"{key}={reference}: {what}; {how_to_install or f'install {module!r} with pip'}")


def keep_json(file: Path, content: Any) -> None:
    """Write a JSON file of the cache whole or not at all; a cache that cannot be written is no error."""
    beside = None
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        descriptor, beside = tempfile.mkstemp(dir=file.parent, prefix=".unfinished-")
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            json.dump(content, stream, default=str)
        give_usual_mode(Path(beside))
        os.replace(beside, file)
    except OSError:
        if beside is not None:
            Path(beside).unlink(missing_ok=True)


def give_usual_mode(path: Path) -> None:
    """Give a file, or a folder with all in it, the permissions the umask leaves, as any file that is just opened has.

    Temporary files and those of safetensors can be read by their owner alone. A disk that keeps no permissions is left
    as it is; a folder that hands on its group still does.
    """
    mask = umask()
    with contextlib.suppress(OSError):
        for each in (path, *(path.rglob("*") if path.is_dir() else ())):
            each.chmod(each.stat().st_mode & 0o7000 | ((0o777 if each.is_dir() else 0o666) & ~mask))


def umask() -> int:
    """The process's umask, read where it can be without changing it for a moment: other threads make files too."""
    try:
        with open("/proc/self/status", encoding="ascii", errors="replace") as status:
            return next(int(line.split()[1], 8) for line in status if line.startswith("Umask:"))
    except (OSError, StopIteration):
        mask = os.umask(0)
        os.umask(mask)
        return mask
