"""What a server says about a request it did not answer, read from a body of any form. Pure.

Known forms: OpenAI's `error` object, FastAPI's `detail` (a text or a list), lists of errors, an error as text, and
bodies that are plain text or a web page.
"""

import json
import re
from collections.abc import Mapping
from typing import Any

LONGEST_READ = 100_000  # characters of a body that are looked at
_INNER = ("error", "errors", "detail", "details")
_WORDS = ("message", "msg", "error_description", "error_message", "title", "reason", "raw", "code", "type")
_STATUS_OF = (  # for errors in a body with a status of success; the first that matches codes, then words
    (429, re.compile(r"rate.?limit|too.?many.?requests|resource.?exhausted|throttl")),
    (402, re.compile(r"insufficient.?(?:quota|credit|balance|fund)|quota|billing|payment|credits?\b")),
    (401, re.compile(r"api.?key|unauthori[sz]ed|(?:un|not.?)authenticated|authentication")),
    (403, re.compile(r"permission|forbidden|access.?denied")),
    (404, re.compile(r"not.?found|does not exist|no such")),
    (503, re.compile(r"overload|unavailable|busy|capacity")),
    (
        400,
        re.compile(r"context|too.?long|invalid|bad.?request|unsupported|not support|validation|unknown|unrecognized"),
    ),
)


class ErrorInBody(Exception):
    """An error in place of an answer, under a status of success.

    Attributes:
        error: see `error_of`.
        status: the HTTP status it stands for.
        billed: the server had begun to answer.
    """

    def __init__(self, error: Mapping[str, Any], *, billed: bool = False):
        super().__init__(str(error.get("message", "")))
        self.error, self.status, self.billed = error, status_of(error), billed


def error_of(body: str) -> dict[str, Any]:
    """`message`, `code`, `type` and `param` of the body of a refusal, as far as they are there.

    A body that is no JSON is its own message.
    """
    try:
        parsed = json.loads(body)
    except (ValueError, RecursionError):
        parsed = body[:LONGEST_READ]
    return _flat(parsed)


def error_in(payload: Any) -> dict[str, Any] | None:
    """The error that a parsed body without choices holds; None where it holds none."""
    if isinstance(payload, list):
        return error_in(payload[0]) if payload else None
    if not isinstance(payload, Mapping):
        return None
    named = any(payload.get(key) for key in _INNER) or payload.get("object") == "error"
    return _flat(payload) if named else None


def status_of(error: Mapping[str, Any]) -> int:
    """The HTTP status that an error in a body stands for: its code, or what its words say; else 500."""
    for key in ("code", "status", "status_code"):
        if re.fullmatch("[45][0-9][0-9]", value := str(error.get(key))):
            return int(value)
    codes = f"{error.get('code') or ''} {error.get('type') or ''} {error.get('status') or ''}".lower()
    for text in (codes, str(error.get("message") or "").lower()):
        for status, pattern in _STATUS_OF:
            if pattern.search(text):
                return status
    return 500


def _flat(found: Any, depth: int = 0) -> dict[str, Any]:
    if isinstance(found, list) and depth < 5:
        parts = [_flat(one, depth + 1) for one in found[:5]]
        texts = [part["message"] for part in parts if part.get("message")]
        return {**(parts[0] if parts else {}), "message": "; ".join(texts)}
    if not isinstance(found, Mapping) or depth >= 5:
        return {"message": "" if found is None else str(found)[:LONGEST_READ]}
    own = {key: found[key] for key in ("code", "type", "param", "status", "status_code") if found.get(key)}
    for key in _INNER:
        if found.get(key) and not (key == "details" and _words(found)):
            inner = _flat(found[key], depth + 1)
            return {**own, **{name: value for name, value in inner.items() if value}}
    message = _words(found) or (json.dumps(found, ensure_ascii=False)[:LONGEST_READ] if found else "")
    if isinstance(found.get("loc"), (list, tuple)):
        names = [str(part) for part in found["loc"] if isinstance(part, str) and part != "body"]
        own["param"] = ".".join(names)
        message = f"{own['param']}: {message}" if names else message
    if isinstance(more := found.get("metadata"), Mapping) and (raw := _words(more)):
        message = f"{message}: {raw}"
    return {**own, "message": message}


def _words(found: Mapping[str, Any]) -> str:
    return next((found[key] for key in _WORDS if isinstance(found.get(key), str) and found[key]), "")
