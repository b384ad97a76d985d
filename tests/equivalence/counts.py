"""The G-test of counts against a law, and what a test of this size can see."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from specctl.equivalence.sampled import ALPHA, Test, chi_square_tail, judged

FEWEST_PER_CELL = 10


def g_test(name: str, counts: Tensor, law: Tensor, alpha: float = ALPHA) -> Test:
    """Likelihood-ratio test of `counts` against `law`, both of one shape; small cells are pooled.

    A count where the law has nothing is a rejection at once.
    """
    observed, probability = counts.flatten().double(), law.flatten().double()
    n = int(observed.sum())
    if bool((observed[probability == 0] > 0).any()):
        return Test(name, math.inf, None, 0.0, n, rejected=True)
    expected = probability / probability.sum() * n
    small = expected < FEWEST_PER_CELL
    cells = torch.stack([observed, expected])
    cells = torch.cat([cells[:, ~small], cells[:, small].sum(dim=1, keepdim=True)], dim=1)
    cells = cells[:, cells[1] > 0]
    ratio = torch.where(cells[0] > 0, cells[0] / cells[1], 1)
    stat = max(2 * float((cells[0] * ratio.log()).sum()), 0.0)
    df = cells.shape[1] - 1
    return judged([Test(name, stat, df, chi_square_tail(stat, df), n)], alpha)[0]


def power(n: int, cells: int, tv: float, alpha: float = ALPHA) -> float:
    """Chance that a chi-square test of n tokens sees a law this far off in total variation, at least.

    The non-centrality is n times the chi-square distance, which is at least 4 tv^2.
    """
    df, half = cells - 1, 2 * n * tv**2
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if chi_square_tail(middle, df) > alpha else (low, middle)
    spread = 12 * math.sqrt(half) + 30
    terms = range(max(int(half - spread), 0), int(half + spread))
    weights = (
        math.exp(j * math.log(half) - half - math.lgamma(j + 1)) if half else float(j == 0) for j in terms
    )
    return min(1.0, sum(w * chi_square_tail(low, df + 2 * j) for j, w in zip(terms, weights, strict=True)))


def tv_bound(n: int, cells: int, delta: float = ALPHA) -> float:
    """The true law is this close to n observed draws, in total variation, at confidence 1 - delta (Weissman)."""
    return math.sqrt(2 * (math.log(2.0**cells - 2) - math.log(delta)) / n) / 2
