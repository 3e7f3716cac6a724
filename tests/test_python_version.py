"""Python 3.14, on which Hydra 1.3 does not start, is refused in one line by package, pip and Makefile."""

import configparser
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import CHECKOUT, command_environment
from packaging.specifiers import SpecifierSet

NEWER = "import sys; sys.version_info = (3, 14, 0, 'final', 0); "


def test_the_package_refuses_it():
    done = subprocess.run(
        [sys.executable, "-c", f"{NEWER}import alpaca.run"], env=command_environment(), capture_output=True, text=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "Python 3.14" in done.stderr


def test_pip_refuses_it():
    settings = configparser.ConfigParser()
    settings.read(CHECKOUT / "setup.cfg")
    allowed = SpecifierSet(settings["options"]["python_requires"])
    assert [version in allowed for version in ("3.10.9", "3.11.0", "3.13.9", "3.14.0")] == [False, True, True, False]


@pytest.mark.parametrize("version", ["(3, 10, 9)", "(3, 14, 0)"])
def test_the_makefile_refuses_it_before_it_makes_anything(tmp_path: Path, version: str):
    for name in ("Makefile", "setup.cfg", "constraints.txt", "pyproject.toml"):
        shutil.copy(CHECKOUT / name, tmp_path)
    python = tmp_path / "python"
    python.write_text(
        f"#!{sys.executable}\nimport sys\nassert sys.argv[1] == '-c', sys.argv\nsys.version_info = {version}\n"
        "exec(sys.argv[2])\n"
    )
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "install", f"PYTHON={python}"], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith("alpaca needs Python 3.11, 3.12 or 3.13")
    assert not (tmp_path / ".venv").exists()
