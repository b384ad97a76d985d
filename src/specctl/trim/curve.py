"""The curve a size is chosen by: coverage, acceptance and speed of ever smaller heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from torch import Tensor

from specctl.models import trimmed
from specctl.models.lm import LM
from specctl.models.quantize import Maker
from specctl.trim import costs, counts, source
from specctl.trim.calibration import Sample, by_category
from specctl.trim.source import Source

_SMALLEST = 64  # of the vocabulary: below a sixty-fourth coverage falls faster than time


@dataclass(frozen=True, slots=True)
class Point:
    """One size. `coverage` by category, of answers that were not counted. What was not measured is None."""

    size: int
    covered: float
    coverage: dict[str, float]
    acceptance_length: float | None = None
    mbsu: float | None = None
    head_s: float | None = None
    predicted: float | None = None
    measured: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def sizes_for(rows: int, least: int, chosen: int | None = None) -> list[int]:
    """The vocabulary and its halves, ascending; with a size of the user's own choice."""
    halves = [rounded(rows >> step, rows) for step in range(8)]
    wanted = {size for size in halves if size >= max(rows // _SMALLEST, least)}
    return sorted(wanted | ({chosen} if chosen else set()))


def rounded(size: int, rows: int) -> int:
    """Up to a multiple of 64: matrix products like it, and 4-bit ones want it."""
    return min(-(-size // 64) * 64, rows)


def coverage(order: Tensor, samples: Sequence[Sample], sizes: Sequence[int], vocab_size: int) -> list[Point]:
    """Points with nothing but coverage."""
    tables = {
        category: counts.covered(order, counts.count((one.answer for one in group), vocab_size))
        for category, group in by_category(samples)
    }
    every = counts.covered(order, counts.count((one.answer for one in samples), vocab_size))
    return [
        Point(
            size,
            float(every[size - 1]),
            {category: float(shares[size - 1]) for category, shares in tables.items()},
        )
        for size in sizes
    ]


def variants(draft: LM, head: Source, order: Tensor, sizes: Sequence[int], make: Maker) -> dict[int, LM]:
    """The draft with heads of these sizes; all else is shared. The rows come from disk: it may be quantised."""
    return {size: trimmed.trimmed(draft, source.rows(head, counts.keep(order, size)), make) for size in sizes}


def with_speed(
    points: Sequence[Point],
    order: Tensor,
    samples: Sequence[Sample],
    models: tuple[LM, LM, dict[int, LM]],
    sources: tuple[Source, Source],
    draft_tokens: int,
) -> list[Point]:
    """The points with replayed acceptance, measured head time and what follows.

    Models are target, draft with its whole head, and its variants; sources those of target and draft.
    """
    target, draft, by_size = models
    sizes = [point.size for point in points]
    measured = costs.measure(target, by_size, draft_tokens)
    order = order.to(draft.device)
    replayed = [costs.hits(draft, one, order, sizes).tolist() for one in samples if one.prompt]
    found = []
    for at, point in enumerate(points):
        length = costs.acceptance_length((one[at] for one in replayed), draft_tokens)
        found.append(
            replace(
                point,
                acceptance_length=length,
                mbsu=costs.mbsu(length, sources[1], sources[0], point.size, draft_tokens),
                head_s=measured.head[point.size],
                predicted=length / measured.a_round(point.size, draft_tokens),
            )
        )
    return found


def best(points: Sequence[Point]) -> Point:
    """The highest predicted tokens/s; of equals the larger head."""
    return max(points, key=lambda point: (point.predicted or 0.0, point.size))
