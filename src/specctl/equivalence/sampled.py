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
_TILTS = (-1.0, -0.5, -0.2, -0.1, -0.05, -0.02, 0.02, 0.05, 0.1, 0.2, 0.5)


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

    def add(
        self, tokens: Sequence[int], p: Tensor, q: Tensor | None = None, near: Tensor | None = None
    ) -> None:
        """Emitted `tokens` `[n]`, their laws `p` `[n, vocab]`, the draft's laws `q` for the same prefixes.

        `near` `[n, vocab]` marks tokens that noise may bring into p's support: one of these with p = 0 is no
        violation and is left out of the other tests. q must not depend on what was drafted at the position.
        """
        x = torch.tensor(tokens, device=p.device)[:, None]
        p = p.double()
        p = p / p.sum(dim=-1, keepdim=True)
        inside = p.gather(1, x)[:, 0] > 0
        excused = torch.zeros_like(inside) if near is None else near.gather(1, x)[:, 0]
        self._outside += int((~inside & ~excused).sum())
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


def g_test(name: str, counts: Tensor, law: Tensor, alpha: float = ALPHA) -> Test:
    """Likelihood-ratio test of `counts` against `law`, both of one shape; small cells are pooled.

    A count where the law has nothing is a rejection at once.
    """
    observed, probability = counts.flatten().double(), law.flatten().double()
    n = int(observed.sum())
    if bool((observed[probability == 0] > 0).any()):
        return Test(name, math.inf, None, 0.0, n, rejected=True)
    expected = probability / probability.sum() * n
    small = expected < _FEWEST_PER_CELL
    cells = torch.stack([observed, expected])
    cells = torch.cat([cells[:, ~small], cells[:, small].sum(dim=1, keepdim=True)], dim=1)
    cells = cells[:, cells[1] > 0]
    ratio = torch.where(cells[0] > 0, cells[0] / cells[1], 1)
    stat = max(2 * float((cells[0] * ratio.log()).sum()), 0.0)
    df = cells.shape[1] - 1
    return judged([Test(name, stat, df, chi_square_tail(stat, df), n)], alpha)[0]


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
