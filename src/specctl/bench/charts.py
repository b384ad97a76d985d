"""Three small charts as inline SVG: intervals by row, lines, and pairs against a diagonal.

They take their colours from the page (`page.css`), so that they are readable in light and dark; series differ
in shape as well. All text is escaped.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from specctl.bench.statistics import Interval

SERIES = 8
"""Colours in `page.css`; more series begin again."""

_WIDTH = 720
_SHAPES = (
    "M-4,0a4,4 0 1,0 8,0a4,4 0 1,0 -8,0",  # circle
    "M-3.5,-3.5h7v7h-7z",  # square
    "M0,-4.5L4.5,3.5L-4.5,3.5z",  # triangle
    "M0,-5L4.5,0L0,5L-4.5,0z",  # diamond
)


class Scale(NamedTuple):
    """From values to places: `low` at `start`, `high` at `end`, with ticks at round values."""

    low: float
    high: float
    start: float
    end: float
    step: float

    def __call__(self, value: float) -> float:
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)

    def ticks(self) -> list[float]:
        first = math.ceil(self.low / self.step - 1e-9)
        return [n * self.step for n in range(first, math.floor(self.high / self.step + 1e-9) + 1)]

    def written(self, value: float) -> str:
        return f"{value:.{max(-math.floor(math.log10(self.step) + 1e-9), 0)}f}"


def scale(values: Iterable[float], start: float, end: float, *, most: int = 7, whole: bool = False) -> Scale:
    """Around all values, in at most about `most` steps of 1, 2, 5 times a power of ten; `whole`: of 1 at least."""
    known = list(values)
    low, high = min(known), max(known)
    width = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(width / most))
    step = max(next(n * power for n in (1, 2, 5, 10) if n * power * most >= width), 1.0 if whole else 0.0)
    bottom = math.floor(low / step + 1e-9) * step
    top = max(math.ceil(high / step - 1e-9) * step, bottom + step)
    return Scale(bottom, top, start, end, step)


def intervals(rows: Sequence[tuple[str, Sequence[Interval | None]]], what: str) -> str:
    """A row for each label, in it a mark with its interval for each series. The line at 1 stands out."""
    left, top, gap = 150, 12, 14
    tall = [gap * len(marks) + 12 for _, marks in rows]
    bottom = top + sum(tall)
    known = [one for _, marks in rows for one in marks if one is not None]
    x = scale([1.0, *(end for one in known for end in (one.low, one.high))], left, _WIDTH - 20)
    parts = [_vertical(x, top, bottom, what, stressed=1.0)]
    at = float(top)
    for (label, marks), height in zip(rows, tall, strict=True):
        parts.append(_text(left - 10, at + height / 2 + 4, label, anchor="end"))
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - 20}" y1="{at:.1f}" y2="{at:.1f}"/>')
        for number, one in enumerate(marks):
            if one is not None:
                y = at + 6 + gap * (number + 0.5)
                said = f"{label}: {one.mean:.2f} ({one.low:.2f}–{one.high:.2f})"
                parts.append(_bar(number, x(one.low), x(one.high), y))
                parts.append(_mark(number, x(one.mean), y, said))
        at += height
    return _svg(bottom + 40, parts)


def lines(series: Sequence[tuple[str, Sequence[tuple[float, float]]]], across: str, up: str) -> str:
    """A line for each series of (x, y), x whole numbers; y begins at 0."""
    left, top, bottom = 70, 24, 300
    points = [point for _, some in series for point in some]
    x = scale((point[0] for point in points), left, _WIDTH - 20, most=10, whole=True)
    y = scale([0.0, *(point[1] for point in points)], bottom, top, most=6)
    parts = [_horizontal(y, left, up), _vertical(x, top, bottom, across)]
    for number, (name, some) in enumerate(series):
        path = " ".join(f"{x(a):.1f},{y(b):.1f}" for a, b in some)
        parts.append(f'<polyline class="line s{number % SERIES}" points="{path}"/>')
        parts += [_mark(number, x(a), y(b), f"{name}: {a:g}, {b:.3g}") for a, b in some]
    return _svg(bottom + 40, parts)


def pairs(series: Sequence[tuple[str, Sequence[tuple[str, float, float]]]], across: str, up: str) -> str:
    """Points (label, x, y) of each series; on the diagonal both are equal, the dashed lines are 15 % off."""
    left, top, bottom = 70, 24, 420
    points = [value for _, some in series for _, a, b in some for value in (a, b)]
    x, y = scale(points, left, _WIDTH - 20), scale(points, bottom, top)
    parts = [_horizontal(y, left, up), _vertical(x, top, bottom, across)]
    parts += [_slope(x, y, 1.0, "one"), _slope(x, y, 1.15, "off"), _slope(x, y, 1 / 1.15, "off")]
    for number, (name, some) in enumerate(series):
        parts += [_mark(number, x(a), y(b), f"{name}, {label}: {a:.2f}, {b:.2f}") for label, a, b in some]
    return _svg(bottom + 40, parts)


def legend(series: Sequence[tuple[str, Sequence[object]]]) -> str:
    """The names of the series that have something to show, with their marks, as HTML."""
    box = '<svg width="14" height="14" viewBox="-7 -7 14 14">'
    items = [
        f"<li>{box}{_mark(number, 0, 0, name)}</svg> {escape(name)}</li>"
        for number, (name, some) in enumerate(series)
        if some
    ]
    return f'<ul class="legend">{"".join(items)}</ul>'


def _svg(height: float, parts: Iterable[str]) -> str:
    body = "\n".join(parts)
    return f'<svg class="chart" viewBox="0 0 {_WIDTH} {height:.0f}" role="img">\n{body}\n</svg>'


def _slope(x: Scale, y: Scale, ratio: float, kind: str) -> str:
    """The line of all points where y is `ratio` times x, inside the picture."""
    ends = [max(x.low, y.low / ratio), min(x.high, y.high / ratio)]
    (x1, y1), (x2, y2) = ((x(a), y(a * ratio)) for a in ends)
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _vertical(x: Scale, top: float, bottom: float, what: str, *, stressed: float | None = None) -> str:
    """Grid lines across, with their values and what they are below."""
    parts = [_text((x.start + x.end) / 2, bottom + 36, what, anchor="middle")]
    for tick in x.ticks():
        kind = "one" if stressed is not None and abs(tick - stressed) < 1e-9 else "grid"
        at = x(tick)
        parts.append(f'<line class="{kind}" x1="{at:.1f}" x2="{at:.1f}" y1="{top}" y2="{bottom}"/>')
        parts.append(_text(at, bottom + 16, x.written(tick), anchor="middle"))
    return "\n".join(parts)


def _horizontal(y: Scale, left: float, what: str) -> str:
    parts = [_text(left, 12, what)]
    for tick in y.ticks():
        at = y(tick)
        parts.append(f'<line class="grid" x1="{left}" x2="{_WIDTH - 20}" y1="{at:.1f}" y2="{at:.1f}"/>')
        parts.append(_text(left - 8, at + 4, y.written(tick), anchor="end"))
    return "\n".join(parts)


def _bar(number: int, low: float, high: float, y: float) -> str:
    path = f"M{low:.1f},{y:.1f}H{high:.1f}M{low:.1f},{y - 3:.1f}v6M{high:.1f},{y - 3:.1f}v6"
    return f'<path class="line s{number % SERIES}" d="{path}"/>'


def _mark(number: int, x: float, y: float, said: str) -> str:
    return (
        f'<path class="mark s{number % SERIES}" transform="translate({x:.1f},{y:.1f})" '
        f'd="{_SHAPES[number % len(_SHAPES)]}"><title>{escape(said)}</title></path>'
    )


def _text(x: float, y: float, text: str, *, anchor: str = "start") -> str:
    short = text if len(text) <= 22 or anchor != "end" else text[:21] + "…"
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(short)}</text>'
