"""What the licences of data and weights mean for a result.

The rule looks at the licence's name alone: it is non-commercial when the name says so (`NC` as a part
of it, "non-commercial", "research") or is one of the few known to say so in their text.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_SAYS_SO = re.compile(r"(?:^|[-_ ])NC(?:$|[-_ ])|non-?commercial|research", re.IGNORECASE)
_KNOWN = frozenset({"opt-175b-license"})
UNKNOWN = "unknown"


@dataclass(frozen=True)
class Licensed:
    """Something a result is made from: `what` names it, such as `data_source alpaca_52k`."""

    what: str
    license: str
    note: str = ""


def non_commercial(license: str) -> bool:
    """Whether a licence of this name forbids commercial use."""
    return bool(_SAYS_SO.search(license)) or license.lower() in _KNOWN


def warning(parts: Sequence[Licensed]) -> str | None:
    """One sentence on what keeps the result from commercial use, or on licences nobody has stated; else None."""
    tainted = [part for part in parts if non_commercial(part.license)]
    if tainted:
        named = ", ".join(f"{part.what} ({part.license})" for part in tainted)
        return f"the result is for non-commercial use only, because of {named}"
    unstated = [part for part in parts if part.license in ("", UNKNOWN)]
    if unstated:
        named = ", ".join(part.what for part in unstated)
        return f"the licence of {named} is not stated: set data_source.license or model.license to record it"
    return None
