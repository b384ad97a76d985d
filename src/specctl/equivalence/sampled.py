"""Was this text drawn from that law? Tests that need each prefix once, so they work on real vocabularies.

Under the null the token x at a position is drawn from the target's law p there, given all before it. Each test
holds for any p and q that depend on the past only; q, the draft's law, only decides where the power goes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor

from specctl.equivalence.power import Z_POWER, chi_square_tail, tv_bound, visible_tv

ALPHA = 1e-6
"""False alarms of a whole run, shared among its tests by Holm's rule."""

_BINS = 20
_FEWEST_PER_CELL = 10
_BORDERLINE = 1e-3
"""Between a rejection and this a p-value says nothing: the run is repeated with fresh seeds."""

_TILTS = (-1.0, -0.3, -0.1, -0.03, 0.03, 0.1, 0.3)
_N_TESTS = 3


@dataclass(frozen=True, slots=True)
class Test:
    """One test's outcome; `df` only where the statistic is a chi-square. `rejected` is Holm's word.

    `visible` is the smallest effect this test had a chance of 99.9 % to reject: of `pit` the total variation over
    its bins, of `entropy` the change of 1 / temperature, as a share. `tv_upper` bounds the true total variation
    over the bins of `pit`, at confidence 1 - alpha. None: nothing could be seen, or there is no such figure.
    """

    __test__ = False  # not a test of pytest's

    name: str
    stat: float
    df: int | None
    p: float
    n: int
    rejected: bool = False
    visible: float | None = None
    tv_upper: float | None = None

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


class SampledLaw:
    """Folds emitted tokens and their laws into three tests: support, entropy martingale, PIT by q / p.

    Positions can come in any number of calls; nothing of the size of the vocabulary is kept.
    """

    def __init__(self, seed: int = 0) -> None:
        self._generator = torch.Generator().manual_seed(seed)
        self._n = 0
        self._outside = 0
        self._sum = 0.0
        self._variance = 0.0
        self._evidence = torch.zeros(len(_TILTS), dtype=torch.float64)
        self._promised = torch.zeros(len(_TILTS), 2, dtype=torch.float64)
        self._bins = torch.zeros(_BINS, dtype=torch.float64)

    def add(self, tokens: Sequence[int], p: Tensor, q: Tensor | None = None) -> None:
        """Emitted `tokens` `[n]`, their laws `p` `[n, vocab]`, the draft's laws `q` for the same prefixes.

        q must not depend on what was drafted at the position.
        """
        x = torch.tensor(tokens, device=p.device)[:, None]
        p = p.double()
        p = p / p.sum(dim=-1, keepdim=True)
        inside = p.gather(1, x)[:, 0] > 0
        self._outside += int((~inside).sum())
        x, p = x[inside], p[inside]
        self._n += len(x)
        self._add_surprise(x, p)
        order = p if q is None else q.to(p.device).double()[inside] / p
        self._add_pit(x, p, order)

    def tests(self, alpha: float = ALPHA) -> list[Test]:
        """The three tests, judged together. With too few positions for a chi-square the PIT says nothing."""
        z = self._sum / math.sqrt(self._variance) if self._variance > 0 else 0.0
        # A mixture of likelihood ratios is a martingale of mean 1; Ville's inequality makes it a p-value that
        # is exact at any length, where the normal tail of z is not (rare tokens are heavy).
        evidence = float(torch.logsumexp(self._evidence, 0)) - math.log(len(_TILTS))
        expected = self._n / _BINS
        enough = expected >= _FEWEST_PER_CELL
        stat = float(((self._bins - expected) ** 2).sum() / expected) if enough else 0.0
        p_outside, p_entropy = float(not self._outside), min(1.0, math.exp(min(-evidence, 0.0)))
        support = Test("support", float(self._outside), None, p_outside, self._n + self._outside)
        entropy = Test("entropy", z, None, p_entropy, self._n, visible=self._visible_tilt(alpha / _N_TESTS))
        pit = Test("pit", stat, _BINS - 1, chi_square_tail(stat, _BINS - 1), self._n if enough else 0)
        if enough:
            apart = float((self._bins - expected).abs().sum()) / (2 * self._n)
            pit = replace(
                pit,
                visible=visible_tv(self._n, _BINS, alpha / _N_TESTS),
                tv_upper=min(1.0, apart + tv_bound(self._n, _BINS, alpha)),
            )
        return judged([support, entropy, pit], alpha)

    def _visible_tilt(self, alpha: float) -> float | None:
        """The smallest tilt that would be rejected in either direction, by the mean evidence and its spread."""
        needed = math.log(len(_TILTS) / alpha)
        mean, variance = self._promised.unbind(dim=1)
        seen = (mean - Z_POWER * variance.sqrt() >= needed).tolist()
        missed = {abs(tilt) for tilt, one in zip(_TILTS, seen, strict=True) if not one}
        return min({abs(tilt) for tilt in _TILTS} - missed, default=None)

    def _add_surprise(self, x: Tensor, p: Tensor) -> None:
        """S = sum of -log p(x) - H(p), its variance, and for each tilt t the evidence for p^(1 - t).

        And what that evidence would be, mean and variance, if p^(1 - t) were the law.
        """
        log_p = torch.where(p > 0, p, 1).log()
        surprise = -log_p.gather(1, x)[:, 0]
        entropy = -(p * log_p).sum(dim=-1)
        self._sum += float((surprise - entropy).sum())
        self._variance += float(((p * log_p**2).sum(dim=-1) - entropy**2).clamp(min=0).sum())
        impossible = p == 0
        for i, tilt in enumerate(_TILTS):
            tilted = (log_p * (1 - tilt)).masked_fill(impossible, float("-inf"))
            norm = torch.logsumexp(tilted, dim=-1)
            self._evidence[i] += float((tilt * surprise - norm).sum())
            law = (tilted - norm[:, None]).exp()
            mean = -(law * log_p).sum(dim=-1)
            spread = ((law * log_p**2).sum(dim=-1) - mean**2).clamp(min=0)
            self._promised[i, 0] += float((tilt * mean - norm).sum())
            self._promised[i, 1] += float((tilt**2 * spread).sum())

    def _add_pit(self, x: Tensor, p: Tensor, order: Tensor) -> None:
        """U = F(x-) + V p(x) with the vocabulary sorted by `order`: uniform, whatever p and the order are."""
        mine = order.gather(1, x)
        ids = torch.arange(p.shape[1], device=p.device)
        before = (order > mine) | ((order == mine) & (ids < x))
        lower = (p * before).sum(dim=-1)
        v = torch.rand(len(x), dtype=torch.float64, generator=self._generator).to(p.device)
        u = lower + v * p.gather(1, x)[:, 0]
        bins = (u * _BINS).long().clamp(0, _BINS - 1)
        self._bins += torch.bincount(bins, minlength=_BINS).double().cpu()


def judged(tests: Sequence[Test], alpha: float = ALPHA) -> list[Test]:
    """Holm's rule: reject in order of p while p <= alpha / tests left; all tests together alarm with alpha."""
    rejected: set[int] = set()
    for done, at in enumerate(sorted(range(len(tests)), key=lambda i: tests[i].p)):
        if tests[at].p > alpha / (len(tests) - done):
            break
        rejected.add(at)
    return [replace(test, rejected=i in rejected) for i, test in enumerate(tests)]


def borderline(tests: Sequence[Test]) -> bool:
    """Nothing is rejected, but some p-value is too small to be let pass."""
    return not any(test.rejected for test in tests) and any(test.p < _BORDERLINE for test in tests)
