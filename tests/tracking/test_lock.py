"""One process holds a folder; another is told which one does, and gets it once that one has ended."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from alpaca.tracking.lock import HeldError, hold

HOLDER = "import sys; from pathlib import Path; from alpaca.tracking.lock import hold; held = hold(Path(sys.argv[1])); "


def test_another_process_is_told_who_holds_the_file_and_gets_it_after_its_end(tmp_path: Path):
    file = tmp_path / "folder" / ".lock"
    other = subprocess.Popen(
        [sys.executable, "-c", HOLDER + "print(flush=True); sys.stdin.read()", str(file)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert other.stdout is not None
    other.stdout.readline()
    for _ in range(2):  # a refusal changes nothing
        with pytest.raises(HeldError, match=f"^process {other.pid} on {platform.node()}$"):
            hold(file)
    other.kill()
    other.communicate(timeout=240)
    with hold(file):
        assert file.read_text() == f"process {os.getpid()} on {platform.node()}"


def test_a_closed_file_is_held_by_nobody(tmp_path: Path):
    hold(tmp_path / ".lock").close()
    hold(tmp_path / ".lock").close()


def test_a_folder_that_is_a_file_is_an_error_of_the_system(tmp_path: Path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="exists"):
        hold(tmp_path / "file" / ".lock")
