"""Was this text drawn from that law? Tests that need each prefix once, so they work on real vocabularies.

Under the null the token x at a position is drawn from the target's law p there, given all before it. Each test
holds for any p and q that depend on the past only; q, the draft's law, only decides where the power goes.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from specctl.decode.draft import Request
from specctl.decode.sampling import Law
from specctl.equivalence.subject import Subject
from specctl.models.lm import LM

ALPHA = 1e-6
"""False alarms of a whole run, shared among its tests by Holm's rule."""

_BINS = 20
_FEWEST_PER_CELL = 10
_PIECE = 32  # positions whose laws are in memory at once
_TILTS = (-1.0, -0.3, -0.1, -0.03, 0.03, 0.1, 0.3)


@dataclass(frozen=True, slots=True)
class Test:
    """One test's outcome; `df` only where the statistic is a chi-square. `rejected` is Holm's word."""

    __test__ = False  # not a test of pytest's

    name: str
    stat: float
    df: int | None
    p: float
    n: int
    rejected: bool = False


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
        found = [
            Test(
                "support", float(self._outside), None, 0.0 if self._outside else 1.0, self._n + self._outside
            ),
            Test("entropy", z, None, min(1.0, math.exp(min(-evidence, 0.0))), self._n),
            Test("pit", stat, _BINS - 1, chi_square_tail(stat, _BINS - 1), self._n if enough else 0),
        ]
        return judged(found, alpha)

    def _add_surprise(self, x: Tensor, p: Tensor) -> None:
        """S = sum of -log p(x) - H(p), its variance, and for each tilt t the evidence for p^(1 - t)."""
        log_p = torch.where(p > 0, p, 1).log()
        surprise = -log_p.gather(1, x)[:, 0]
        entropy = -(p * log_p).sum(dim=-1)
        self._sum += float((surprise - entropy).sum())
        self._variance += float(((p * log_p**2).sum(dim=-1) - entropy**2).clamp(min=0).sum())
        impossible = p == 0
        for i, tilt in enumerate(_TILTS):
            tilted = (log_p * (1 - tilt)).masked_fill(impossible, float("-inf"))
            self._evidence[i] += float((tilt * surprise - torch.logsumexp(tilted, dim=-1)).sum())

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


def follow(measured: SampledLaw, subject: Subject, request: Request, tokens: Sequence[int]) -> None:
    """Add an answer: its laws by plain forwards over it with fresh caches, target and draft."""
    law = subject.rules.sampler.law
    ids = [*request.prompt, *tokens]
    n_prompt = len(request.prompt)
    draft = subject.draft
    if draft is not None and len(ids) > draft.context_length:
        draft = None
    targets = _laws(subject.target, law, ids, n_prompt)
    drafts = _laws(draft, law, ids, n_prompt) if draft is not None else itertools.repeat(None)
    at = 0
    for p, q in zip(targets, drafts, strict=False):
        measured.add(tokens[at : at + len(p)], p, q)
        at += len(p)


def _laws(lm: LM, law: Law, ids: Sequence[int], n_prompt: int) -> Iterator[Tensor]:
    """The law of each token behind the prompt given all before it, `[n, vocab]` a piece."""
    cache = lm.new_cache()
    cache.reserve(1, len(ids) + lm.row_floor)
    lm.prefill(cache, cache.admit(), ids[: n_prompt - 1])
    for start in range(n_prompt - 1, len(ids) - 1, _PIECE):
        piece = ids[start : min(start + _PIECE, len(ids) - 1)]
        logits = lm.forward(cache, [piece], range(1))
        cache.commit(0, len(piece))
        yield law.probabilities(law.scores(logits, [ids[: start + 1]], [piece[1:]]))[0]


def judged(tests: Sequence[Test], alpha: float = ALPHA) -> list[Test]:
    """Holm's rule: reject in order of p while p <= alpha / tests left; all tests together alarm with alpha."""
    rejected: set[int] = set()
    for done, at in enumerate(sorted(range(len(tests)), key=lambda i: tests[i].p)):
        if tests[at].p > alpha / (len(tests) - done):
            break
        rejected.add(at)
    return [replace(test, rejected=i in rejected) for i, test in enumerate(tests)]


def chi_square_tail(stat: float, df: int) -> float:
    """P(chi-square with `df` degrees of freedom >= stat)."""
    if df == 0:
        return 1.0
    half = torch.tensor([df / 2, stat / 2], dtype=torch.float64)
    return float(torch.special.gammaincc(half[0], half[1]))
