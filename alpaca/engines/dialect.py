"""How one model wants to be asked: the JSON body of a request, and what refusals have taught about it.

Servers and models differ in the parameters they take. A refusal that names one of ours as unknown or unsupported
teaches to write it otherwise or to leave it out; every parameter but the question and the model can be.
"""

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

from alpaca.engines.exchange import Request
from alpaca.engines.protocol import messages_of, prompt_text

LENGTH, OTHER_LENGTH = "max_tokens", "max_completion_tokens"
LEAVABLE = ("temperature", "top_p", "stop", "seed", "n", LENGTH)
_REFUSED = re.compile(
    r"unsupported|not (?:yet )?support|n.t support|unrecogni[sz]ed|unknown|unexpected|not permitted|not allowed"
    r"|extra[_ ](?:inputs|forbidden|fields)|additional propert|cannot find field|no such (?:field|parameter)"
    r"|deprecated|only the default|not available|does not accept|not accepted"
)
_ONE_CHOICE = re.compile(r"\bone completion choice|\bn (?:must be|has to be|should be|should equal|>|=)|\bn: ")
_AFTER_NOUN = r"(?:parameters?|arguments?|fields?|propert(?:y|ies)|keys?|names?|inputs?|options?)\b[^.;'\"`]{0,12}?"


@dataclass
class Dialect:
    """What one model does not take; learned once and used for every request after.

    Attributes:
        length_key: the name of the limit on the answer's length.
        left_out: parameters that are not sent.
    """

    length_key: str = LENGTH
    left_out: set[str] = field(default_factory=set)

    def learn(self, error: Mapping[str, Any], sent: Mapping[str, Any]) -> str | None:
        """Adapt to a refusal that names a parameter the model does not take.

        Args:
            error: what the server said; see `server_errors.error_of`.
            sent: the request's body that was refused.

        Returns:
            The parameter that is now written otherwise or left out (also when another request taught it
            meanwhile), None where the error is about something else.
        """
        key = _refused_key(error, [key for key in (*LEAVABLE, OTHER_LENGTH) if key in sent])
        if key == LENGTH and "messages" in sent:  # completions know no other name for it
            self.length_key = OTHER_LENGTH
        elif key in (LENGTH, OTHER_LENGTH):
            self.left_out.add(LENGTH)
            return LENGTH
        elif key is not None:
            self.left_out.add(key)
        return key


def _refused_key(error: Mapping[str, Any], keys: Collection[str]) -> str | None:
    """The one of `keys` that the error says is unknown or unsupported; the one named next to these words."""
    message = str(error.get("message") or "").lower()
    param = re.split(r"[.\[\]/]+", str(error.get("param") or "").lower().strip("]"))[-1]
    codes = f"{error.get('code') or ''} {error.get('type') or ''}".lower()
    one_choice = _ONE_CHOICE.search(message) is not None or (param == "n" and "n" in keys)
    if one_choice and "n" in keys:
        return "n"
    signs = [found.span() for found in _REFUSED.finditer(message)]
    if not signs and not _REFUSED.search(codes.replace("_", " ")) and not _REFUSED.search(codes):
        return None
    if param:
        return param if param in keys else None
    named = []
    for key in keys:
        quoted = rf"['\"`]{key}['\"`]"
        quoted += rf"|(?:support|accept)s? (?:the )?{key}\b|^{key}(?: sequences?| words?| strings?) (?:are|is) not\b"
        bare = rf"\b{key}\b" if "_" in key else rf"{_AFTER_NOUN}\b{key}\b|\b{key}\b\s*(?::|is\b|was\b|does\b)"
        for found in re.finditer(f"{quoted}|{bare}", message):
            distance = min((max(found.start() - end, start - found.end(), 0) for start, end in signs), default=0)
            named.append((distance, found.start(), key))
    return min(named)[2] if named else None


def body_of(request: Request, *, model: str, api: str, dialect: Dialect) -> dict[str, Any]:
    """The JSON body of a request to `/chat/completions` or `/completions`."""
    body: dict[str, Any] = {"model": model}
    if api == "chat":
        body["messages"] = messages_of(request)
    else:
        body["prompt"] = prompt_text(request)
    if LENGTH not in dialect.left_out:
        body[dialect.length_key if api == "chat" else LENGTH] = request.max_tokens
    optional: dict[str, Any] = {"temperature": request.temperature}
    if request.top_p != 1.0:
        optional["top_p"] = request.top_p
    if request.stop:
        optional["stop"] = list(request.stop)
    if request.seed is not None:
        optional["seed"] = request.seed
    body.update({key: value for key, value in optional.items() if key not in dialect.left_out})
    if request.choices > 1 and "n" not in dialect.left_out:
        body["n"] = request.choices
    if request.schema is not None:
        named = {"name": "answer", "schema": request.schema, "strict": True}
        body["response_format"] = {"type": "json_schema", "json_schema": named}
    return body
