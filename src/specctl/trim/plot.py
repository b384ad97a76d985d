"""The curve as an SVG: everything relative to the whole vocabulary, over the size of the head."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from typing import NamedTuple

from specctl.trim.curve import Point

_WIDTH, _HEIGHT = 720, 420
_LEFT, _RIGHT, _TOP, _BOTTOM = 60, 190, 40, 50


class _Line(NamedTuple):
    name: str
    colour: str
    value: Callable[[Point], float | None]


# Colour-blind safe (Okabe and Ito).
_LINES = (
    _Line("coverage", "#0072B2", lambda point: point.covered),
    _Line("acceptance length", "#009E73", lambda point: point.acceptance_length),
    _Line("MBSU", "#CC79A7", lambda point: point.mbsu),
    _Line("tokens/s, predicted", "#E69F00", lambda point: point.predicted),
    _Line("tokens/s, measured", "#D55E00", lambda point: point.measured),
)


def svg(points: Sequence[Point], title: str, chosen: int) -> str:
    """Points ascending; the last one is the whole vocabulary."""
    lines = [(line, _relative(points, line)) for line in _LINES]
    drawn = [(line, values) for line, values in lines if values]
    low = min(value for _, values in drawn for _, value in values)
    high = max(value for _, values in drawn for _, value in values)
    low, high = math.floor(low * 20) / 20, max(math.ceil(high * 20) / 20, low + 0.05)
    first, last = math.log2(points[0].size), math.log2(points[-1].size)

    def x(size: int) -> float:
        return _LEFT + (math.log2(size) - first) / ((last - first) or 1) * (_WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return _HEIGHT - _BOTTOM - (value - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" font-family="sans-serif" '
        f'font-size="12" fill="#333"><rect width="{_WIDTH}" height="{_HEIGHT}" fill="white"/>',
        f'<text x="{_LEFT}" y="22" font-size="15">{escape(title)}</text>',
    ]
    for step in range(round(low * 20), round(high * 20) + 1):
        parts.append(_rule(y(step / 20), f"{step / 20:.2f}", bold=step == 20))
    parts += [_tick(x(point.size), point.size, bold=point.size == chosen) for point in points]
    for place, (line, values) in enumerate(drawn):
        path = " ".join(f"{x(size):.1f},{y(value):.1f}" for size, value in values)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{line.colour}" stroke-width="2"/>')
        top = _TOP + 20 * place
        parts.append(
            f'<rect x="{_WIDTH - _RIGHT + 16}" y="{top}" width="14" height="4" fill="{line.colour}"/>'
            f'<text x="{_WIDTH - _RIGHT + 36}" y="{top + 6}">{line.name}</text>'
        )
    parts.append(
        f'<text x="{_LEFT}" y="{_HEIGHT - 8}">rows of the head, chosen {chosen:,}; 1 is the whole head</text>'
    )
    return "\n".join([*parts, "</svg>"]) + "\n"


def _relative(points: Sequence[Point], line: _Line) -> list[tuple[int, float]]:
    whole = line.value(points[-1])
    values = [(point.size, line.value(point)) for point in points]
    return [(size, value / whole) for size, value in values if value is not None] if whole else []


def _rule(height: float, text: str, *, bold: bool) -> str:
    colour = "#888" if bold else "#e5e5e5"
    return (
        f'<line x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{height:.1f}" y2="{height:.1f}" stroke="{colour}"/>'
        f'<text x="{_LEFT - 8}" y="{height + 4:.1f}" text-anchor="end">{text}</text>'
    )


def _tick(place: float, size: int, *, bold: bool) -> str:
    weight = ' font-weight="bold"' if bold else ""
    text = f"{size / 1024:.3g}k" if size >= 1024 else str(size)
    return f'<text x="{place:.1f}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle"{weight}>{text}</text>'
