"""What a forward costs here: seconds by tokens and rows, measured once for a model, dtype and machine.

Decoding reads all weights for every forward, so a few more tokens are nearly free until arithmetic takes over.
Where that happens decides how much drafting pays, and no rule of thumb knows it.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import accumulate
from statistics import median
from time import perf_counter
from typing import Any

import torch

from specctl.models import remembered
from specctl.models.cache import SlotCache
from specctl.models.lm import LM
from specctl.models.numerics import device_name

CONTEXT = 256
"""Slots in use while measuring."""

_FAR = 768
QUICK = {1: (1, 2, 4, 5, 6, 7, 8, 12, 16)}
THOROUGH = {
    1: (1, 2, 3, 4, 5, 6, 7, 8, 9, 12, 16, 24, 32, 64),
    2: (1, 2, 4, 8),
    4: (1, 2, 4, 8),
    8: (1, 2, 4, 8),
}
BATCH = dict.fromkeys((2, 4, 8, 16), (1, 2, 4, 8))
"""Measured when a batch of that many rows is first decoded."""

_ROUNDS = {False: 2, True: 7}

_FEW = 4
"""Drafted tokens whose places in the target's forward are averaged: a single one is lost in the noise."""


@dataclass(frozen=True, slots=True)
class Curve:
    """Seconds of a forward, head and choice of the best token included, by rows and then tokens a row.

    `prefill` is a token's share of reading a long prompt; `per_slot` is what one more slot of context adds. Each
    forward of a draft with `streams` says so many more tokens; their seconds are included.
    """

    points: Mapping[int, Mapping[int, float]]
    prefill: float
    per_slot: float = 0.0
    thorough: bool = False
    streams: int = 0

    def seconds(self, tokens: float, rows: int = 1, context: int = CONTEXT) -> float:
        """Between measured points a straight line. Where only single rows were measured, more of them count as that
        many more tokens."""
        if rows in self.points:
            base = _interpolate(self.points[rows], tokens)
        elif len(self.points) == 1:
            base = _interpolate(self.points[1], tokens * rows)
        else:
            beside = _beside(sorted(self.points), rows)
            base = _interpolate({near: _interpolate(self.points[near], tokens) for near in beside}, rows)
        return base + self.per_slot * rows * (context - CONTEXT)

    def drafting(self, tokens: int, rows: int = 1, context: int = CONTEXT) -> float:
        """Of drafting so many tokens a row: the first forward reads one, each other all that the last one said."""
        said = 1 + self.streams
        forwards = -(-tokens // said)
        if forwards < 2:
            return forwards * self.seconds(1, rows, context)
        return self.seconds(1, rows, context) + (forwards - 1) * self.seconds(said, rows, context)

    def lacks(self, rows: int) -> list[int]:
        """Row counts yet to be measured for a batch of up to `rows`: those below, and the next one."""
        return [known for known in BATCH if known < 2 * rows and known not in self.points]

    def reading(self, tokens: int, context: int = CONTEXT) -> float:
        """Taking in tokens that are known, to have the logits behind the last one; many are read as a prompt is."""
        if tokens <= max(self.points[1]):
            return min(self.seconds(tokens, context=context), self._prefill(tokens, context))
        return self._prefill(tokens, context)

    def _prefill(self, tokens: int, context: int) -> float:
        return self.prefill * (tokens - 1) + self.seconds(1, context=context)

    def to_json(self) -> dict[str, Any]:
        points = {str(rows): {str(q): s for q, s in some.items()} for rows, some in self.points.items()}
        return {**asdict(self), "points": points}

    @classmethod
    def from_json(cls, data: Any) -> Curve:
        """Raises ValueError, KeyError, TypeError or AttributeError for anything else."""
        points = {
            int(rows): {int(q): float(s) for q, s in some.items()} for rows, some in data["points"].items()
        }
        if 1 not in points or not all(some and min(some.values()) > 0 for some in points.values()):
            raise ValueError("no curve")
        streams = int(data.get("streams", 0))
        return cls(points, float(data["prefill"]), float(data["per_slot"]), bool(data["thorough"]), streams)


@dataclass(frozen=True, slots=True)
class Costs:
    """Curves of target and draft model, and the seconds of a round that neither takes."""

    target: Curve
    draft: Curve | None = None
    overhead: float = 0.0

    def drafted(self, rows: int = 1) -> float:
        """What drafting and verifying one more token takes, in plain rounds: the share of drafted tokens that has
        to be kept for drafting to pay."""
        assert self.draft is not None
        plain = self.target.seconds(1, rows)
        place = (self.target.seconds(1 + _FEW, rows) - plain) / _FEW
        return (self.draft.seconds(1, rows) + place) / (plain + self.overhead)

    def lack(self, rows: int) -> bool:
        """Whether a batch of so many rows needs more to be measured."""
        return bool(self.target.lacks(rows))


def of(target: LM, draft: LM | None, *, thorough: bool = False, rows: int = 1) -> Costs:
    """What is remembered, or measured now, for up to `rows` in a forward."""
    curves = [None if lm is None else curve(lm, thorough=thorough, rows=rows) for lm in (target, draft)]
    assert curves[0] is not None
    return Costs(curves[0], curves[1])


def anew(target: LM, draft: LM | None) -> Costs:
    """Measured thoroughly whatever is remembered, and remembered instead of it."""
    found = {}
    for lm in (target, draft):
        if lm is not None:
            found[fingerprint(lm)] = measure(lm, thorough=True)
    remembered.add("costs", {key: one.to_json() for key, one in found.items()})
    return Costs(found[fingerprint(target)], None if draft is None else found[fingerprint(draft)])


def _interpolate(points: Mapping[int, float], at: float) -> float:
    known = sorted(points)
    if len(known) == 1:
        return points[known[0]]
    left, right = _beside(known, at)
    slope = (points[right] - points[left]) / (right - left)
    return points[left] + slope * (max(at, known[0]) - left)


def _beside(known: Sequence[int], at: float) -> tuple[int, int]:
    """The neighbours of `at` in `known`, two or more ascending numbers; beyond them, the two nearest."""
    place = min(max(bisect_left(known, at), 1), len(known) - 1)
    return known[place - 1], known[place]


def curve(
    lm: LM, *, thorough: bool = False, rows: int = 1, told: Callable[[str], None] = lambda text: None
) -> Curve:
    """The model's curve for up to `rows`: remembered, or measured now. A thorough one serves both."""
    key = fingerprint(lm)
    found = None
    with suppress(ValueError, KeyError, TypeError, AttributeError):
        found = Curve.from_json(remembered.load("costs")[key])
    complete = found is not None and (found.thorough or not thorough)
    if found is not None and complete and not found.lacks(rows):
        return found
    told(f"measuring what a forward of {lm.name} costs")
    if found is None or not complete:
        found = measure(lm, thorough=thorough)
    if missing := found.lacks(rows):
        grid = {count: BATCH[count] for count in missing}
        found = replace(found, points={**found.points, **measure_rows(lm, grid, thorough=thorough)})
    remembered.add("costs", {key: found.to_json()})
    return found


_Grid = Mapping[int, Sequence[int]]
_Points = dict[int, dict[int, float]]


def measure(lm: LM, *, thorough: bool) -> Curve:
    """The curve without the rows of `BATCH`, for those need a batch to be of use."""
    grid = THOROUGH if thorough else QUICK
    room, most = _room(lm), _most(grid)
    far = min(_FAR, lm.context_length - most)
    cache = filled(lm, max(grid), room, most)
    jobs: dict[Any, Callable[[], float]] = {"prefill": lambda: _time_prefill(lm, cache, room)}
    jobs |= _shapes(lm, cache, grid)
    if far > 2 * room:
        long_cache = filled(lm, 1, far, 8)
        jobs["far"] = lambda: seconds(lm, long_cache, 1, 4)
    times = _medians(jobs, _ROUNDS[thorough])
    points = _points(times, grid)
    slope = (times["far"] - points[1][4]) / (far - room) if "far" in times else 0.0
    return Curve(points, times["prefill"] / room, max(slope, 0.0), thorough, _streams(lm))


def measure_rows(lm: LM, grid: _Grid, *, thorough: bool = False) -> _Points:
    """Seconds by rows and tokens of `grid`."""
    cache = filled(lm, max(grid), _room(lm), _most(grid))
    return _points(_medians(_shapes(lm, cache, grid), _ROUNDS[thorough]), grid)


def _shapes(lm: LM, cache: SlotCache, grid: _Grid) -> dict[Any, Callable[[], float]]:
    return {(rows, q): partial(seconds, lm, cache, rows, q) for rows, tokens in grid.items() for q in tokens}


def _medians(jobs: Mapping[Any, Callable[[], float]], rounds: int) -> dict[Any, float]:
    """Over rounds that each visit every job, so that a slow moment hits all alike; the first is for nothing."""
    times: dict[Any, list[float]] = {key: [] for key in jobs}
    for _ in range(1 + rounds):
        for key, job in jobs.items():
            times[key].append(job())
    return {key: median(some[1:]) for key, some in times.items()}


def _points(times: Mapping[Any, float], grid: _Grid) -> _Points:
    """More tokens never take less: a dip is noise."""
    return {
        rows: dict(zip(tokens, accumulate((times[rows, q] for q in tokens), max), strict=True))
        for rows, tokens in grid.items()
    }


def _room(lm: LM) -> int:
    return min(CONTEXT, max(lm.context_length // 4, 1))


def _most(grid: _Grid) -> int:
    """The most tokens of a forward."""
    return max(rows * max(tokens) for rows, tokens in grid.items())


def filled(lm: LM, rows: int, length: int, room: int) -> SlotCache:
    """Rows whose slots hold something; what it is does not matter to the clock."""
    cache = lm.new_cache()
    cache.reserve(rows, length + room + lm.columns(1, 1))
    for row in range(rows):
        cache.admit()
        cache.commit(row, length)
    return cache


def seconds(lm: LM, cache: SlotCache, rows: int, q: int) -> float:
    """Of a forward of q tokens in each of the first rows, the choice of the best tokens included, streams' too."""
    tokens = [[(7 * column + 13) % lm.vocab_size for column in range(q)]] * rows
    begun = perf_counter()
    if lm.streams is None:
        lm.forward(cache, tokens, range(rows)).argmax(dim=-1).tolist()
        return perf_counter() - begun
    logits, states = lm.forward_states(cache, tokens, range(rows))
    newest, states = logits.argmax(dim=-1)[:, -1].tolist(), states[:, -1]
    for number in range(len(lm.streams)):
        states, logits = lm.streams.follow(number, states, newest)
        newest = logits.argmax(dim=-1).tolist()
    return perf_counter() - begun


def _time_prefill(lm: LM, cache: SlotCache, length: int) -> float:
    """Seconds to take in `length` tokens, by those the last quarter takes: somebody may wait for a first answer."""
    read = max(length // 4, 1)
    cache.truncate(0, length - read)
    begun = perf_counter()
    lm.prefill(cache, 0, [(7 * column + 13) % lm.vocab_size for column in range(read)])
    return (perf_counter() - begun) * length / read


def _streams(lm: LM) -> int:
    return 0 if lm.streams is None else len(lm.streams)


def fingerprint(lm: LM) -> str:
    """What the time of a forward depends on."""
    facts: list[Any] = [
        lm.config.to_json_string(use_diff=False),
        repr(lm.module),
        str(lm.dtype),
        str(lm.config._attn_implementation),
        lm.row_floor,
        lm.fewest_rows,
        lm.packed is not None,
        lm.reader is not None,
        device_name(lm.device),
        torch.__version__,
        torch.get_num_threads(),
        [QUICK, THOROUGH, BATCH],
    ]
    if lm.streams is not None:
        facts.append(lm.streams.shape)
    return hashlib.sha256(repr(facts).encode()).hexdigest()
