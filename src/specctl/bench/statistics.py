"""Averages of ratios, and how far they can be trusted."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import NamedTuple

RESAMPLES = 2000
_CONFIDENCE = 0.95


class Interval(NamedTuple):
    """A geometric mean with its 95 % bootstrap interval."""

    mean: float
    low: float
    high: float


def geometric_mean(values: Sequence[float]) -> float:
    """Of positive numbers; raises ValueError for none."""
    if not values:
        raise ValueError("no values")
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def mean_over_kinds(ratios: Mapping[str, Sequence[float]]) -> float:
    """The geometric mean over kinds of the one within each: a kind with more prompts counts no more than others."""
    return geometric_mean([geometric_mean(values) for values in ratios.values()])


def mean_interval(ratios: Mapping[str, Sequence[float]], seed: int = 0) -> Interval:
    """`mean_over_kinds` with its interval.

    The interval is the percentile bootstrap over prompts, within each kind where all have several prompts (then it
    speaks of more prompts of these kinds), else over kinds. Efron & Tibshirani (1993), chapter 13.
    """
    logs = {kind: [math.log(value) for value in values] for kind, values in ratios.items()}
    draws = random.Random(seed)
    if all(len(values) > 1 for values in logs.values()):
        pools = list(logs.values())
    else:
        pools = [[value for values in logs.values() for value in values]]
    resampled = sorted(
        math.fsum(_mean(draws.choices(pool, k=len(pool))) for pool in pools) / len(pools)
        for _ in range(RESAMPLES)
    )
    cut = int(RESAMPLES * (1 - _CONFIDENCE) / 2)
    return Interval(mean_over_kinds(ratios), math.exp(resampled[cut]), math.exp(resampled[-1 - cut]))


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)
