"""What `specctl trim` shows: the curve, and how a trimmed head does on new text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from specctl.cli import console
from specctl.trim.check import Found
from specctl.trim.curve import Point

_BAR = 20


def table(points: Sequence[Point], chosen: int) -> None:
    """One line a size, the largest first, with a bar of speed (or coverage) relative to the best."""
    categories = sorted({category for point in points for category in point.coverage})
    fast = points[-1].predicted is not None
    head = ["size", "coverage", *categories]
    if fast:
        head += ["acceptance", "MBSU", "head ms", "tokens/s predicted", "measured"]
    heights = [(point.measured or point.predicted or point.covered) for point in points]
    rows = []
    for point, height in zip(reversed(points), reversed(heights), strict=True):
        row = [f"{point.size:,}" + (" *" if point.size == chosen else ""), f"{point.covered:.2%}"]
        row += [f"{point.coverage[category]:.2%}" for category in categories]
        if fast:
            row += [_number(point.acceptance_length), _number(point.mbsu)]
            row += [_number(point.head_s and point.head_s * 1000), _number(point.predicted)]
            row.append(_number(point.measured))
        rows.append([*row, "█" * round(height / max(heights) * _BAR)])
    console.table([*head, ""], rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"


def check_table(rows: Sequence[Found], promised: dict[str, float], *, as_json: bool) -> None:
    if as_json:
        console.document({"schema": 1, "promised": promised, "categories": [asdict(row) for row in rows]})
        return
    console.table(
        ("category", "tokens", "coverage", "most often missing"),
        [(row.category, str(row.tokens), f"{row.coverage:.2%}", " ".join(row.missed)) for row in rows],
    )
    console.line(f"on answers like the calibration's: {promised['all']:.2%}")
    for row in rows:
        if row.falls:
            console.note(f"warning: `{row.category}` is covered less than the calibration promised", "plain")
