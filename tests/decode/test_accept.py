"""Acceptors by exact enumeration (`tests/enumerator.py`), their refusals, and ties."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from enumerator import (
    EXACT,
    HARD,
    IDENTITY,
    PAPER,
    PROMPT,
    World,
    continuation,
    distance,
    emitted_law,
    one_hot,
    row,
    smooth,
    surely_wrong,
    textbook,
    trimmed,
    world,
)
from specctl.decode.accept import Acceptor, coupled, greedy, rejection
from specctl.decode.draft import Draft, Row, Verdict
from specctl.decode.noise import Draws, KeyedDraws, Place, Stream
from specctl.decode.sampling import Law, Sampler


@pytest.mark.parametrize("name", list(HARD))
@pytest.mark.parametrize("drawn", [True, False], ids=["drawn", "argmax"])
def test_rejection_has_the_target_law_on_hard_grids(name: str, drawn: bool) -> None:
    law_p, law_q = HARD[name]
    for stop in (lambda prefix: False, surely_wrong):
        assert distance(rejection, world(4, 2, law_p, law_q, 1, stop=stop, drawn=drawn)) < EXACT


def test_rejection_has_the_target_law_on_random_grids() -> None:
    """500 worlds: drawn and argmax drafts, trimmed q, drafts that end early in some rows of the batch."""
    for seed in range(500):
        vocab, k = 3 + seed % 2, 1 + seed % 3 // 2
        law_q = (smooth, trimmed, one_hot)[seed // 2 % 3](vocab)
        stop = surely_wrong if seed % 5 < 2 else (lambda prefix: False)
        grid = world(vocab, k, smooth(vocab), law_q, seed, stop=stop, drawn=seed % 4 > 0)
        assert distance(rejection, grid) < EXACT, seed


@pytest.mark.parametrize(("vocab", "k"), [(3, 3), (5, 2)])
def test_rejection_has_the_target_law_on_larger_grids(vocab: int, k: int) -> None:
    grid = world(vocab, k, smooth(vocab), trimmed(vocab), 3, stop=surely_wrong)
    assert distance(rejection, grid) < EXACT


def test_nothing_drafted_is_plain_sampling() -> None:
    grid = world(5, 2, smooth(5), smooth(5), 0, stop=lambda prefix: True)
    assert distance(rejection, grid) < EXACT


LAW = Law(temperature=0.6, top_k=3, top_p=0.9, min_p=0.05)


@pytest.mark.parametrize("planted", [False, True], ids=["same-law", "planted-law-on-the-draft-only"])
def test_trimming_is_in_the_law_of_every_slot(planted: bool) -> None:
    """Drafts and targets trimmed by one `Law`; the bug gives the acceptor another one than plain sampling."""
    logits = world(5, 2, smooth(5), smooth(5), 1).p
    trimmed_p = {prefix: LAW.probabilities(scores * 4) for prefix, scores in logits.items()}
    trimmed_q = {prefix: LAW.probabilities(scores.flip(0) * 4) for prefix, scores in logits.items()}
    grid = World(5, 2, trimmed_p, trimmed_q)
    assert any(bool((p == 0).any()) for p in trimmed_p.values())
    given = {prefix: scores * 4 for prefix, scores in logits.items()}
    joint = emitted_law(rejection, grid, law=IDENTITY if planted else LAW, logits=given)
    assert (float((joint - continuation(grid, ())).abs().max()) < EXACT) is not planted


# Planted bugs: the same enumeration must see each of them -----------------------------------------------------


def test_the_textbook_itself_passes() -> None:
    assert distance(textbook(), PAPER) < EXACT


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(textbook(residual=lambda p, q: p), id="planted-residual-is-p"),
        pytest.param(textbook(residual=lambda p, q: (q - p).clamp(min=0)), id="planted-residual-swapped"),
        pytest.param(textbook(bonus=lambda p, last_q: last_q), id="planted-bonus-from-the-draft"),
        pytest.param(textbook(ratio=lambda p, q: q / p), id="planted-inverted-ratio"),
        pytest.param(textbook(ratio=lambda p, q: 1.0), id="planted-always-accepts"),
        pytest.param(textbook(keeps_going=True), id="planted-no-prefix-rule"),
    ],
)
def test_a_broken_rule_is_seen(broken: Acceptor) -> None:
    assert distance(broken, PAPER) > 0.01


def test_planted_argmax_scored_by_softmax_is_seen() -> None:
    """The draft took its best token, the acceptor is told q = softmax: the paper's bias of 0.30."""
    argmax = world(4, 1, *HARD["paper"], seed=0, drawn=False)
    law = emitted_law(rejection, argmax, shown_q=argmax.q)
    bias = float((law - continuation(argmax, ())).abs().sum() / 2)
    assert bias == pytest.approx(0.30, abs=1e-9)
    assert distance(rejection, argmax) < EXACT


def test_planted_drop_after_a_look_is_seen() -> None:
    """Dropping a token because q gave it little is biased by 0.15; keeping it and stopping behind it is not."""
    grid = world(4, 1, *HARD["paper"], seed=0)

    def dropping(scores: Tensor, draft: Draft, rows: Sequence[Row], sampler: Sampler) -> Verdict:
        assert draft.q is not None
        kept = [x if float(draft.q[b, 0, x[0]]) >= 0.3 else [] for b, x in enumerate(draft.tokens)]
        return rejection(scores, Draft(kept, draft.q), rows, sampler)

    bias = float((emitted_law(dropping, grid) - continuation(grid, ())).abs().sum() / 2)
    assert bias == pytest.approx(0.15, abs=1e-9)
    unsure = world(4, 2, *HARD["paper"], seed=0, stop=lambda x: bool(x) and x[-1] != 1)
    assert distance(rejection, unsure) < EXACT


def test_planted_q_before_top_k_is_seen() -> None:
    """Drafts drawn from the trimmed law while the acceptor is told the law before trimming."""
    drawn = world(4, 1, smooth(4), trimmed(4), 5)
    told = world(4, 1, smooth(4), smooth(4), 5).q
    assert distance(rejection, drawn) < EXACT
    assert distance(rejection, drawn, shown_q=told) > 0.01


# What the acceptor must refuse, and ties ----------------------------------------------------------------------


class Yes:
    """Coins that say yes whenever the chance is above 0; draws take the likeliest token."""

    def accept(self, probability: Tensor, at: Sequence[Place]) -> Tensor:
        return probability > 0

    def sample(self, probs: Tensor, at: Sequence[Place], stream: Stream) -> Tensor:
        assert bool(torch.isfinite(probs).all())
        assert bool((probs.sum(-1) > 0).all())
        return probs.argmax(-1)


@pytest.mark.parametrize("bad", [0.0, float("nan"), -1.0], ids=["zero", "nan", "negative"])
def test_a_token_q_cannot_have_drawn_is_never_accepted(bad: float) -> None:
    p = torch.tensor([[[0.2, 0.3, 0.5]] * 2], dtype=torch.float64)
    q = torch.tensor([[[0.5, bad, 0.5]]], dtype=torch.float64)
    verdict = rejection(p.log(), Draft([[1]], q), [row(0)], Sampler(IDENTITY, Yes()))
    assert verdict.accepted.tolist() == [0]
    fine = torch.tensor([[[0.5, 0.1, 0.4]]], dtype=torch.float64)
    assert rejection(p.log(), Draft([[1]], fine), [row(0)], Sampler(IDENTITY, Yes())).accepted.tolist() == [1]


def test_a_q_that_is_not_a_number_anywhere_still_gives_a_token_of_p() -> None:
    p = torch.tensor([[[0.2, 0.3, 0.5]] * 2], dtype=torch.float64)
    q = torch.full((1, 1, 3), float("nan"), dtype=torch.float64)
    verdict = rejection(p.log(), Draft([[0]], q), [row(0)], Sampler(IDENTITY, Yes()))
    assert verdict.accepted.tolist() == [0]
    assert verdict.bonus.tolist() == [2]


def test_a_token_the_target_cannot_say_is_never_accepted() -> None:
    p = torch.tensor([[[0.0, 0.3, 0.7]] * 2], dtype=torch.float64)
    for q in (None, torch.tensor([[[0.9, 0.1, 0.0]]], dtype=torch.float64)):
        verdict = rejection(p.log(), Draft([[0]], q), [row(0)], Sampler(IDENTITY, Yes()))
        assert verdict.accepted.tolist() == [0]
        assert verdict.bonus.tolist() != [0]


@pytest.mark.parametrize("width", [4, 33, 4096], ids=["narrow", "odd", "wide"])
def test_greedy_ties_go_to_the_lowest_id(width: int) -> None:
    scores = torch.zeros(2, 2, width)
    scores[:, 0, [1, 3]] = 5.0
    scores[:, 1, [2, width - 1]] = 5.0
    verdict = greedy(scores, Draft([[1], [3]]), [row(0), row(1)], Sampler(Law(), Yes()))
    assert verdict.accepted.tolist() == [1, 0]
    assert verdict.bonus.tolist() == [2, 1]


def test_greedy_reads_the_slot_of_each_row_and_none_behind_its_draft() -> None:
    """Rows of 0, 1, 2 and 3 drafted tokens; padding (token 0) equals the target's choice and must not count."""
    best = torch.tensor([[0, 0, 0, 4], [2, 0, 0, 4], [2, 3, 0, 4], [2, 3, 1, 4]])
    scores = torch.nn.functional.one_hot(best, 5).double()
    draft = Draft([[], [2], [2, 1], [2, 3, 1]])
    verdict = greedy(scores, draft, [row(i) for i in range(4)], Sampler(Law(), Yes()))
    assert verdict.accepted.tolist() == [0, 1, 1, 3]
    assert verdict.bonus.tolist() == [0, 0, 3, 4]


def test_coupled_says_what_plain_sampling_says_at_each_place() -> None:
    """Whatever is drafted: the block is a prefix of the tokens drawn at those places without a draft."""
    generator = torch.Generator().manual_seed(0)
    n, k, vocab = 40, 3, 5
    draws: Draws = KeyedDraws()
    sampler = Sampler(Law(temperature=0.8), draws, coupled=True)
    scores = torch.randn(n, k + 1, vocab, generator=generator)
    rows = [row(key) for key in range(n)]
    drafts = torch.randint(0, vocab, (n, k), generator=generator).tolist()
    lengths = [key % (k + 1) for key in range(n)]
    verdict = coupled(scores, Draft([x[:m] for x, m in zip(drafts, lengths, strict=True)]), rows, sampler)
    lengths_seen = set()
    for b, (accepted, bonus) in enumerate(
        zip(verdict.accepted.tolist(), verdict.bonus.tolist(), strict=True)
    ):
        law = sampler.law.probabilities(scores[b])
        places = [Place(b, len(PROMPT) + slot) for slot in range(k + 1)]
        plain = draws.sample(law, places, Stream.TARGET).tolist()
        assert [*drafts[b][:accepted], bonus] == plain[: accepted + 1]
        assert accepted == lengths[b] or drafts[b][accepted] != plain[accepted]
        lengths_seen.add(accepted)
    assert len(lengths_seen) > 2
