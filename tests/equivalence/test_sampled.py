"""Tests of the sampled law: calibrated under the null, and every broken sampler is rejected."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence

import pytest
import torch
from counts import g_test
from torch import Tensor

from enumerator import EXACT, World, distance, fixed, one_hot, smooth, trimmed, world
from specctl.decode.accept import Acceptor, rejection
from specctl.decode.draft import Draft, Request, Row, Verdict
from specctl.decode.noise import KeyedDraws, Place, Stream
from specctl.decode.sampling import Law, Sampler
from specctl.equivalence.power import chi_square_tail, power, tv_bound
from specctl.equivalence.sampled import ALPHA, SampledLaw, Test, judged

LONG = bool(os.environ.get("SPECCTL_TEST_LONG"))
SEEDS = range(100 if LONG else 2)


# Distributions: figures from tables -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("stat", "df", "tail"), [(3.841459, 1, 0.05), (30.143527, 19, 0.05), (43.820196, 19, 0.001), (0, 5, 1)]
)
def test_chi_square_tail_is_the_tables(stat: float, df: int, tail: float) -> None:
    assert chi_square_tail(stat, df) == pytest.approx(tail, rel=1e-5)


@pytest.mark.parametrize(
    ("n", "cells", "tv", "alpha"),
    [(8_212, 8, 0.05, 1e-6), (51_320, 8, 0.02, 1e-6), (65_312, 8, 0.02, 1e-9), (9_586, 16, 0.05, 1e-6)],
)
def test_power_is_999_at_the_published_sizes(n: int, cells: int, tv: float, alpha: float) -> None:
    assert power(n, cells, tv, alpha) == pytest.approx(0.999, abs=2e-4)
    assert power(n // 4, cells, tv, alpha) < 0.5
    assert power(n, cells, 0.0, alpha) == pytest.approx(alpha, rel=0.01)


def test_tv_bound_is_weissmans() -> None:
    assert tv_bound(200_000, 8, ALPHA) == pytest.approx(0.0070, abs=1e-4)
    assert tv_bound(1_000_000, 8, ALPHA) == pytest.approx(0.0031, abs=1e-4)


def test_holm_rejects_in_order_and_stops() -> None:
    tests = [Test(str(p), 0.0, None, p, 1) for p in (0.04, 0.01, 0.03, 0.011)]
    assert [test.rejected for test in judged(tests, alpha=0.05)] == [False, True, False, True]
    assert not any(test.rejected for test in judged(tests, alpha=0.03))


# One pass over a text: support, entropy, PIT ----------------------------------------------------------------


def laws(seed: int, n: int = 20_000, vocab: int = 30) -> tuple[Tensor, Tensor, torch.Generator]:
    """Other laws p and q at each position; q is p disturbed, as a draft's is."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, vocab, generator=generator, dtype=torch.float64) * 2
    draft = logits + torch.randn(n, vocab, generator=generator, dtype=torch.float64)
    return logits.softmax(-1), draft.softmax(-1), generator


def drawn(law: Tensor, generator: torch.Generator) -> Tensor:
    return torch.multinomial(law, 1, generator=generator)[:, 0]


def judge(tokens: Tensor, p: Tensor, q: Tensor | None) -> dict[str, Test]:
    """In two calls, as texts come."""
    sampled = SampledLaw()
    for part in (slice(0, 700), slice(700, None)):
        sampled.add(tokens[part].tolist(), p[part], None if q is None else q[part])
    return {test.name: test for test in sampled.tests()}


def speculated(
    p: Tensor, q: Tensor, generator: torch.Generator, residual: Callable[[Tensor, Tensor], Tensor]
) -> Tensor:
    """One token a position by rejection sampling, with a residual of one's own."""
    x = drawn(q, generator)[:, None]
    coin = torch.rand(len(x), generator=generator, dtype=torch.float64)
    accepted = coin < (p.gather(1, x) / q.gather(1, x))[:, 0]
    return torch.where(accepted, x[:, 0], drawn(residual(p, q) + 1e-300, generator))


def right_residual(p: Tensor, q: Tensor) -> Tensor:
    return (p - q).clamp(min=0)


def test_a_right_sampler_passes_whatever_the_order() -> None:
    p, q, generator = laws(0)
    for tokens in (drawn(p, generator), speculated(p, q, generator, right_residual)):
        for order in (q, None, p.flip(1)):
            assert not any(test.rejected for test in judge(tokens, p, order).values())


def test_p_values_of_a_right_sampler_are_uniform_or_larger() -> None:
    entropy, pit = [], []
    for seed in range(200):
        p, q, generator = laws(seed, n=400, vocab=8)
        found = judge(drawn(p, generator), p, q)
        entropy.append(found["entropy"].p)
        pit.append(found["pit"].p)
    assert g_test("pit", torch.histc(torch.tensor(pit), 5, 0, 1), torch.ones(5)).p > 1e-4
    for level in (0.05, 0.2):
        assert sum(one <= level for one in entropy) <= 200 * level


@pytest.mark.parametrize(
    ("caught_by", "wrong"),
    [
        pytest.param("pit", lambda p, q: p, id="planted-residual-is-p"),
        pytest.param("pit", lambda p, q: (q - p).clamp(min=0), id="planted-residual-swapped"),
        pytest.param("pit", lambda p, q: q, id="planted-residual-from-the-draft"),
    ],
)
def test_a_wrong_residual_is_rejected(caught_by: str, wrong: Callable[[Tensor, Tensor], Tensor]) -> None:
    p, q, generator = laws(1)
    assert judge(speculated(p, q, generator, wrong), p, q)[caught_by].rejected


def test_sorting_by_q_over_p_is_what_finds_it() -> None:
    """The same bias with the vocabulary in an order of no meaning: far weaker evidence."""
    p, q, generator = laws(1, n=4000)
    tokens = speculated(p, q, generator, lambda p, q: p)
    assert judge(tokens, p, q)["pit"].stat > 4 * judge(tokens, p, p.flip(1))["pit"].stat


@pytest.mark.parametrize(
    "temperature", [0.0, 0.9, 1.1], ids=["planted-greedy", "planted-colder", "planted-hotter"]
)
def test_a_wrong_temperature_is_rejected_by_entropy(temperature: float) -> None:
    p, q, generator = laws(2)
    wrong = (p.log() / max(temperature, 1e-3)).softmax(-1)
    found = judge(drawn(wrong, generator), p, q)["entropy"]
    assert found.rejected
    assert (found.stat > 0) is (temperature > 1)


def test_one_impossible_token_is_a_violation() -> None:
    p, q, generator = laws(3, n=1000)
    cut = Law(1.0, top_k=5).probabilities(p.log())
    tokens = drawn(cut, generator)
    assert not any(test.rejected for test in judge(tokens, cut, q).values())
    tokens[17] = cut[17].argmin()
    assert judge(tokens, cut, q)["support"].rejected


def test_few_tokens_reject_nothing_by_accident() -> None:
    p, q, _ = laws(4, n=3)
    found = judge(p.argmin(dim=-1), p, q)
    assert not any(test.rejected for test in found.values())
    assert found["pit"].n == 0


def test_a_one_hot_law_is_no_division_by_zero() -> None:
    p = torch.eye(5, dtype=torch.float64).repeat(60, 1)
    found = judge(p.argmax(-1), p, p)
    assert all(math.isfinite(test.stat) and not test.rejected for test in found.values())


# Enumeration: no chance at all --------------------------------------------------------------------------------


def grids(n: int) -> list[World]:
    """Worlds of every kind of law: smooth, trimmed, one-hot, disjoint, masses down to 1e-300."""
    tiny = fixed(1.0, 1e-30, 1e-300, 5e-324)
    kinds = [
        *[(p(4), q(4)) for p in (smooth, trimmed, one_hot) for q in (smooth, trimmed, one_hot)],
        (fixed(5, 3, 0, 0), fixed(0, 0, 1, 1)),
        (tiny, smooth(4)),
        (smooth(4), tiny),
        (fixed(1, 1, 1, 1), fixed(1, 1, 1 + 1e-15, 1 - 1e-15)),
    ]
    return [
        world(4, 1, *kinds[seed % len(kinds)], seed, drawn=seed // len(kinds) % 4 > 0) for seed in range(n)
    ]


def test_two_thousand_grids_have_the_target_law() -> None:
    assert max(distance(rejection, grid) for grid in grids(2080)) < EXACT


# Real random numbers: what enumeration cannot see --------------------------------------------------------------


class SharedNumber(KeyedDraws):
    """The coin's number is used again for the residual (vllm-ascend#16370): the cheapest wait knows the coin."""

    def _seeded(self, place: Place, stream: Stream) -> torch.Generator:
        return super()._seeded(place, Stream.ACCEPT if stream is Stream.RESIDUAL else stream)


class Reseeded(KeyedDraws):
    """Each round begins from the seed again: the position does not count."""

    def _seeded(self, place: Place, stream: Stream) -> torch.Generator:
        return super()._seeded(Place(place.key, 0), stream)


class Unnormalised(KeyedDraws):
    """Inverts the distribution function of a residual that does not sum to 1: the last token gets the rest."""

    def sample(self, probs: Tensor, at: Sequence[Place], stream: Stream) -> Tensor:
        if stream is not Stream.RESIDUAL:
            return super().sample(probs, at, stream)
        rest = 1 - probs.sum(dim=-1, keepdim=True)
        last = torch.nn.functional.one_hot(torch.tensor(probs.shape[-1] - 1), probs.shape[-1])
        return super().sample(probs + rest.clamp(min=0) * last, at, stream)


class BestDrafted(KeyedDraws):
    """The draft takes its best token, the acceptor is told that it was drawn from q (transformers#32867)."""

    def sample(self, probs: Tensor, at: Sequence[Place], stream: Stream) -> Tensor:
        return probs.argmax(dim=-1) if stream is Stream.DRAFT else super().sample(probs, at, stream)


def dropped_after_a_look(scores: Tensor, draft: Draft, rows: Sequence[Row], sampler: Sampler) -> Verdict:
    assert draft.q is not None
    kept = [x if float(draft.q[b, 0, x[0]]) >= 0.48 else [] for b, x in enumerate(draft.tokens)]
    return rejection(scores, Draft(kept, draft.q), rows, sampler)


def bonus_of_the_draft(scores: Tensor, draft: Draft, rows: Sequence[Row], sampler: Sampler) -> Verdict:
    assert draft.q is not None
    broken = scores.clone()
    broken[:, 1] = draft.q[:, 0].log()
    return rejection(broken, draft, rows, sampler)


P, P_NEXT, Q = (0.25, 0.25, 0.25, 0.25), (0.4, 0.4, 0.1, 0.1), (0.02, 0.02, 0.46, 0.5)
"""The target at the first and the second position, and a draft that is rejected half the time."""

COUNT = 2500


def two_tokens(accept: Acceptor, draws: KeyedDraws, seed: int) -> Tensor:
    """Joint counts of the first two tokens of many rows, by rounds of one drafted token."""
    p, p_next, q = (torch.tensor(law, dtype=torch.float64) for law in (P, P_NEXT, Q))
    blocks: list[list[int]] = [[] for _ in range(COUNT)]
    sampler = Sampler(Law(1.0), draws)
    while any(len(block) < 2 for block in blocks):
        open_ = [i for i, block in enumerate(blocks) if len(block) < 2]
        rows = [Row(i, Request((7,), 9, seed=seed * COUNT + i), [7, *blocks[i]]) for i in open_]
        places = [Place(row.request.seed, len(row.ids)) for row in rows]
        x = draws.sample(q.expand(len(rows), -1), places, Stream.DRAFT)
        # Accepting reads another law at each slot: a shifted row would show.
        scores = torch.stack([p.log(), p_next.log()]).expand(len(rows), -1, -1)
        if any(blocks[i] for i in open_):
            scores = scores.flip(1)
        verdict = accept(
            scores, Draft([[one] for one in x.tolist()], q.expand(len(rows), 1, -1)), rows, sampler
        )
        for i, token, accepted, bonus in zip(
            open_, x.tolist(), verdict.accepted.tolist(), verdict.bonus.tolist(), strict=True
        ):
            blocks[i] += [*[token][:accepted], bonus]
    counts = torch.zeros(4, 4)
    for first, second, *_ in blocks:
        counts[first, second] += 1
    return counts


JOINT = torch.outer(torch.tensor(P), torch.tensor(P_NEXT))


def test_right_sampling_is_not_rejected() -> None:
    for seed in SEEDS:
        assert g_test("joint", two_tokens(rejection, KeyedDraws(), seed), JOINT).p > 1e-4


@pytest.mark.parametrize(
    ("accept", "draws"),
    [
        pytest.param(rejection, BestDrafted, id="planted-argmax-scored-by-softmax"),
        pytest.param(dropped_after_a_look, KeyedDraws, id="planted-dropped-after-a-look"),
        pytest.param(rejection, Unnormalised, id="planted-residual-not-renormalised"),
        pytest.param(bonus_of_the_draft, KeyedDraws, id="planted-bonus-from-the-draft"),
        pytest.param(rejection, SharedNumber, id="planted-shared-number"),
        pytest.param(rejection, Reseeded, id="planted-reseeded"),
    ],
)
def test_a_broken_sampler_is_rejected_with_every_seed(accept: Acceptor, draws: type[KeyedDraws]) -> None:
    for seed in SEEDS:
        assert g_test("joint", two_tokens(accept, draws(), seed), JOINT).rejected, seed


def test_the_bias_of_a_control_is_one_this_many_tokens_show() -> None:
    """The controls' power is stated, so that nobody shrinks them into silence."""
    assert power(COUNT, 16, 0.12, ALPHA) > 0.999
    assert power(COUNT // 10, 16, 0.12, ALPHA) < 0.05


def test_impossible_outcomes_are_rejected_and_small_cells_pooled() -> None:
    law = torch.tensor([0.5, 0.5, 0.0])
    assert g_test("x", torch.tensor([50, 49, 1]), law).rejected
    spread = torch.tensor([0.5, 0.44] + [0.001] * 60)
    assert g_test("x", torch.tensor([500, 440] + [1] * 60), spread).df == 2
