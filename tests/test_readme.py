"""The README's commands are right: each composes and passes the checks, each make target exists."""

import re
import shlex

import pytest
from commands import CHECKOUT
from test_config import composed

from alpaca import paths
from alpaca.checks import check

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^    \S*python -m alpaca\.(run|inspect) (.*?)(?:\s+#.*)?$", README, re.MULTILINE)


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 6


@pytest.mark.parametrize(("command", "arguments"), COMMANDS, ids=lambda text: text[:40])
def test_every_command_of_the_readme_composes(command: str, arguments: str):
    overrides = [part for part in shlex.split(arguments) if "=" in part]
    first_of_each_sweep = [re.sub(r"=([^\[\]{}]*?),.*", r"=\1", part) for part in overrides]
    check(composed(*first_of_each_sweep))


def test_every_make_target_of_the_readme_exists():
    makefile = (CHECKOUT / "Makefile").read_text(encoding="utf-8")
    named = set(re.findall(r"^    make (\S+)", README, re.MULTILINE))
    assert named >= {"quickstart", "test"}
    assert all(re.search(rf"^{target}:", makefile, re.MULTILINE) for target in named)


def test_every_option_the_readme_names_exists():
    rows = re.findall(r"^\| `(\w+)` \| [^|]* \| ([^|]*) \|$", README, re.MULTILINE)
    rows = [(group, re.findall(r"`(\w+)`", options)) for group, options in rows]
    assert len(rows) >= 9
    missing = [
        f"{group}={option}"
        for group, options in rows
        for option in options
        if not (paths.conf_dir() / group / f"{option}.yaml").is_file()
    ]
    assert not missing
