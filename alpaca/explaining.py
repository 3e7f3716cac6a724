"""What Hydra and OmegaConf say about a command line, as one line: key, value, rule, nearest valid choice."""

import re
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from difflib import get_close_matches
from typing import get_args, get_type_hints

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, OverrideParseException

from alpaca import paths
from alpaca.config import Config
from alpaca.help import groups

MEANT = {"model.path": "model.weights"}  # keys that people try, where the nearest by spelling is another thing


def explain(error: BaseException, arguments: list[str] | None = None) -> str:
    """One line for an error of Hydra or OmegaConf: key, value, rule, nearest valid choice."""
    text = "\n".join(str(cause) for cause in causes(error))
    if isinstance(error, AssertionError):  # OmegaConf's answer to a key below a section that is null
        below = [part for part in arguments or [] if part.partition("=")[0].count(".") > 1]
        return (
            f"{(below or ['an override'])[0]}: that section is null in this run; choose it first, as evaluation=quick"
        )
    for part in arguments or []:
        named = re.fullmatch(r"\+?(\w+)=([\d.+-]*|null|true|false)", part)
        if named and named[1] in (known := groups()):
            return f"{part}: no such option; known: {', '.join(known[named[1]])}"
    if match := re.search(
        r"Could not find '([^']+)/([^/']+)'\s*\n+Available options in '[^']+':\n((?:\t.*\n?)+)", text
    ):
        return _no_such_option(match[1], match[2], match[3].split())
    if match := re.search(r"Could not load '([^']+)/([^/']+)'", text):
        listed = sorted(file.stem for file in (paths.conf_dir() / match[1]).glob("*.yaml"))
        return _no_such_option(match[1], match[2], listed)
    if match := re.search(r"Could not override '([^']+)'\.\s*\nNo match in the defaults list", text):
        return f"{match[1]}: no such group; {nearest(match[1], sorted(set(_groups())))}"
    if match := re.search(r"[Kk]ey '([^']+)' (?:is )?not in '[^']*'", text):
        full = re.findall(r"full_key: (\S+)", text)
        key = full[-1] if full else match[1]
        where = re.search(r"In '([^']+)': (?:Config|Key)", text)
        place = f"conf/{where[1]}.yaml: " if where else ""
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
        return f"{match[1]}: {rule}; see alpaca/config/ for its type"
    nameless = any(argument.startswith("=") for argument in arguments or [])
    if nameless or any(isinstance(cause, OverrideParseException) for cause in causes(error)):
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


def causes(error: BaseException) -> Iterator[BaseException]:
    """The error, and what it came from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__


def _no_such_option(group: str, option: str, listed: list[str]) -> str:
    """One line; a question may be asked in other words than the file's name, so all sweeps are listed."""
    near = nearest(option, listed)
    if group == "sweep" and not near.startswith("known:"):
        near += f" known: {', '.join(listed)}"
    return f"{group}={option}: no such option; {near}"


def nearest(word: str, known: list[str]) -> str:
    """The likeliest of `known`: in the same section, else by the same name in another, else by spelling."""
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
    return f"did you mean {MEANT.get(word) or found[0]}?" if found else f"known: {listed}"


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
