"""What is wrong with a file that a sweep or a run left, in words for one line; empty where nothing is.

Files appear whole (`tracking/run_directory.py`), so one that cannot be read was damaged afterwards: a full disk, an
interrupted copy, a hand.
"""

import json
from pathlib import Path
from typing import Any

import yaml

from alpaca.tracking.run_directory import FAILED, FINISHED, INTERRUPTED

SUMMARY = "summary.json"
ENDS = (FINISHED, FAILED, INTERRUPTED)


def of_summary(folder: Path) -> str:
    """Why the run in `folder` does not say how it ended although it has a summary, with file and line."""
    file = folder / SUMMARY
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{file}: {error.strerror}"
    except UnicodeDecodeError:
        return f"{file}: no text"
    except ValueError as error:
        return f"{file}, line {getattr(error, 'lineno', 1)}: no JSON ({getattr(error, 'msg', error)})"
    if not isinstance(found, dict):
        return f"{file}: no JSON object"
    return "" if found.get("status") in ENDS else f"{file}: its status is none of {', '.join(ENDS)}"


def mapping_of(file: Path) -> tuple[dict[str, Any], str]:
    """The mapping in a YAML file and what is wrong with it, with file and line; nothing and nothing for no file."""
    try:
        found = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}, ""
    except OSError as error:
        return {}, f"{file}: {error.strerror}"
    except UnicodeDecodeError:
        return {}, f"{file}: no text"
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark is not None else ""
        return {}, f"{file}{where}: no YAML ({getattr(error, 'problem', None) or type(error).__name__})"
    if not isinstance(found, dict):
        return {}, f"{file}: no mapping"
    return found, ""
