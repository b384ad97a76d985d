"""What a chi-square test of so many draws can see: a pass says little without it."""

from __future__ import annotations

import math

import torch

POWER = 0.999
"""Chance of a rejection that the effects named in a report have."""

Z_POWER = 3.0902
"""That chance in standard deviations of a normal law."""


def chi_square_tail(stat: float, df: int) -> float:
    """P(chi-square with `df` degrees of freedom >= stat)."""
    if df == 0:
        return 1.0
    half = torch.tensor([df / 2, stat / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))


def power(n: int, cells: int, tv: float, alpha: float) -> float:
    """Chance that a chi-square test of n draws rejects a law this far off in total variation, at least.

    The non-centrality is n times the chi-square distance, which is at least 4 tv^2.
    """
    return _beyond(_critical(cells - 1, alpha), cells - 1, 2 * n * tv**2)


def visible_tv(n: int, cells: int, alpha: float) -> float:
    """The smallest total variation over the cells that is rejected with the stated power; at most 1."""
    critical, low, high = _critical(cells - 1, alpha), 0.0, 1.0
    for _ in range(20):
        middle = (low + high) / 2
        seen = _beyond(critical, cells - 1, 2 * n * middle**2) >= POWER
        low, high = (low, middle) if seen else (middle, high)
    return high


def tv_bound(n: int, cells: int, delta: float) -> float:
    """The true law is this close to n observed draws, in total variation, at confidence 1 - delta.

    Weissman et al. 2003, theorem 2.1, for a law on `cells` outcomes.
    """
    return math.sqrt(2 * (math.log(2.0**cells - 2) - math.log(delta)) / n) / 2


def _critical(df: int, alpha: float) -> float:
    """What the statistic exceeds with chance alpha if the law is right."""
    low, high = 0.0, 1e4
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if chi_square_tail(middle, df) > alpha else (low, middle)
    return low


def _beyond(critical: float, df: int, half: float) -> float:
    """P(non-central chi-square >= critical); its law is a Poisson(`half`) mixture of central ones."""
    spread = 12 * math.sqrt(half) + 30
    j = torch.arange(max(int(half - spread), 0), int(half + spread), dtype=torch.float64)
    weights = (j * math.log(half) - half - torch.lgamma(j + 1)).exp() if half else (j == 0).double()
    tails = torch.special.gammaincc(df / 2 + j, torch.full_like(j, critical / 2))
    return min(1.0, float((weights * tails).sum()))
