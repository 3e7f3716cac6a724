"""What Hydra and OmegaConf say about a command line, as one line: key, value, rule, nearest valid choice."""

import re
from argparse import ArgumentError
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import get_args, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException

from alpaca import foreign_names, paths
from alpaca.config import Config
from alpaca.help import groups

# Plugins of Hydra that are installed apart, and what brings each.
PLUGINS = {
    "submitit": "'alpaca-ablations[sweep]'",
    "ray": "'alpaca-ablations[ray]'",
    "joblib": "hydra-joblib-launcher",
    "rq": "hydra-rq-launcher",
    "optuna": "hydra-optuna-sweeper",
    "ax": "hydra-ax-sweeper",
    "nevergrad": "hydra-nevergrad-sweeper",
}


def explain(error: BaseException, arguments: list[str] | None = None) -> str:
    """One line for an error of Hydra or OmegaConf: key, value, rule, nearest valid choice."""
    text = "\n".join(str(cause) for cause in causes(error))
    overrides = overrides_in(arguments or [])
    if isinstance(error, AssertionError):  # OmegaConf's answer to a key below a section that is null
        return _below_nothing(overrides)
    if plugin := _missing_plugin(text):
        return plugin
    for part in overrides:
        named = re.fullmatch(r"\+?(\w+)=([\d.+-]*|null|true|false)", part)
        if named and named[1] in (known := groups()):
            return f"{part}: no such option; known: {', '.join(known[named[1]])}"
    if match := re.search(
        r"Could not find '([^']+)/([^/']+)'\s*\n+Available options in '[^']+':\n((?:\t.*\n?)+)", text
    ):
        return _no_such_option(f"{match[1]}/{match[2]}", match[3].split())
    if match := re.search(r"Could not load '([^']+)/([^/']+)'", text):
        listed = sorted(file.stem for file in (paths.conf_dir() / match[1]).glob("*.yaml"))
        return _no_such_option(f"{match[1]}/{match[2]}", listed)
    if match := re.search(r"Could not override '([^']+)'\.\s*\nNo match in the defaults list", text):
        if (meant := foreign_names.setting(match[1])) is not None:
            return f"{match[1]}: no such group; did you mean {meant}?"
        return f"{match[1]}: no such group; {nearest(match[1], sorted(set(_groups())))}"
    if match := re.search(r"[Kk]ey '([^']+)' (?:is )?not in '[^']*'", text):
        full = re.findall(r"full_key: (\S+)", text)
        key = full[-1] if full else match[1]
        where = re.search(r"In '([^']+)': (?:Config|Key)", text)
        place = f"{_file_of(where[1], arguments or [])}: " if where else ""
        return f"{place}{key}: no such setting; {nearest(key, list(_keys(Config)))}"
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
        if "is not a ListConfig" in rule:
            key, _, value = match[1].partition("=")
            return f"{match[1]}: {key} is a list; write {key}=[{value}]"
        return f"{match[1]}: {rule}; see alpaca/config/ for its type"
    nameless = any(argument.startswith("=") for argument in overrides)
    if nameless or any(isinstance(cause, OverrideParseException) for cause in causes(error)):
        return _unreadable(overrides)
    first = next((line for line in text.splitlines() if line.strip()), type(error).__name__)
    given = [argument for argument in arguments or [] if argument.split("=")[0] in first]
    return f"{first}{f' ({given[0]})' if given and given[0] not in first else ''}; see --help"


def overrides_in(arguments: list[str]) -> list[str]:
    """The overrides among `arguments`: what is neither an option of Hydra's nor the value of one."""
    from hydra._internal.utils import get_args_parser

    parser = get_args_parser()
    parser.exit_on_error = False
    try:
        read, rest = parser.parse_known_intermixed_args([part for part in arguments if part != "--version"])
    except (ArgumentError, SystemExit):
        return [part for part in arguments if not part.startswith("-")]
    return [*read.overrides, *(part for part in rest if not part.startswith("-"))]


def wrong_override(overrides: list[str]) -> str | None:
    """What Hydra would answer with advice for YAML files, or take in silence: `+GROUP=`, `~GROUP`, an odd directory."""
    known, settings = groups(), set(_keys(Config))
    for part in overrides:
        key, _, value = part.lstrip("+~").partition("=")
        if part.startswith("+") and key in known:
            return f"{part}: {key} has an option in every run; write {key}={value}, without +"
        if part.startswith("~") and (key in known or key in {item.name for item in fields(Config)}):
            if key not in known:
                return f"{part}: a section cannot be taken away; give its keys the values you want"
            without = {"tracker": "tracker=disabled", "evaluation": "evaluation=none", "adapter": "adapter=full"}
            what = without.get(key, f"{key}=NAME, one of {', '.join(known[key])}")
            return f"{part}: a group cannot be taken away; choose an option: {what}"
        if part.startswith("~") and key in settings:
            return f"{part}: a setting cannot be taken away; write {key}=VALUE, or leave it out for the default"
    return None


def option_hint(argument: str, following: str | None) -> str | None:
    """For `--learning_rate 1e-4` and the like: how a setting is written here; None if it is no setting."""
    name, equals, value = argument.lstrip("-").partition("=")
    name = name.replace("-", "_")
    value = value if equals else (following or "")
    value = value if value and not value.startswith("-") else "VALUE"
    keys = set(_keys(Config))
    if name in groups() or name in keys:
        return f"{name}={value}"
    meant = foreign_names.setting(name)
    if meant is None:
        return None
    return f"{meant}={value}" if meant in keys else meant


def _below_nothing(overrides: list[str]) -> str:
    """A key of an evaluation that is not chosen."""
    chosen = [part.partition("=")[2].strip("[]").split(",") for part in overrides if part.startswith("evaluation=")]
    named = chosen[-1] if chosen else ["quick"]
    below = [part for part in overrides if part.partition("=")[0].count(".") > 1]
    other = [part for part in below if part.split(".")[1] not in named]
    first = (other or below or ["an override"])[0]
    section = first.split(".")[1] if "." in first else "quick"
    return f"{first}: that section is null in this run; choose it first, as evaluation={section}"


def _missing_plugin(text: str) -> str | None:
    """Which package brings a launcher or sweeper that is not installed."""
    match = re.search(r"Could not (?:find|load) '(hydra/(?:launcher|sweeper))/(\w+)'", text)
    target = re.search(r"Unknown plugin class : '([\w.]+)'", text) or re.search(r"Error loading '([\w.]+)'", text)
    named = match[2] if match else target[1] if target else ""
    name = next((name for name in PLUGINS if re.search(rf"(?:^|_){name}(?:_|$|\.)", named)), None)
    if name is None:
        return None
    what = f"{match[1]}={match[2]}" if match else f"hydra's {name} plugin"
    return f"{what}: the plugin is not installed; pip install {PLUGINS[name]}"


def _file_of(option: str, arguments: list[str]) -> str:
    """The YAML file of GROUP/NAME, as Hydra finds it: in the folder given with --config-dir, else a shipped one."""
    for index, part in enumerate(arguments):
        name, equals, value = part.partition("=")
        if name in ("--config-dir", "-cd"):
            folder = value if equals else "".join(arguments[index + 1 : index + 2])
            if (file := Path(folder) / f"{option}.yaml").is_file():
                return str(file)
    return f"sweeps/{option.partition('/')[2]}.yaml" if option.startswith("sweep/") else f"conf/{option}.yaml"


def _unreadable(overrides: list[str]) -> str:
    """The first override that Hydra's grammar cannot read, and how to write it."""
    parser = OverridesParser.create()
    for index, argument in enumerate(overrides):
        try:
            if argument.startswith("="):
                raise ValueError
            parser.parse_override(argument)
        except (HydraException, ValueError):
            key, equals, value = argument.partition("=")
            if not key or not equals:
                return f"{argument or repr(argument)}: not an override; {_how_to_write(overrides, index)}"
            if (key, value) != (key.strip(), value.strip()):
                return f"{argument}: no spaces around =; write {key.strip()}={value.strip()}"
            if value.startswith("="):
                return f"{argument}: one = is enough; write {key}={value.lstrip('=')}"
            if value.startswith(("[", "{")):
                return f"{argument}: cannot be read; quote what is not plain in it: \"KEY=['a b', 'é', plain]\""
            inner = value.strip("'").replace("'", "\\'")
            return f"""{argument}: this value needs quotes that the shell leaves alone: "{key}='{inner}'\""""
    return "an override cannot be read; write KEY=VALUE, quoted as \"KEY='VALUE'\" where it has special characters"


def _how_to_write(overrides: list[str], index: int) -> str:
    """What a word without = may have been meant as."""
    word, following = overrides[index], "".join(overrides[index + 1 : index + 2])
    name, colon, value = word.partition(":")
    keys = {*groups(), *_keys(Config)}
    if colon and name in keys:
        return f"write {name}={value.strip()}"
    if word in keys and following and "=" not in following:
        return f"write {word}={following}"
    before = overrides[index - 1] if index else ""
    if "=" in before and word and word not in keys:
        key, _, value = before.partition("=")
        return f"write KEY=VALUE, as in train.seed=1, and a value with spaces in quotes: \"{key}='{value} {word}'\""
    return "write KEY=VALUE, as in train.seed=1"


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _no_such_option(path: str, listed: list[str]) -> str:
    """One line for GROUP/NAME, where NAME may be what is given elsewhere: a hub id, a folder or a file."""
    known = groups()
    group = next((name for name in known if path.startswith(f"{name}/")), path.rpartition("/")[0])
    option = path.removeprefix(f"{group}/")
    listed = known.get(group, listed)
    is_file = Path(option).is_file() or Path(option).suffix in (".json", ".jsonl", ".csv", ".parquet", ".gz", ".zst")
    if group == "data_source" and (is_file or "/" in option or Path(option).is_dir()):
        way = f"data_source=json data_source.path={option}" if is_file or option.startswith(("/", ".", "~")) else ""
        return (
            f"{group}={option}: no such option; did you mean {way or f'data_source=hub data_source.path=hub:{option}'}?"
        )
    if group == "model" and ("/" in option or Path(option).is_dir()):
        return f"{group}={option}: no such option; a model of the hub or a folder is model.weights={option}"
    if (meant := foreign_names.OPTIONS.get(group, {}).get(option.lower())) is not None:
        return f"{group}={option}: no such option; did you mean {meant}?"
    near = nearest(option.lower(), listed)
    if group == "sweep" and not near.startswith("known:"):
        near += f" known: {', '.join(listed)}"
    return f"{group}={option}: no such option; {near}"


def nearest(word: str, known: list[str]) -> str:
    """The likeliest of `known`: by another trainer's name for it, in the same section, else by spelling."""
    if len(known) > 20 and (meant := foreign_names.setting(word)) is not None and meant != word:
        return f"did you mean {meant}?"
    dotted = [key for key in known if "." in key] if "." in word else known
    section, _, last = word.rpartition(".")
    beside = {key.rpartition(".")[2]: key for key in dotted if section and key.rpartition(".")[0] == section}
    siblings = [beside[name] for name in get_close_matches(last, beside, n=1)]
    elsewhere = [key for key in dotted if "." in key and key.rpartition(".")[2] == last]
    found = (
        siblings
        or get_close_matches(word, elsewhere, n=1, cutoff=0.0)
        or get_close_matches(word, dotted, n=1, cutoff=0.5)
    )
    listed = ", ".join(known) if len(known) <= 20 else "see conf/ and alpaca/config/"
    return f"did you mean {found[0]}?" if found else f"known: {listed}"


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
