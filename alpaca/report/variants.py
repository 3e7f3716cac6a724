"""Runs of one kind together: which settings tell them apart, what they are called, which is the baseline."""

import re
from collections.abc import Iterable
from typing import Any

from alpaca.errors import UserError
from alpaca.report.records import Run, Variant

SECTIONS = ("model", "data_source", "template", "adapter", "optimizer", "parallelism")
PLACE_ONLY = ("name", "output_dir", "notes", "extra_tags")  # where a run is and what it is called
PLACE_SECTIONS = ("tracker.", "sweep.", "generation.")
DETAILS = (".license", ".license_note", ".hub_id", ".default_lr")
SHOWN = 60  # characters of a value in a label


def group(runs: Iterable[Run]) -> list[Variant]:
    """Variants in order of their first run.

    Runs of equal training settings are one, on whatever hardware. Where a seed comes twice among them, what was
    varied is something that changes no result, such as the parallelism: then that tells them apart.
    """
    together: dict[str, list[Run]] = {}
    for run in runs:
        together.setdefault(run.variant, []).append(run)
    parts: list[list[Run]] = []
    for members in together.values():
        seeds = [run.seed for run in members if run.seed is not None]
        apart: dict[str, list[Run]] = {}
        for run in members:
            key = str(sorted(compared(run.settings).items(), key=str)) if len(seeds) != len(set(seeds)) else ""
            apart.setdefault(key, []).append(run)
        parts.extend(apart.values())
    parts = [sorted(members, key=_never_began) for members in parts]  # one that ran speaks for them
    parts = _jobs_to_their_variant(parts)
    differing = _differing([compared(members[0].settings) for members in parts if members[0].began])
    found = []
    for members in parts:
        own = compared(members[0].settings)
        differs = {key: own.get(key) for key in differing} if members[0].began else {"": job_label(members[0])}
        found.append(Variant(label(differs), differs, tuple(members)))
    return _told_apart(found)


def label(differs: dict[str, Any]) -> str:
    """`adapter.rank=8, optimizer.lr=0.0001`, a section by its name: `adapter=qlora`."""
    parts = []
    for key, value in differs.items():
        text = shown_value(value)
        parts.append(f"{_short_key(key)}={text}" if key else text)
    return ", ".join(parts) or "all runs"


def choose_baseline(variants: list[Variant], wanted: str | None, first: Run | None) -> int:
    """Index of the baseline: the one that `wanted` names by settings, label or folder, else that of `first`.

    Raises:
        UserError: `wanted` fits none or several.
    """
    if wanted is None:
        with_results = [index for index, each in enumerate(variants) if each.finished]
        for index in with_results:
            if first is not None and first in variants[index].runs:
                return index
        return with_results[0] if with_results else 0
    fits = [index for index, each in enumerate(variants) if _fits(each, wanted)]
    if len(fits) == 1:
        return fits[0]
    labels = "; ".join(each.label for each in (variants if not fits else [variants[index] for index in fits]))
    how = "fits none of the variants" if not fits else "fits several variants"
    raise UserError(f"--baseline {wanted}: {how} ({labels}); name the settings of one, KEY=VALUE[,KEY=VALUE]")


def matches(run: Run, wanted: dict[str, str]) -> bool:
    """Whether a run has all the settings `wanted`, `adapter=lora` meaning `adapter.name=lora`."""
    settings = all_settings(run)
    return all(_means(settings.get(full_key(key)), text) for key, text in wanted.items())


def all_settings(run: Run) -> dict[str, Any]:
    """Dotted key to value, the seed too."""
    return {**run.settings, **({} if run.seed is None else {"train.seed": run.seed})}


def fits_settings(settings: dict[str, Any], job: tuple[str, ...], wanted: str) -> bool:
    """Whether `wanted`, KEY=VALUE[,KEY=VALUE] or what sets a job apart, is said of these settings."""
    if wanted in (",".join(job), ", ".join(job)):
        return True
    pairs = dict(part.partition("=")[::2] for part in re.split(r",\s*(?=[\w.]+=)", wanted) if part)
    return "=" in wanted and all(_means(settings.get(full_key(key.strip())), text) for key, text in pairs.items())


def _means(value: Any, text: str) -> bool:
    """Whether `text`, as typed, is that value: 1e-4 is 0.0001, True is true, [a, b] is [a,b]."""
    if shown_value(value) == (text.lower() if isinstance(value, bool) else text):
        return True
    if isinstance(value, list) and shown_value(value) == text.replace(", ", ","):
        return True
    try:
        return isinstance(value, (int, float, str)) and not isinstance(value, bool) and float(text) == float(value)
    except ValueError:
        return False


def _fits(variant: Variant, wanted: str) -> bool:
    if wanted in (variant.label, *(run.name for run in variant.runs)):
        return True
    if any(run.place and run.place.rstrip("/") == wanted.rstrip("/") for run in variant.runs):
        return True
    return fits_settings(all_settings(variant.runs[0]), variant.runs[0].job or (), wanted)


def job_label(run: Run) -> str:
    """What its sweep calls a run that never began."""
    return ", ".join(run.job or ()) or "defaults"


def _jobs_to_their_variant(parts: list[list[Run]]) -> list[list[Run]]:
    """A run that never began joins the variant of the same job with another seed, or with the same settings."""
    real = [members for members in parts if members[0].began]
    alone = []
    for members in parts:
        mine = members[0]
        if mine.began:
            continue
        home = [each for each in real if any((run.sweep, run.job) == (mine.sweep, mine.job) for run in each)]
        home = home or [each for each in real if mine.settings and matches(each[0], mine.settings)]
        if len(home) == 1:
            home[0].extend(members)
        else:
            alone.append(members)
    return real + alone


def _never_began(run: Run) -> bool:
    return not run.began


def compared(settings: dict[str, Any]) -> dict[str, Any]:
    """Settings that may tell variants apart."""
    return {
        key: value
        for key, value in settings.items()
        if key not in PLACE_ONLY and not key.startswith(PLACE_SECTIONS) and not key.endswith(DETAILS)
    }


def _differing(all_settings: list[dict[str, Any]]) -> list[str]:
    """Keys whose values differ; those of a section that its name decides are left to the name."""
    keys = {key: None for settings in all_settings for key in settings}
    differing = [key for key in keys if len({shown_value(settings.get(key)) for settings in all_settings}) > 1]
    kept = []
    for key in differing:
        section = key.partition(".")[0]
        name = f"{section}.name"
        if section in SECTIONS and key != name and name in differing:
            by_name: dict[str, set[str]] = {}
            for settings in all_settings:
                by_name.setdefault(shown_value(settings.get(name)), set()).add(shown_value(settings.get(key)))
            if all(len(values) == 1 for values in by_name.values()):
                continue
        if key.startswith("evaluation."):
            continue  # scores by other settings are told by their examples
        kept.append(key)
    return sorted(kept, key=lambda key: (not key.endswith(".name"), key))


def _told_apart(variants: list[Variant]) -> list[Variant]:
    """The same variants, with a number behind labels that would be alike."""
    counts: dict[str, int] = {}
    found = []
    for each in variants:
        counts[each.label] = counts.get(each.label, 0) + 1
        number = counts[each.label]
        found.append(each if number == 1 else Variant(f"{each.label} ({number})", each.differs, each.runs))
    return found


def _short_key(key: str) -> str:
    section, _, rest = key.partition(".")
    return section if rest == "name" and section in SECTIONS else key


def full_key(key: str) -> str:
    return f"{key}.name" if key in SECTIONS else key


def shown_value(value: Any) -> str:
    """A value as a label and a table show it, on one line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, float):
        return f"{value:g}"
    text = f"[{','.join(map(shown_value, value))}]" if isinstance(value, list) else str(value)
    text = " ".join(text.split())
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
