"""Plots as inline SVG, drawn with the page's own colours so that they read on a light and a dark ground.

Each has a title for screen readers; a table beside it in the page says the same in words.
"""

from collections.abc import Iterator, Sequence
from html import escape
from math import cos, pi, sin

VERBS, OBJECTS = 16, 4  # in the sunburst: most frequent verbs, and of each the most frequent objects
INNER, MIDDLE, OUTER = 70, 178, 300  # radii of the rings, in units of the drawing
LETTER = 13  # height of a label; a segment lower than that gets none
LONGEST_LABEL = 15  # characters that fit a ring
TURN = 137.508  # degrees between the hues of neighbours: the golden angle keeps them apart

Pairs = Sequence[tuple[str, str, int]]


def sunburst(pairs: Pairs) -> str:
    """SVG of (verb, object, count): verbs in the inner ring, their objects in the outer one.

    The angle is the number of rows of the pairs shown; the many rare objects of a verb are left out.
    """
    totals: dict[str, int] = {}
    for verb, _, count in pairs:
        totals[verb] = totals.get(verb, 0) + count
    top = sorted(totals, key=lambda verb: (-totals[verb], verb))[:VERBS]
    shown = {verb: _objects(pairs, verb) for verb in top}
    rows = sum(count for objects in shown.values() for _, count in objects)
    parts = list(_rings(shown, totals, rows)) if rows else []
    title = f"Sunburst of the {len(top)} most frequent root verbs and their objects, {rows:,} rows"
    return (
        f'<svg class="sunburst" viewBox="-304 -304 608 608" role="img" aria-label="{escape(title)}">'
        f"<title>{escape(title)}</title>{''.join(parts)}"
        f'<text class="hub" y="-4">{rows:,}</text><text class="hub small" y="16">rows</text></svg>'
    )


def _objects(pairs: Pairs, verb: str) -> list[tuple[str, int]]:
    mine = [(item, count) for name, item, count in pairs if name == verb and item]
    return sorted(mine, key=lambda pair: (-pair[1], pair[0]))[:OBJECTS]


def _rings(shown: dict[str, list[tuple[str, int]]], totals: dict[str, int], rows: int) -> Iterator[str]:
    start = 0.0
    for number, (verb, objects) in enumerate(shown.items()):
        hue = round(number * TURN % 360)
        width = 2 * pi * sum(count for _, count in objects) / rows
        yield _segment(
            start, width, INNER, MIDDLE, f"hsl({hue} 55% 64%)", verb, f"{verb}: {totals[verb]:,} rows in all"
        )
        for item, count in objects:
            part = 2 * pi * count / rows
            fill = f"hsl({hue} 60% 78%)"
            yield _segment(start, part, MIDDLE + 2, OUTER, fill, item, f"{verb} {item}: {count:,} rows")
            start += part


def _segment(start: float, width: float, inner: float, outer: float, fill: str, label: str, note: str) -> str:
    width = min(width, 2 * pi - 1e-4)  # an arc cannot end where it begins
    end, large = start + width, int(width > pi)
    (x1, y1), (x2, y2) = _at(start, outer), _at(end, outer)
    (x3, y3), (x4, y4) = _at(end, inner), _at(start, inner)
    path = (
        f"M{x1:.2f} {y1:.2f}A{outer} {outer} 0 {large} 1 {x2:.2f} {y2:.2f}"
        f"L{x3:.2f} {y3:.2f}A{inner} {inner} 0 {large} 0 {x4:.2f} {y4:.2f}Z"
    )
    drawn = f'<path d="{path}" fill="{fill}"><title>{escape(note)}</title></path>'
    middle = (inner + outer) / 2
    if not label or width * middle < LETTER:
        return drawn
    degrees = (start + width / 2) * 180 / pi - 90
    turned = degrees if degrees < 90 else degrees + 180  # never upside down
    x, y = _at(start + width / 2, middle)
    short = label if len(label) <= LONGEST_LABEL else label[: LONGEST_LABEL - 1] + "…"
    return f'{drawn}<text transform="translate({x:.1f} {y:.1f}) rotate({turned:.1f})">{escape(short)}</text>'


def _at(angle: float, radius: float) -> tuple[float, float]:
    """A point at `angle` (radians, clockwise from the top)."""
    return radius * sin(angle), -radius * cos(angle)


def histogram(edges: Sequence[int], counts: Sequence[int], max_length: int) -> str:
    """SVG of how many examples have how many tokens; a line marks `train.max_length` where it is in sight."""
    width, height, floor = 640, 222, 172
    span, tallest = edges[-1] or 1, max(counts) or 1
    parts = []
    for first, last, count in zip(edges, edges[1:], counts, strict=False):
        x, wide, high = width * first / span, width * (last - first) / span, (floor - 24) * count / tallest
        if count:
            note = f"{first + 1} to {last} tokens: {count:,} examples"
            size = f'x="{x + 0.5:.1f}" y="{floor - high:.1f}" width="{wide - 1:.1f}" height="{max(high, 1):.1f}"'
            parts.append(f'<rect class="bar" {size}><title>{note}</title></rect>')
    for part in (1, 2):
        y = floor - (floor - 24) / part
        parts.append(f'<line class="limit" x1="0" x2="6" y1="{y:.0f}" y2="{y:.0f}"/>')
        parts.append(f'<text class="tick" x="9" y="{y + 4:.0f}">{tallest / part:,.{tallest % part}f} examples</text>')
    for number in range(5):
        value, anchor = span * number // 4, ("start", "middle", "middle", "middle", "end")[number]
        place = width * value / span
        parts.append(f'<text class="tick" x="{place:.0f}" y="{floor + 21}" text-anchor="{anchor}">{value:,}</text>')
    if max_length <= span:
        x = width * max_length / span
        anchor, shift = ("end", -5) if x > width / 2 else ("start", 5)
        parts.append(
            f'<line class="limit" x1="{x:.1f}" x2="{x:.1f}" y1="4" y2="{floor}"/>'
            f'<text class="tick" x="{x + shift:.1f}" y="14" text-anchor="{anchor}">max_length {max_length:,}</text>'
        )
    title = f"Histogram of tokens per example, from 0 to {span:,}; the tallest bar holds {tallest:,} examples"
    return (
        f'<svg class="histogram" viewBox="0 0 {width} {height}" role="img" aria-label="{title}"><title>{title}</title>'
        f'<line class="axis" x1="0" x2="{width}" y1="{floor}" y2="{floor}"/>{"".join(parts)}'
        f'<text class="tick" x="{width / 2:.0f}" y="{floor + 45}" text-anchor="middle">tokens per example</text></svg>'
    )
