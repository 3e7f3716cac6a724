"""Judgements kept in the user's cache, so that another run asks for none of them again.

A file for each: its name is the question's id, a hash of everything the verdict depends on. Only answers
with a verdict are kept; what failed or could not be read is asked again. A damaged file counts as absent.
"""

import json
from pathlib import Path

from alpaca import paths
from alpaca.engines.exchange import Answer


def kept(question_id: str) -> Answer | None:
    """The stored answer to a question; None where there is none."""
    try:
        stored = json.loads(_file(question_id).read_text(encoding="utf-8"))
        text, reason = stored["text"], stored["finish_reason"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Answer(text, reason) if isinstance(text, str) and isinstance(reason, str) else None


def keep(question_id: str, answer: Answer, judge: str) -> None:
    """Store an answer that has a verdict."""
    file = _file(question_id)
    if not file.exists():
        paths.keep_json(file, {"judge": judge, "text": answer.text, "finish_reason": answer.finish_reason})


def _file(question_id: str) -> Path:
    return paths.cache_dir() / "judgements" / question_id[:2] / f"{question_id}.json"
