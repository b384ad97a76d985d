"""The G-test of counts against a law."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from specctl.equivalence.power import chi_square_tail
from specctl.equivalence.sampled import ALPHA, Test, judged

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
