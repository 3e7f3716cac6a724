"""From a Hydra command line to a typed, checked `Config`; from any error to one line and an exit status.

Hydra composes `conf/`; the schema is its first entry, so an unknown key in a YAML or on the command
line is an error. Keys added with `+`, which Hydra would drop silently, are found by merging the
composed config into the schema once more. torch and transformers are never imported here.
"""

import functools
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_type_hints

import hydra
import yaml
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alpaca import paths
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError

OPEN_KEYS = (
    "model.architecture",
    "data_source.columns",
    "data_source.mix",
    "data_source.sources",
    "generation.columns",
)
INTERRUPTED = 130  # the shell's status for Ctrl-C


def register_sweep_dir() -> None:
    """Where a multirun goes: `output_dir`, else `outputs/sweeps/<name>`."""
    OmegaConf.register_new_resolver(
        "sweep_dir", lambda *, _root_: str(_root_.output_dir or Path("outputs") / "sweeps" / _root_.name), replace=True
    )


def register_run_dir(choose: Callable[[DictConfig], Path]) -> None:
    """Where a single run goes, chosen from its composed config."""
    OmegaConf.register_new_resolver("run_dir", lambda *, _root_: str(choose(_root_)), replace=True)


def refuse_multirun(sentence: str) -> None:
    """This command works on one config: `-m` and `sweep=` end with `sentence`."""

    def refuse() -> str:
        raise UserError(sentence)

    OmegaConf.register_new_resolver("sweep_dir", refuse, replace=True)


# At import too: a launcher's process on another machine imports this module and runs none of our commands.
register_sweep_dir()


def typed(config: DictConfig) -> Config:
    """The composed config as plain dataclasses, every interpolation resolved.

    Raises:
        UserError: a key the schema does not know (`+key=...`), a value of the wrong type, a missing value.
    """
    try:
        job = OmegaConf.masked_copy(config, [str(key) for key in config if key != "hydra"])
        merged = OmegaConf.merge(OmegaConf.structured(Config), OmegaConf.to_container(job, resolve=True))
        missing = sorted(OmegaConf.missing_keys(merged))
        if missing:
            raise UserError(f"{missing[0]} is missing: give it a value, {missing[0]}=...")
        result = OmegaConf.to_object(merged)
    except OmegaConfBaseException as error:
        raise UserError(explain(error)) from error
    assert isinstance(result, Config)
    source = result.data_source
    source.sources = {name: {**_named_source(name), **(source.sources.get(name) or {})} for name in source.mix}
    return result


def _named_source(name: str) -> dict[str, Any]:
    """The settings of `data_source/NAME.yaml`, from the user's own folders first: what a mix is made of.

    Raises:
        UserError: no such file.
    """
    folders = [paths.conf_dir()]
    if GlobalHydra.instance().is_initialized():
        searched = GlobalHydra.instance().config_loader().get_search_path().get_path()
        given = [Path(item.path.removeprefix("file://")) for item in searched if item.provider == "command-line"]
        folders = given + folders
    for folder in folders:
        if (file := folder / "data_source" / f"{name}.yaml").is_file():
            return dict(yaml.safe_load(file.read_text(encoding="utf-8")) or {})
    known = sorted({file.stem for folder in folders for file in (folder / "data_source").glob("*.yaml")} - {"mix"})
    raise UserError(f"data_source.mix.{name}: no such source; {_nearest(name, known)}")


def register() -> None:
    """Put the schema and the sweep files into Hydra's config store."""
    store = ConfigStore.instance()
    schema = OmegaConf.structured(Config)
    for key in OPEN_KEYS:  # else Hydra wants `+` before a name that is the user's to choose
        OmegaConf.set_struct(OmegaConf.select(schema, key), False)
    store.store(name="schema", node=schema)
    for file in sorted(paths.sweeps_dir().glob("*.yaml")):
        text = file.read_text(encoding="utf-8")
        package = "_global_" if "@package _global_" in text.splitlines()[0] else None
        store.store(group="sweep", name=file.stem, node=OmegaConf.create(text), package=package)


def main(task: Callable[[DictConfig], Any], argv: list[str] | None = None) -> int:
    """Compose what the command line says, hand it to `task`, and return the exit status.

    With `HYDRA_FULL_ERROR` set Hydra raises instead of printing and exiting, so that its own errors
    become one line too (exit 2). A traceback appears only for a bug in this program.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # conf/hydra/launcher has files by the plugins' own names: they are meant to be checked against the plugins' schemas
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated")
    arguments = given_arguments(argv)
    sys.argv = [sys.argv[0], *arguments]
    errors: list[Exception] = []
    home = os.getpid()

    @functools.wraps(task)
    def guarded(config: DictConfig) -> None:  # Hydra would print a line of its own about an error in the task
        try:
            task(config)
        except Exception as error:
            if os.getpid() != home:  # in a launcher's process: it takes the error home
                raise
            errors.append(error)

    try:
        register()
        hydra.main(config_path=str(paths.conf_dir()), config_name="config", version_base="1.3")(guarded)()
        for error in errors:
            raise error
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    except Exception as error:
        for cause in _causes(error):
            if isinstance(cause, (UserError, RunFailed)):
                return fail(str(cause), cause.exit_status)
            if isinstance(cause, OSError) and cause.filename and not isinstance(error, RunFailed):
                return fail(f"{cause.filename}: {cause.strerror}; choose another folder with output_dir=DIR", 2)
        if isinstance(error, (HydraException, OmegaConfBaseException)) or _raised_while_composing(error):
            return fail(explain(error, arguments), 2)
        raise


def given_arguments(argv: list[str] | None = None) -> list[str]:
    """The command line; under an agent of a W&B sweep None, as Python writes it, is null."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if "WANDB_SWEEP_ID" not in os.environ:
        return arguments
    return [re.sub(r"^([\w./@]+)=None$", r"\1=null", argument) for argument in arguments]


def fail(message: str, status: int) -> int:
    """Print one line on standard error and return the exit status."""
    print(f"alpaca: {' '.join(message.split())}", file=sys.stderr)
    return status


def unswept_keys(arguments: list[str]) -> set[str]:
    """Keys that the command line gives one value for all jobs of a multirun; none where it cannot be read."""
    parser = OverridesParser.create()
    overrides = [argument for argument in arguments if "=" in argument and not argument.startswith("-")]
    try:
        typed = [parser.parse_override(argument) for argument in overrides]
    except HydraException:  # composing will say what is wrong
        return set()
    swept = {str(override.get_key_element()): override.is_sweep_override() for override in typed}  # the last one counts
    return {key for key, several in swept.items() if not several}


def explain(error: BaseException, arguments: list[str] | None = None) -> str:
    """One line for an error of Hydra or OmegaConf: key, value, rule, nearest valid choice."""
    text = "\n".join(str(cause) for cause in _causes(error))
    if isinstance(error, AssertionError):  # OmegaConf's answer to a key below a section that is null
        below = [part for part in arguments or [] if part.partition("=")[0].count(".") > 1]
        return (
            f"{(below or ['an override'])[0]}: that section is null in this run; choose it first, as evaluation=quick"
        )
    if match := re.search(
        r"Could not find '([^']+)/([^/']+)'\s*\n+Available options in '[^']+':\n((?:\t.*\n?)+)", text
    ):
        return _no_such_option(match[1], match[2], match[3].split())
    if match := re.search(r"Could not load '([^']+)/([^/']+)'", text):
        listed = sorted(file.stem for file in (paths.conf_dir() / match[1]).glob("*.yaml"))
        return _no_such_option(match[1], match[2], listed)
    if match := re.search(r"Could not override '([^']+)'\.\s*\nNo match in the defaults list", text):
        return f"{match[1]}: no such group; {_nearest(match[1], sorted(set(_groups())))}"
    if match := re.search(r"[Kk]ey '([^']+)' (?:is )?not in '[^']*'", text):
        full = re.findall(r"full_key: (\S+)", text)
        key = full[-1] if full else match[1]
        where = re.search(r"In '([^']+)': (?:Config|Key)", text)
        place = f"conf/{where[1]}.yaml: " if where else ""
        return f"{place}{key}: no such setting; {_nearest(key, list(_keys(Config)))}"
    if match := re.search(r"Could not override '([^']+\.[^']+)'", text):
        return f"{match[1]}: not in this configuration; a new entry of a dictionary is written +{match[1]}=VALUE"
    if match := re.search(r"(?:Value|Object) '?(.*?)'? of type '(\w+)' (.*)", text):
        full = re.findall(r"full_key: (\S+)", text)
        return f"{full[-1] if full else 'value'}={match[1]}: {match[3].rstrip('.')}"
    if match := re.search(r"Environment variable '[^']+' not found|Interpolation key '[^']+' not found", text):
        return match[0]
    if match := re.search(r"Ambiguous value for argument '([^']+)'", text):
        return f"{match[1]}: several values are a sweep: put -m first; a list is written KEY=[a,b]"
    if match := re.search(r"Error merging override (.*)", text):
        rule = next((line for line in text.splitlines() if line.strip() and line != match[0]), "cannot be used here")
        return f"{match[1]}: {rule}; see alpaca/config/ for its type"
    nameless = any(argument.startswith("=") for argument in arguments or [])
    if nameless or any(isinstance(cause, OverrideParseException) for cause in _causes(error)):
        return _unreadable(arguments or [])
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    given = [argument for argument in arguments or [] if argument.split("=")[0] in first]
    return f"{first}{f' ({given[0]})' if given and given[0] not in first else ''}; see --help"


def _unreadable(arguments: list[str]) -> str:
    """The first override that Hydra's grammar cannot read, and how to write it."""
    parser = OverridesParser.create()
    for argument in arguments:
        if argument.startswith("-"):
            continue
        try:
            if argument.startswith("="):
                raise ValueError
            parser.parse_override(argument)
        except (HydraException, ValueError):
            key, equals, value = argument.partition("=")
            if not key or not equals:
                return f"{argument or repr(argument)}: not an override; write KEY=VALUE, as in train.seed=1"
            if value.startswith(("[", "{")):
                return f"{argument}: cannot be read; quote what is not plain in it: \"KEY=['a b', 'é', plain]\""
            inner = value.strip("'").replace("'", "\\'")
            return f"""{argument}: this value needs quotes that the shell leaves alone: "{key}='{inner}'\""""
    return "an override cannot be read; write KEY=VALUE, quoted as \"KEY='VALUE'\" where it has special characters"


def _raised_while_composing(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised it themselves: they meet some input with bare assertions."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
    return module.partition(".")[0] in {"hydra", "omegaconf"}


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _no_such_option(group: str, option: str, listed: list[str]) -> str:
    """One line; a question may be asked in other words than the file's name, so all sweeps are listed."""
    near = _nearest(option, listed)
    if group == "sweep" and not near.startswith("known:"):
        near += f" known: {', '.join(listed)}"
    return f"{group}={option}: no such option; {near}"


def _nearest(word: str, known: list[str]) -> str:
    dotted = [key for key in known if "." in key] if "." in word else known
    elsewhere = [key for key in dotted if "." in key and key.rsplit(".", 1)[-1] == word.rsplit(".", 1)[-1]]
    close = elsewhere[:1] or get_close_matches(word, dotted, n=1, cutoff=0.5)
    listed = ", ".join(known) if len(known) <= 20 else "see conf/ and alpaca/config/"
    return f"did you mean {close[0]}?" if close else f"known: {listed}"


def _groups() -> Iterator[str]:
    for file in paths.conf_dir().rglob("*.yaml"):
        if file.parent != paths.conf_dir():
            yield file.parent.name
    yield "sweep"


def _keys(schema: type, prefix: str = "") -> Iterator[str]:
    hints = get_type_hints(schema)
    for item in fields(schema):
        yield prefix + item.name
        for candidate in (hints[item.name], *get_args(hints[item.name])):
            if isinstance(candidate, type) and is_dataclass(candidate):
                yield from _keys(candidate, f"{prefix}{item.name}.")
