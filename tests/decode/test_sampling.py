"""`Law` against transformers' own logits processors, which share no code with it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessor,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from specctl.decode import sampling
from specctl.decode.noise import KeyedDraws, Place, Stream
from specctl.decode.sampling import Law, Sampler

VOCAB = 40

LAWS = {
    "temperature": Law(0.7),
    "cold": Law(1e-4),
    "hot": Law(100.0),
    "top-k": Law(0.8, top_k=5),
    "top-k-1": Law(0.8, top_k=1),
    "top-k-all": Law(0.8, top_k=1000),
    "top-p": Law(0.8, top_p=0.7),
    "top-p-tiny": Law(0.8, top_p=1e-6),
    "top-p-almost-1": Law(0.8, top_p=0.999999),
    "top-p-1": Law(0.8, top_p=1.0),
    "min-p": Law(1.3, min_p=0.1),
    "min-p-1": Law(1.3, min_p=1.0),
    "penalty": Law(0.8, repetition_penalty=1.3),
    "reward": Law(0.8, repetition_penalty=0.5),
    "all": Law(0.9, top_k=12, top_p=0.85, min_p=0.05, repetition_penalty=1.4),
    "all-cold": Law(1e-4, top_k=12, top_p=0.85, min_p=0.05, repetition_penalty=1.4),
    "all-hot": Law(100.0, top_k=12, top_p=0.85, min_p=0.05, repetition_penalty=1.4),
}


def theirs(law: Law, logits: Tensor, ids: Sequence[int]) -> Tensor:
    """`[vocab]` logits behind `ids` to probabilities, through transformers' processors in their own order."""
    steps: list[LogitsProcessor] = []
    if law.repetition_penalty != 1:
        steps.append(RepetitionPenaltyLogitsProcessor(law.repetition_penalty))
    steps.append(TemperatureLogitsWarper(law.temperature))
    if law.top_k is not None:
        steps.append(TopKLogitsWarper(law.top_k))
    if law.top_p is not None and law.top_p < 1:
        steps.append(TopPLogitsWarper(law.top_p))
    if law.min_p is not None:
        steps.append(MinPLogitsWarper(law.min_p))
    return LogitsProcessorList(steps)(torch.tensor([list(ids)]), logits[None].clone())[0].softmax(-1)


def problem(seed: int, n: int = 3, k: int = 3) -> tuple[Tensor, list[list[int]], list[list[int]]]:
    """Logits `[n, k + 1, vocab]`, histories and drafts of different lengths."""
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(n, k + 1, VOCAB, generator=generator, dtype=torch.float64) * 3
    histories = [torch.randint(VOCAB, (3 + 4 * b,), generator=generator).tolist() for b in range(n)]
    drafts = [torch.randint(VOCAB, (k - b % 3,), generator=generator).tolist() for b in range(n)]
    return logits, histories, drafts


def ours(law: Law, logits: Tensor, histories: list[list[int]], drafts: list[list[int]]) -> Tensor:
    return law.probabilities(law.scores(logits, histories, drafts))


def largest_difference(law: Law, seed: int, *, planted: str = "") -> float:
    """Over all rows and the slots each row's draft has."""
    logits, histories, drafts = problem(seed)
    given = drafts
    if planted == "block-left-out":
        given = [[] for _ in drafts]
    elif planted == "a-slot-late":
        given = [[VOCAB - 1, *draft[:-1]] for draft in drafts]
    elif planted == "neighbours-history":
        histories, own = histories[::-1], histories
    result = ours(law, logits, histories, given)
    if planted == "neighbours-history":
        histories = own
    worst = 0.0
    for b, draft in enumerate(drafts):
        for slot in range(len(draft) + 1):
            expected = theirs(law, logits[b, slot], histories[b] + draft[:slot])
            worst = max(worst, float((result[b, slot] - expected).abs().max()))
    return worst


@pytest.mark.parametrize("name", list(LAWS))
def test_the_law_is_transformers(name: str) -> None:
    for seed in range(5):
        assert largest_difference(LAWS[name], seed) < 1e-12


@pytest.mark.parametrize("planted", ["block-left-out", "a-slot-late", "neighbours-history"])
def test_planted_history_bugs_are_seen(planted: str) -> None:
    assert largest_difference(LAWS["penalty"], 0, planted=planted) > 0.01
    assert largest_difference(LAWS["temperature"], 0, planted=planted) < 1e-12, "no penalty, no history"


def test_a_rejected_draft_does_not_reach_earlier_slots() -> None:
    law = LAWS["penalty"]
    logits, histories, _ = problem(0, n=1)
    bare = law.scores(logits, histories, [[]])
    drafted = law.scores(logits, histories, [[5, 6, 7]])
    assert torch.equal(drafted[:, 0], bare[:, 0])
    for slot in (1, 2, 3):
        changed = (drafted[0, slot] != bare[0, slot]).nonzero().flatten().tolist()
        assert changed
        assert set(changed) <= set(range(5, 5 + slot))


def test_greedy_scores_keep_the_penalty() -> None:
    """At temperature 0 the penalty still moves the best token, as in transformers."""
    logits = torch.tensor([[[2.0, 1.9, -1.0]]], dtype=torch.float64)
    law = Law(repetition_penalty=1.5)
    assert law.scores(logits, [[0]], [[]]).argmax(-1).tolist() == [[1]]
    assert Law().scores(logits, [[0]], [[]]).argmax(-1).tolist() == [[0]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_laws_are_computed_in_float32_at_least(dtype: torch.dtype) -> None:
    logits = problem(1)[0].to(dtype)
    result = ours(Law(0.7, top_p=0.9), logits, [[], [], []], [[], [], []])
    assert result.dtype == torch.float32
    assert torch.allclose(result.sum(-1), torch.ones(()), atol=1e-6)
    exact = Law(0.7, top_p=0.9).probabilities(logits.double())
    assert float((result - exact).abs().max()) < 1e-6


def test_extreme_temperatures_give_laws() -> None:
    logits = problem(2)[0].float() * 100
    for temperature in (5e-324, 1e-45, 1e-30, 1e-4, 1.0, 100.0, 1e30):
        law = Law(temperature).probabilities(logits)
        assert torch.isfinite(law).all(), temperature
        assert torch.allclose(law.sum(-1), torch.ones(()), atol=1e-5)
    assert torch.equal(Law(1e-4).probabilities(logits).argmax(-1), logits.argmax(-1))


# The nucleus of a large vocabulary ----------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0.01, 3.0], ids=["flat", "peaked"])
def test_both_ways_to_the_nucleus_agree(spread: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flat law's nucleus is wider than the head looked at first, a peaked one's is inside it."""
    generator = torch.Generator().manual_seed(0)
    vocab = 3 * sampling._HEAD
    logits = torch.randn(2, 2, vocab, generator=generator, dtype=torch.float64) * spread
    law = Law(1.0, top_p=0.9)
    sorted_whole: list[int] = []
    sort = Tensor.sort

    def counting(self: Tensor, *args: object, **kwargs: object) -> object:
        sorted_whole.append(self.shape[-1])
        return sort(self, *args, **kwargs)

    monkeypatch.setattr(Tensor, "sort", counting)
    fast = law.probabilities(logits)
    assert sorted_whole == ([vocab] if spread < 1 else [])
    monkeypatch.setattr(sampling, "_HEAD", vocab)
    assert torch.equal(law.probabilities(logits), fast)
    monkeypatch.undo()
    for b in range(2):
        expected = theirs(law, logits[b, 0], [0])
        assert float((fast[b, 0] - expected).abs().max()) < 1e-12
        assert bool(((fast[b, 0] > 0) == (expected > 0)).all())


def test_a_nucleus_of_mixed_rows_does_not_depend_on_neighbours() -> None:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(2, 2 * sampling._HEAD, generator=generator, dtype=torch.float64)
    rows[0] *= 0.01
    rows[1] *= 4
    law = Law(1.0, top_p=0.8)
    together = law.probabilities(rows)
    assert torch.equal(together[1], law.probabilities(rows[1:])[0])


def test_ties_at_a_border_are_all_kept() -> None:
    """The law must not depend on the order a sort leaves equal numbers in."""
    logits = torch.tensor([1.0, 3.0, 1.0, 1.0, -9.0], dtype=torch.float64)
    for law in (
        Law(1.0, top_k=2),
        Law(1.0, top_p=0.85),
        Law(1.0, min_p=float(torch.tensor(-2.0).double().exp())),
    ):
        kept = (law.probabilities(logits) > 0).tolist()
        assert kept == [True, True, True, True, False]


def test_a_nucleus_ends_where_its_mass_is_reached() -> None:
    """Powers of two are exact: half the mass is the first token alone, a hair more takes the next two."""
    logits = torch.tensor([0.5, 0.25, 0.25], dtype=torch.float64).log()
    for top_p, kept in ((0.5, 1), (0.500001, 3), (1e-9, 1)):
        law = Law(1.0, top_p=top_p)
        assert int((law.probabilities(logits) > 0).sum()) == kept
    assert int((theirs(Law(1.0, top_p=0.5), logits, [0]) > 0).sum()) == 1


# Drawing ------------------------------------------------------------------------------------------------------


def test_greedy_drafts_have_no_law_and_take_the_lowest_of_the_best() -> None:
    scores = torch.tensor([[0.0, 4.0, 4.0], [1.0, 0.0, 1.0]])
    tokens, q = Sampler.keyed(Law()).draft_tokens(scores, [Place(0, 0), Place(1, 0)])
    assert tokens.tolist() == [1, 0]
    assert q is None


@pytest.mark.parametrize("coupled", [True, False])
def test_drafts_are_drawn_from_the_law_they_report(coupled: bool) -> None:
    """By the target's numbers when coupled, by their own when not."""
    law = Law(0.9, top_k=4)
    scores = problem(3, n=60)[0][:, 0]
    places = [Place(row, 7) for row in range(60)]
    tokens, q = Sampler.keyed(law, coupled=coupled).draft_tokens(scores, places)
    assert q is not None
    assert torch.equal(q, law.probabilities(scores))
    own, others = (Stream.TARGET, Stream.DRAFT) if coupled else (Stream.DRAFT, Stream.TARGET)
    assert torch.equal(tokens, KeyedDraws().sample(q, places, own))
    assert not torch.equal(tokens, KeyedDraws().sample(q, places, others))


def test_a_rows_law_does_not_depend_on_its_neighbours() -> None:
    """A neighbour with far larger scores must not cost a row its last bits."""
    generator = torch.Generator().manual_seed(5)
    row = torch.randn(1, VOCAB, generator=generator)
    both = torch.cat([row, row + 70_000])
    for law in LAWS.values():
        assert torch.equal(law.probabilities(both)[0], law.probabilities(row)[0])


def test_a_nucleus_of_everything_cuts_nothing() -> None:
    """In float32 a long flat tail adds up to 1 before its last tokens: they belong to the law all the same."""
    logits = torch.full((1, 30_000), -16.0)
    logits[0, 0] = 0.0
    assert torch.equal(Law(1.0, top_p=1.0).probabilities(logits), Law(1.0).probabilities(logits))
    assert bool((Law(1.0, top_p=1.0).probabilities(logits) > 0).all())
