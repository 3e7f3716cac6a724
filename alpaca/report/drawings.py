"""Drawings as inline SVG, in the page's own colours so that they read on a light and a dark ground.

Each is 360 units wide, the width of a phone, and has a title and a description for screen readers. Variants are told
apart by their letters, and only besides that by colour. The numbers are in the page's tables too.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from alpaca.evaluation.scores import HIGHER, LOWER
from alpaca.report.curves import Point
from alpaca.report.records import BETTER, WORSE, Difference
from alpaca.report.wording import clipped, shown

WIDTH, HEIGHT = 360, 236
LEFT, RIGHT, TOP, BOTTOM = 48, 336, 12, 190
COLOURS = 8  # variants with a colour of their own
LETTER = 12  # height of a label
ROW = 36  # of the forest plot
LABEL = 58  # characters of a label that fit a row
TICKS = 6  # on an axis, at most
SAID = 2000  # characters of a description


@dataclass(frozen=True)
class Spot:
    """A variant in a scatter plot, and its single runs."""

    index: int
    mark: str
    label: str
    x: float
    y: float
    runs: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Line:
    """A variant's curve."""

    index: int
    mark: str
    label: str
    points: list[Point]


@dataclass(frozen=True)
class _Axis:
    """Values from `low` to `high` laid from `start` to `end`."""

    low: float
    high: float
    start: float
    end: float

    def at(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


def forest(name: str, metric: str, lines: Sequence[tuple[str, str, Difference]], direction: str) -> str:
    """Differences to the baseline with their intervals, one row for each variant; nothing where none differs."""
    known = [(mark, label, each) for mark, label, each in lines if _finite(each.estimate)]
    if not known:
        return ""
    ends = [end for _, _, each in known for end in (each.estimate, each.low, each.high) if end and _finite(end)]
    if not ends:  # all are 0
        return ""
    axis = _axis([0.0, *ends], 14, WIDTH - 14)
    floor = 24 + ROW * len(known)
    left, right = {LOWER: ("better", "worse"), HIGHER: ("worse", "better")}.get(direction, ("lower", "higher"))
    parts = [
        f'<line class="zero" x1="{axis.at(0):.1f}" x2="{axis.at(0):.1f}" y1="20" y2="{floor}"/>',
        f'<text class="soft" x="0" y="12">← {left}</text>',
        f'<text class="soft" x="{WIDTH}" y="12" text-anchor="end">{right} →</text>',
    ]
    for number, (mark, label, each) in enumerate(known):
        y = 24 + ROW * number
        parts.append(_row(axis, y, mark, label, each))
    parts.append(_ticks_below(axis, floor))
    parts.append(
        f'<text class="soft" x="{WIDTH / 2:.0f}" y="{floor + 36}" text-anchor="middle">'
        f"{shown(metric)}: difference to the baseline</text>"
    )
    said = "; ".join(f"{mark} {label}: {each.verdict}, {each.estimate:+.4f}" for mark, label, each in known)
    return _svg(name, f"Differences of {metric} to the baseline, with 95 % intervals", said, "".join(parts), floor + 42)


def _row(axis: _Axis, y: float, mark: str, label: str, each: Difference) -> str:
    kind = {BETTER: "better", WORSE: "worse"}.get(each.verdict, "same")
    x, middle = axis.at(each.estimate or 0.0), y + 24
    drawn = f'<text x="0" y="{y + 12}"><tspan class="mark">{mark}</tspan> {shown(_short(label))}</text>'
    if _finite(each.low) and _finite(each.high):
        low, high = axis.at(each.low or 0.0), axis.at(each.high or 0.0)
        ends = "".join(f"M{end:.1f} {middle - 4}v8" for end in (low, high))
        drawn += f'<path class="{kind}" d="M{low:.1f} {middle}H{high:.1f}{ends}"/>'
    shape = {
        "better": f"M{x:.1f} {middle - 6}l6 10h-12z",
        "worse": f"M{x:.1f} {middle + 6}l6 -10h-12z",
        "same": f"M{x - 4:.1f} {middle - 4}h8v8h-8z",
    }[kind]
    return (
        drawn
        + f'<path class="{kind} shape" d="{shape}"><title>{shown(f"{mark} {label}: {each.verdict}")}</title></path>'
    )


def curves(name: str, metric: str, lines: Sequence[Line], note: str) -> str:
    """Mean over seeds as a line, lowest to highest seed as a band; nothing where no line has two points."""
    drawn = [line for line in lines if len(line.points) > 1]
    if not drawn:
        return ""
    x = _axis([point[0] for line in drawn for point in line.points], LEFT, RIGHT - 4, spare=0.0)
    y = _axis([value for line in drawn for point in line.points for value in point[2:]], BOTTOM, TOP)
    parts = [_frame(x, y, "step")]
    for line in drawn:
        if any(low < high for _, _, low, high in line.points):
            above = " ".join(f"{x.at(step):.1f},{y.at(high):.1f}" for step, _, _, high in line.points)
            below = " ".join(f"{x.at(step):.1f},{y.at(low):.1f}" for step, _, low, _ in reversed(line.points))
            parts.append(f'<polygon class="band v{line.index % COLOURS}" points="{above} {below}"/>')
    for line in drawn:
        points = " ".join(f"{x.at(step):.1f},{y.at(mean):.1f}" for step, mean, _, _ in line.points)
        parts.append(
            f'<polyline class="line v{line.index % COLOURS}" points="{points}">'
            f"<title>{shown(f'{line.mark} {line.label}')}</title></polyline>"
        )
    last = [y.at(line.points[-1][1]) for line in drawn]
    for line, place in zip(drawn, _apart(last), strict=True):
        at = x.at(line.points[-1][0]) + 4
        parts.append(f'<text class="mark" x="{at:.1f}" y="{place + 4:.1f}">{line.mark}</text>')
    ends = "; ".join(f"{line.mark} {line.label} ends at {line.points[-1][1]:.4g}" for line in drawn)
    return _svg(name, f"{metric} over steps", f"{note} {ends}", "".join(parts), HEIGHT)


def scatter(name: str, metric: str, cost: str, spots: Sequence[Spot], said: str) -> str:
    """Variants by cost and metric: large marks are means, small ones single runs; nothing where all cost the same."""
    spots = [spot for spot in spots if math.isfinite(spot.x) and math.isfinite(spot.y)]
    if len(spots) < 2:
        return ""
    runs = [(a, b) for spot in spots for a, b in spot.runs if math.isfinite(a) and math.isfinite(b)]
    x = _axis([*(spot.x for spot in spots), *(a for a, _ in runs)], LEFT, RIGHT - 4)
    y = _axis([*(spot.y for spot in spots), *(b for _, b in runs)], BOTTOM, TOP)
    parts = [_frame(x, y, cost)]
    for spot in spots:
        colour = f"v{spot.index % COLOURS}"
        for a, b in spot.runs:
            if len(spot.runs) > 1 and math.isfinite(a) and math.isfinite(b):
                parts.append(f'<circle class="run {colour}" cx="{x.at(a):.1f}" cy="{y.at(b):.1f}" r="2.5"/>')
    places: list[tuple[float, float]] = []
    for spot in spots:
        colour, a, b = f"v{spot.index % COLOURS}", x.at(spot.x), y.at(spot.y)
        title = f"<title>{shown(f'{spot.mark} {spot.label}')}</title>"
        parts.append(
            f'<rect class="spot {colour}" x="{a - 5:.1f}" y="{b - 5:.1f}" width="10" height="10">{title}</rect>'
            if spot.index == 0
            else f'<circle class="spot {colour}" cx="{a:.1f}" cy="{b:.1f}" r="5.5">{title}</circle>'
        )
        places.append(_free(a, b, places))
        parts.append(f'<text class="mark" x="{places[-1][0]:.1f}" y="{places[-1][1]:.1f}">{spot.mark}</text>')
    return _svg(name, f"{metric} against {cost}", said, "".join(parts), HEIGHT)


def _svg(name: str, title: str, said: str, content: str, height: float) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img" aria-labelledby="{name}-t {name}-d">'
        f'<title id="{name}-t">{shown(title)}</title><desc id="{name}-d">{shown(clipped(said, SAID))}</desc>'
        f"{content}</svg>"
    )


def _frame(x: _Axis, y: _Axis, below: str) -> str:
    parts = []
    for value, text in _ticks(y):
        place = y.at(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{RIGHT}" y1="{place:.1f}" y2="{place:.1f}"/>')
        parts.append(f'<text class="soft" x="{LEFT - 5}" y="{place + 4:.1f}" text-anchor="end">{text}</text>')
    parts.append(_ticks_below(x, BOTTOM))
    middle = (LEFT + RIGHT) / 2
    parts.append(f'<text class="soft" x="{middle:.0f}" y="{BOTTOM + 36}" text-anchor="middle">{shown(below)}</text>')
    return "".join(parts)


def _ticks_below(axis: _Axis, floor: float) -> str:
    start, end = sorted((axis.start, axis.end))
    return f'<line class="axis" x1="{start:.1f}" x2="{end:.1f}" y1="{floor}" y2="{floor}"/>' + "".join(
        f'<line class="axis" x1="{axis.at(value):.1f}" x2="{axis.at(value):.1f}" y1="{floor}" y2="{floor + 4}"/>'
        f'<text class="soft" x="{axis.at(value):.1f}" y="{floor + 17}" text-anchor="middle">{text}</text>'
        for value, text in _ticks(axis)
    )


def _ticks(axis: _Axis) -> list[tuple[float, str]]:
    """Round values on an axis, and how they are written."""
    power = 10.0 ** math.floor(math.log10((axis.high - axis.low) / TICKS))
    for step in (power * times for times in (1, 2, 5, 10)):
        first, last = math.ceil(axis.low / step - 1e-9), math.floor(axis.high / step + 1e-9)
        if last - first < TICKS:
            break
    decimals = max(0, -math.floor(math.log10(step) + 1e-9))
    return [(number * step, f"{number * step:,.{decimals}f}") for number in range(first, last + 1)]


def _axis(values: Sequence[float], start: float, end: float, spare: float = 0.06) -> _Axis:
    """An axis that holds all values, with a little room around them; from 0 to 1 where all are 0."""
    low, high = min(values), max(values)
    if not low and not high:
        return _Axis(0.0, 1.0, start, end)
    if high - low <= 1e-9 * max(abs(low), abs(high)):
        room = abs(low) * 0.05
        return _Axis(low - room, high + room, start, end)
    room = (high - low) * spare
    return _Axis(low - room, high + room, start, end)


def _apart(places: list[float]) -> list[float]:
    """The same heights, moved as little as needed for labels not to cover each other."""
    order = sorted(range(len(places)), key=lambda index: (places[index], index))
    found = list(places)
    for before, after in pairwise(order):
        found[after] = max(found[after], found[before] + LETTER)
    if order and (over := found[order[-1]] - BOTTOM) > 0:
        found[order[-1]] -= over
        for after, before in pairwise(order[::-1]):
            found[before] = min(found[before], found[after] - LETTER)
    return found


def _free(x: float, y: float, taken: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Where the letter of the mark at (x, y) stands: the first corner that no other letter covers."""
    corners = [(x + 8, y - 5), (x - 16, y - 5), (x + 8, y + 13), (x - 16, y + 13), (x - 4, y - 10), (x - 4, y + 18)]
    return next(
        (at for at in corners if all(abs(at[0] - a) >= LETTER or abs(at[1] - b) >= LETTER for a, b in taken)),
        corners[0],
    )


def _short(label: str) -> str:
    return label if len(label) <= LABEL else f"{label[: LABEL - 1]}…"


def _finite(value: float | None) -> bool:
    return value is not None and math.isfinite(value)
