"""`--fail-on NAME[=COUNT],...`: which defects stop a pipeline, and from how many rows on."""

from collections.abc import Sequence

from alpaca.errors import RunFailed, UserError
from alpaca.inspection.findings import NAMES, Finding, slug


def limits(text: str) -> dict[str, int]:
    """Slug of a defect to the most rows that may have it; `NAME` alone allows none, `any` means every defect.

    Raises:
        UserError: an unknown name, or a count that is no whole number from 0.
    """
    known = [slug(name) for name in NAMES]
    allowed: dict[str, int] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        name, equals, count = part.partition("=")
        if slug(name) not in (*known, "any"):
            raise UserError(f"--fail-on {name}: no such defect; choose from {', '.join(known)}, or any")
        if equals and not count.strip().isdecimal():
            raise UserError(f"--fail-on {part}: the count must be a whole number, such as {slug(name)}=0")
        most = int(count) if equals else 0
        for each in known if slug(name) == "any" else [slug(name)]:
            allowed[each] = most
    if not allowed:
        raise UserError(f"--fail-on {text!r}: names no defect; choose from {', '.join(known)}, or any")
    return allowed


def enforce(found: Sequence[Finding], allowed: dict[str, int]) -> None:
    """Raise `RunFailed`, in one line, when a finding has more rows than it may."""
    over = [finding for finding in found if finding.count > allowed.get(slug(finding.name), finding.count)]
    if over:
        raise RunFailed(f"--fail-on: {'; '.join(_told(finding, allowed[slug(finding.name)]) for finding in over)}")


def _told(finding: Finding, allowed: int) -> str:
    rows = "1 row" if finding.count == 1 else f"{finding.count:,} rows"
    return f"{finding.name} in {rows} (allowed {allowed:,}; first lines {', '.join(finding.places[:5])})"
