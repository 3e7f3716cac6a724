"""From a Hydra command line to a typed, checked `Config`; from any error to one line and an exit status.

Hydra composes `conf/`; the schema is its first entry, so an unknown key in a YAML or on the command
line is an error. Keys added with `+`, which Hydra would drop silently, are found by merging the
composed config into the schema once more. torch and transformers are never imported here.
"""

import os
import re
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from alpaca import __version__, paths
from alpaca.checks import check_lists
from alpaca.commands import INTERRUPTED as INTERRUPTED
from alpaca.commands import fail as fail
from alpaca.commands import unknown_option
from alpaca.config import Config
from alpaca.errors import RunFailed, UserError
from alpaca.explaining import causes, explain, nearest, overrides_in, wrong_override
from alpaca.signature import RANDOM

OPEN_KEYS = (
    "model.architecture",
    "data_source.columns",
    "data_source.mix",
    "data_source.sources",
    "generation.columns",
)


def register_sweep_dir() -> None:
    """Where a multirun goes: `output_dir`, else `outputs/sweeps/<name>`."""

    def choose(*, _root_: DictConfig) -> str:
        refuse_chdir(_root_)
        return str(_root_.output_dir or Path("outputs") / "sweeps" / _root_.name)

    OmegaConf.register_new_resolver("sweep_dir", choose, replace=True)


def register_run_dir(choose: Callable[[DictConfig], Path]) -> None:
    """Where a single run goes, chosen from its composed config."""

    def chosen(*, _root_: DictConfig) -> str:
        refuse_chdir(_root_)
        return str(choose(_root_))

    OmegaConf.register_new_resolver("run_dir", chosen, replace=True)


def refuse_chdir(composed: DictConfig) -> None:
    """Called before Hydra makes a folder.

    Raises:
        UserError: Hydra is asked to change into the run's folder.
    """
    if OmegaConf.select(composed, "hydra.job.chdir"):
        raise UserError(
            "hydra.job.chdir=true: relative paths are read from the folder in which a command is typed; leave it out, "
            "output_dir=DIR says where a run is written"
        )


def refuse_multirun(sentence: str) -> None:
    """This command works on one config: `-m` and `sweep=` end with `sentence`."""

    def refuse() -> str:
        raise UserError(sentence)

    OmegaConf.register_new_resolver("sweep_dir", refuse, replace=True)


# At import too: a launcher's process on another machine imports this module and runs none of our commands.
register_sweep_dir()


def typed(config: DictConfig) -> Config:
    """The composed config as plain dataclasses, every interpolation resolved, a folder of weights as absolute path.

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
    check_lists(result)
    if (weights := Path(result.model.weights).expanduser()).is_dir() and result.model.weights not in ("", RANDOM):
        result.model.weights = str(weights.absolute())  # the run is evaluated and exported from other directories too
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
    raise UserError(f"data_source.mix.{name}: no such source; {nearest(name, known)}")


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


def main(
    task: Callable[[DictConfig], Any], argv: list[str] | None = None, check: Callable[[DictConfig], Any] = typed
) -> int:
    """Compose what the command line says, hand it to `task`, and return the exit status.

    `--cfg job` prints the config in place of the task; `check` then says what is wrong with it.

    With `HYDRA_FULL_ERROR` set Hydra raises instead of printing and exiting, so that its own errors
    become one line too (exit 2). A traceback appears only for a bug in this program.
    """
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # conf/hydra/launcher has files by the plugins' own names: they are meant to be checked against the plugins' schemas
    warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated")
    typed_as = list(sys.argv[1:] if argv is None else argv)
    if "--version" in typed_as:
        print(f"alpaca {__version__}")
        return 0
    if (wrong := _wrong_option(typed_as) or wrong_override(overrides_in(typed_as))) is not None:
        return fail(wrong, 2)
    arguments = given_arguments(argv)
    sys.argv = [sys.argv[0], *arguments]
    guarded, checking = _Guarded(task), _Guarded(check)
    try:
        register()
        command = hydra.main(config_path=str(paths.conf_dir()), config_name="config", version_base="1.3")
        command(guarded)()
        if (shown := _as_single_run(arguments)) is not None:
            sys.argv = [sys.argv[0], *shown]
            command(checking)()
        if (error := guarded.error or checking.error) is not None:
            raise error
        return 0
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    except Exception as error:
        for cause in causes(error):
            if isinstance(cause, (UserError, RunFailed)):
                return fail(str(cause), cause.exit_status)
            if isinstance(cause, OSError) and cause.filename and not isinstance(error, RunFailed):
                return fail(f"{cause.filename}: {cause.strerror}; choose another folder with output_dir=DIR", 2)
        if isinstance(error, (HydraException, OmegaConfBaseException)) or _raised_while_composing(error):
            return fail(explain(error, arguments), 2)
        raise


class _Guarded:
    """The task as Hydra calls it; a launcher may pickle it.

    Hydra prints a line of its own about an error in the task. So an error is kept for `main`, unless another sweeper,
    which counts failures, or another launcher, which takes them home, wants to know.
    """

    def __init__(self, task: Callable[[DictConfig], Any]):
        self.task = task
        self.error: Exception | None = None

    def __call__(self, config: DictConfig) -> Any:
        try:
            return self.task(config)
        except Exception as error:
            if is_launched(HydraConfig.get()):
                raise
            self.error = error
            return None


def is_launched(hydra: Any) -> bool:
    """Whether this is a multirun for which another sweeper or another launcher was chosen."""
    names = (str(hydra.sweeper._target_), str(hydra.launcher._target_))
    ours = names[0].endswith("BasicSweeper") and names[1].endswith("BasicLauncher")
    return hydra.mode == RunMode.MULTIRUN and not ours


def _as_single_run(arguments: list[str]) -> list[str] | None:
    """After `--cfg`: the same composition as a run that leaves nothing, to check it; None where there is nothing to."""
    asked = get_args_parser().parse_args(arguments)
    if asked.cfg not in ("job", "all") or asked.package or not all(map(_is_plain, asked.overrides)):
        return None
    folder = ["--config-dir", asked.config_dir] if asked.config_dir else []
    name = ["--config-name", asked.config_name] if asked.config_name else []
    return [*folder, *name, *asked.overrides, "hydra.mode=RUN", "hydra.run.dir=.", "hydra.output_subdir=null"]


def _is_plain(override: str) -> bool:
    """Whether an override gives one value."""
    return not OverridesParser.create().parse_override(override).is_sweep_override()


def hydra_options() -> tuple[str, ...]:
    """Hydra's own, such as --cfg and -m."""
    return tuple(name for action in get_args_parser()._actions for name in action.option_strings)


def _wrong_option(arguments: list[str]) -> str | None:
    """What is wrong with Hydra's own options, in one line: its parser would print its usage, too."""
    if (wrong := unknown_option(arguments, hydra_options(), settings=True)) is not None:
        return f"{wrong}; see --help"
    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        parser.parse_known_intermixed_args(arguments)
    except ArgumentError as error:
        return f"{str(error).removeprefix('argument ')}; see --hydra-help"
    return None


def _options_first(arguments: list[str]) -> list[str]:
    """Overrides behind the options: Hydra reads them only where they stand together."""
    overrides, options = overrides_in(arguments), list(arguments)
    for part in reversed(overrides):  # from the end: the value of an option may read the same
        del options[len(options) - 1 - options[::-1].index(part)]
    return [*options, *overrides]


def given_arguments(argv: list[str] | None = None) -> list[str]:
    """The command line, options first; under an agent of a W&B sweep None, as Python writes it, is null."""
    arguments = _options_first(list(sys.argv[1:] if argv is None else argv))
    if "WANDB_SWEEP_ID" not in os.environ:
        return arguments
    return [re.sub(r"^([\w./@]+)=None$", r"\1=null", argument) for argument in arguments]


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


def _raised_while_composing(error: BaseException) -> bool:
    """Whether Hydra or OmegaConf raised it themselves: they meet some input with bare assertions."""
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    module = frame.tb_frame.f_globals.get("__name__", "") if frame is not None else ""
    return module.partition(".")[0] in {"hydra", "omegaconf"}
