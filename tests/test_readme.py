"""The commands of README and docs are right: each composes and passes the checks, each make target exists."""

import re
import shlex

import pytest
from commands import CHECKOUT
from test_config import composed

from alpaca import paths
from alpaca.checks import check

README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
GUIDES = [file.read_text(encoding="utf-8") for file in sorted((CHECKOUT / "docs").glob("*.md"))]
WRITTEN = re.compile(r"^    \S*python -m alpaca\.(run|inspect|plan) (.*?)(?:\s+#.*)?$", re.MULTILINE)
# A file of the reader's, a plugin's ranges, an option with a value, a mix, which has no path; a line that goes on.
ELSEWHERE = ("--config-dir", "hydra/sweeper=optuna", "--fail-on", "data_source.mix=", "\\")
COMMANDS = [
    command
    for command in dict.fromkeys(found for text in (README, *GUIDES) for found in WRITTEN.findall(text))
    if not any(part in command[1] for part in ELSEWHERE)
]


def test_the_readme_shows_commands():
    assert len(COMMANDS) >= 30


@pytest.mark.parametrize(("command", "arguments"), COMMANDS, ids=lambda text: text[:40])
def test_every_command_of_the_readme_and_the_guides_composes(command: str, arguments: str):
    overrides = [part for part in shlex.split(arguments) if "=" in part and not part.startswith(("-", "hydra"))]
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


def test_no_documented_command_has_brackets_that_zsh_would_read():
    lines = [
        line for text in (README, *GUIDES) for line in text.splitlines() if re.match(r"    \S*(python|pip) .*\[", line)
    ]
    lines = [line for line in lines if " [--" not in line]  # a synopsis
    assert lines
    for line in lines:
        assert "[" not in re.sub(r"'[^']*'|\"[^\"]*\"| #.*", "", line), line
