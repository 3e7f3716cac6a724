"""What a failed attempt means: try again, give this request up, or stop everything; and whether it may be billed.

Pure: from a status, headers and body, or an exception's name, to a `Failure`. Work that a server may have
done before it failed counts as billed, a refusal before work does not.
"""

import email.utils
import re
import time
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal
from urllib.parse import quote

from alpaca.engines.server_errors import ErrorInBody, error_of

TOO_BUSY = (408, 409, 425, 429)
UNBILLED_5XX = (501, 503, 529)  # refused before work: not implemented, overloaded
OLDEST_EPOCH_S, OLDEST_EPOCH_MS = 1e9, 1e12  # 2001: no duration is as long
LONGEST_WAIT_S = 3600.0  # of a server's Retry-After; a limit that lasts longer is met by asking again
SAID, LONGEST_SAID = 200, 20_000  # characters of the server's words that are shown; that are looked at
_ESCAPES = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
_KEYS = re.compile(  # what looks like a key, ours or another's
    r"(?i)((?:\b(?:authorization|api[-_ ]?key|token|secret|password)['\"]?\s*[:=]\s*['\"]?)(?:bearer\s+)?|\bbearer\s+)"
    r"[\w.+/=~-]{12,}|\b[a-z]{2,6}[-_](?:\w+[-_])*?(?=[a-z]*\d)(?=\d*[a-z])[a-z0-9]{12,}[\w-]*"
)
_TLS = re.compile(r"(?i)(certificate verify failed[^(\n]*)|wrong.version.number|record layer failure|ssl[^\n(]*")
_NO_MONEY = ("insufficient_quota", "billing")  # codes; a rate limit's advice may speak of payment too
_NO_MONEY_MESSAGE = "exceeded your current quota"  # with a time to come back it is a rate limit
_COME_BACK = re.compile(r"(?:re)?try(?:ing)?(?: again)? (?:in|after)\b")
_FLAGGED = ("flagged", "content_filter", "content_policy", "content management policy", "inappropriate content")
_ONLY_THIS_REQUEST = (
    *_FLAGGED,
    "context_length",
    "context length",
    "context_size",
    "context size",
    "context window",
    "maximum context",
    "prompt is too long",
    "input is too long",
    "too many tokens",
    "moderation",
    "invalid_prompt",
)


@dataclass(frozen=True)
class Failure:
    """One failed attempt.

    Attributes:
        next: retry it, lose this request alone, or stop: no request can succeed.
        reason: one line without secrets; for `stop` with the way out.
        billed: the attempt may have been billed although no answer arrived.
        throttled: the server asked for fewer requests.
        retry_after_s: seconds the server asked to wait; None where it said nothing.
        reached: the server was reached.
        status: 404 where the server knows nothing under the address asked.
        error: what the server said, for who can ask otherwise; empty where asking otherwise changes nothing.
        refused: the server understood the request and will not have it, for a reason of this request or of all;
            see `Refusals`.
        malformed: what is wrong with a body that is no answer.
        headers: of the response, where they may announce limits.
    """

    next: Literal["retry", "lose", "stop"]
    reason: str
    billed: bool = False
    throttled: bool = False
    retry_after_s: float | None = None
    reached: bool = True
    status: int | None = None
    error: Mapping[str, Any] = field(default_factory=dict)
    refused: bool = False
    malformed: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Target:
    """What was asked, for the words of an error, and what must never be in them."""

    model: str
    host: str
    secret: str

    def clean(self, text: str) -> str:
        """The first 200 characters of `text` on one line, without control characters and without keys."""
        text = _ESCAPES.sub("", text[:LONGEST_SAID])
        line = " ".join("".join(c for c in text if c.isspace() or not unicodedata.category(c).startswith("C")).split())
        for secret in {self.secret, quote(self.secret, safe="")} - {""}:
            line = line.replace(secret, "[key]")
        line = _KEYS.sub(lambda found: f"{found[1] or ''}[key]", line)
        return line if len(line) <= SAID else line[: SAID - 3] + "..."


def of_status(status: int, headers: Mapping[str, str], body: str, target: Target) -> Failure:
    """The meaning of an HTTP status of 400 and above."""
    return _of_error(status, headers, error_of(body), target)


def _of_error(status: int, headers: Mapping[str, str], error: Mapping[str, Any], target: Target) -> Failure:
    kind = f"{error.get('code', '')} {error.get('type', '')} {error.get('message', '')}".lower()
    said = target.clean(str(error.get("message") or ""))
    detail = f" ({said})" if said else ""
    codes = f"{error.get('code', '')} {error.get('type', '')}".lower()
    comes_back = retry_after_s(headers) is not None or _COME_BACK.search(kind)
    no_money = any(sign in codes for sign in _NO_MONEY) or (_NO_MONEY_MESSAGE in kind and not comes_back)
    if status == 402 or (status in (403, 429) and no_money):
        return Failure("stop", f"{target.host}: the account's quota or credit is used up{detail}; raise it there")
    if status in TOO_BUSY or status >= 500:
        return Failure(
            "retry",
            f"status {status}{detail}",
            billed=status >= 500 and status not in UNBILLED_5XX,
            throttled=status in (429, 529),
            retry_after_s=retry_after_s(headers),
            error=error if status >= 500 else {},
            headers=headers,
        )
    if status == 401:
        return Failure(
            "stop", f"{target.host} refuses the key (401): set the environment variable OPENAI_API_KEY to a valid one"
        )
    if status == 403 and any(sign in kind for sign in _FLAGGED):
        return Failure("lose", f"status {status}{detail}")
    if status == 403:
        return Failure("stop", f"model={target.model}: {target.host} does not let this key use it (403){detail}")
    if status == 404:
        return Failure(
            "stop",
            f"model={target.model}: unknown to {target.host} (404){detail}; "
            "check model, and base_url, which usually ends in /v1",
            status=404,
            error=error,
        )
    if status == 413 or any(sign in kind for sign in _ONLY_THIS_REQUEST):
        return Failure("lose", f"status {status}{detail}")
    refused = f"model={target.model}: {target.host} refuses the request ({status}){detail}"
    if status in (400, 422):
        return Failure("lose", refused, error=error, refused=True)
    return Failure("stop", f"{refused}; change what it names", error=error)


def of_broken_connection(names: list[str], target: Target, words: str = "") -> Failure:
    """The meaning of a connection that failed, from the names of the exception and its causes, and all their words."""
    what = names[-1] if names else "connection error"
    if "too many open files" in words.lower():
        return Failure(
            "stop",
            "too many open files: lower concurrency, or raise the limit of this shell with ulimit -n",
            reached=False,
        )
    if any("SSL" in name for name in names) and (found := _TLS.search(words)):
        said = found[1] or found[0]
        plain = "the server speaks no TLS there: begin base_url with http://"
        untrusted = "set SSL_CERT_FILE to a file of certificates to trust, or mend base_url"
        way_out = untrusted if "certificate" in said.lower() else plain
        return Failure("stop", f"{target.host}: TLS failed ({target.clean(said)}); {way_out}", reached=False)
    if any(name in ("ConnectError", "ConnectTimeout", "PoolTimeout") for name in names):
        return Failure("retry", f"{target.host} cannot be reached ({what})", reached=False)
    return Failure("retry", f"connection broke before the answer was whole ({what})", billed=True)


def of_timeout(seconds: float) -> Failure:
    """No whole answer within the time of an attempt."""
    return Failure("retry", f"no answer within {seconds:g} s", billed=True)


def of_bad_body(reason: str, shown: str = "") -> Failure:
    """A status of success with a body that is no answer; `shown` are its first characters."""
    return Failure("retry", f"{reason} ({shown})" if shown else reason, billed=True, malformed=reason)


def of_error_in_body(found: ErrorInBody, headers: Mapping[str, str], target: Target) -> Failure:
    """The meaning of an error under a status of success: that of its code."""
    failure = _of_error(found.status, headers, found.error, target)
    return replace(failure, billed=failure.billed or found.billed)


def retry_after_s(headers: Mapping[str, str], now: float | None = None) -> float | None:
    """Seconds to wait by `retry-after-ms` or `Retry-After` (seconds or an HTTP date); None where there is neither.

    A date is measured against the answer's own `Date`, since clocks differ; against `now` where it has none.
    """
    clock = clock_of(headers, now)
    for name, factor in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        try:
            seconds = float(headers[name]) * factor
        except (KeyError, ValueError):
            continue
        if seconds >= OLDEST_EPOCH_S:  # a moment, in seconds or milliseconds
            seconds = max(0.0, (seconds / 1000 if seconds >= OLDEST_EPOCH_MS else seconds) - clock)
        if seconds >= 0:  # also false for NaN
            return min(seconds, LONGEST_WAIT_S)
    moment = _moment(headers.get("retry-after"))
    return None if moment is None else min(max(moment - clock, 0.0), LONGEST_WAIT_S)


def clock_of(headers: Mapping[str, str], now: float | None = None) -> float:
    """Seconds since 1970 when the server answered, by its own clock; else `now`, or this machine's time."""
    sent = _moment(headers.get("date"))
    if sent is not None:
        return sent
    return time.time() if now is None else now


def _moment(date: str | None) -> float | None:
    try:
        return email.utils.parsedate_to_datetime(date).timestamp() if date else None
    except (ValueError, OverflowError):
        return None
