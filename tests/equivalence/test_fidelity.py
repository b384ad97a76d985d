"""Drafts that are wrong without changing the output."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from toys import subject, toy_lm

from fakes import ask, noisy_lm, tiny_module
from specctl.decode.draft import Draft, Drafter, Parts, Row, Scored
from specctl.decode.sampling import Law, Sampler
from specctl.decode.target import Target
from specctl.drafters.draft_model import DraftModel, OwnWeights
from specctl.drafters.kangaroo import Kangaroo
from specctl.drafters.ngram import Ngram
from specctl.equivalence.fidelity import Fidelity, acceptance
from specctl.equivalence.noise import Noise
from specctl.equivalence.remade import Proposal, Remade
from specctl.equivalence.report import Verdict
from specctl.equivalence.rescore import Rescorer, with_adapter
from specctl.equivalence.subject import Subject
from specctl.equivalence.verify import Watchers, verify_greedy
from specctl.models.adapter import Adapter, Shape, readout
from specctl.models.cheap import cheapened
from specctl.models.lm import LM
from specctl.profile.drafters import DraftModelParams, KangarooParams, NgramParams


def draft_lm() -> LM:
    module = tiny_module()
    module.load_state_dict(noisy_lm().module.state_dict())
    return LM(module.to(torch.bfloat16), "noisy", row_floor=2)


def with_draft(lm: LM, make: Callable[..., Drafter] = DraftModel, **changes: Any) -> Subject:
    params = DraftModelParams(method="draft-model", draft_tokens=3)

    def drafter(sampler: Sampler) -> Drafter:
        return make(params, Parts(toy_lm(), lm, sampler, frozenset()))

    return replace(subject(toy_lm(), drafter, **changes), draft=lm)


def watched(one: Subject, new: int = 16, rows: int = 3) -> Fidelity:
    drawn = None if one.rules.sampler.law.greedy else lambda: NOISE
    fidelity = Fidelity(one, noise=drawn, itself=one.draft is one.target)
    asked = ask(rows, new)
    reports = verify_greedy(
        one, asked, batch_size=2, noise=None, audit=0, watchers=Watchers(drafter=fidelity.watch)
    )
    if one.rules.sampler.law.greedy:
        assert {report.verdict for report in reports} == {Verdict.EXACT}, "the output hides draft bugs"
    return fidelity


def test_a_right_draft_is_what_a_fresh_drafter_proposes() -> None:
    fidelity = watched(with_draft(draft_lm()))
    assert list(fidelity.problems()) == []
    assert fidelity.remade.compared > 10
    assert 0 < fidelity.accepted < fidelity.drafted


def test_lookup_drafts_are_what_a_fresh_lookup_proposes() -> None:
    params = NgramParams(method="ngram", draft_tokens=4, min_ngram=1)
    one = subject(toy_lm(), lambda sampler: Ngram(params, Parts(toy_lm(), None, sampler, frozenset())))
    fidelity = watched(one, new=40)
    assert list(fidelity.problems()) == []
    assert fidelity.drafted


class InTurns(Ngram):
    """Asks two sources in turns: one says what is looked up, the other token 5 and nothing else."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.rounds = 0
        self.only: object = None

    def asked(self, slot: int) -> object:
        return self.only or ("lookup", "five")[self.rounds % 2]

    def ask_only(self, whom: object) -> None:
        self.only = whom

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        self.rounds += 1
        looked_up = super().draft(rows, budget)
        five = Draft([[5] * min(most, 1) for most in budget], confidence=[[1.0] * min(m, 1) for m in budget])
        return looked_up if self.asked(0) == "lookup" else five


class Deaf(InTurns):
    def ask_only(self, whom: object) -> None:
        pass


@pytest.mark.parametrize(("make", "sound"), [(InTurns, True), (Deaf, False)], ids=["right", "planted-deaf"])
def test_who_is_asked_may_depend_on_the_past(make: type[InTurns], sound: bool) -> None:
    """What he proposes may not."""
    params = NgramParams(method="ngram", draft_tokens=4)
    one = subject(toy_lm(), lambda sampler: make(params, Parts(toy_lm(), None, sampler, frozenset())))
    fidelity = watched(one, new=40)
    assert fidelity.remade.compared > 10
    assert (list(fidelity.problems()) == []) is sound


def test_the_target_drafting_for_itself_is_always_right() -> None:
    fidelity = watched(with_draft(toy_lm()))
    assert list(fidelity.problems()) == []
    assert fidelity.accepted == fidelity.drafted > 0


class Rewound(DraftModel):
    """Takes back one token too many of its cache, and does not feed it again."""

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        super().observe(rows, scored, accepted)
        for layer in self._cache.slot_layers:
            for tensor in layer.tensors():
                tensor[0, :, max(self._cache.lengths[0] - 1, 0)] = 0


def test_a_planted_draft_cache_bug_is_seen() -> None:
    problems = list(watched(with_draft(draft_lm(), Rewound)).problems())
    assert [one.verdict for one in problems] == [Verdict.DRAFT_DEGRADED]
    assert "fresh drafter" in problems[0].what


def test_planted_self_draft_misses_are_seen() -> None:
    found = [one.what for one in watched(with_draft(toy_lm(), Rewound)).problems()]
    assert any("drafting for itself" in what for what in found)


class Idle(DraftModel):
    """Drafts nothing behind a draft that was kept whole."""

    whole = False

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        return super().draft(rows, [0 if self.whole else most for most in budget])

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        self.whole = max(accepted) == 3
        super().observe(rows, scored, accepted)


class Hasty(DraftModel):
    """Leaves its last token out when there is one more to draft."""

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        one = super().draft(rows, budget)
        late = len(rows[0].ids) % 2
        return Draft([tokens[:-1] if late else tokens for tokens in one.tokens])


@pytest.mark.parametrize("make", [Idle, Hasty])
def test_planted_missing_drafts_are_seen(make: Callable[..., Drafter]) -> None:
    """With a fresh drafter of the right kind: what a bug leaves out hides from a comparison of tokens."""
    one = with_draft(draft_lm(), make)
    right = with_draft(draft_lm())
    fidelity = Fidelity(right)
    watchers = Watchers(drafter=fidelity.watch)
    reports = verify_greedy(one, ask(3, 16), batch_size=2, noise=None, audit=0, watchers=watchers)
    assert {report.verdict for report in reports} == {Verdict.EXACT}
    assert not fidelity.remade.mismatches
    assert ["instead of" in problem.what for problem in fidelity.problems()] == [True]


def proposal(n: int, confidence: float | None) -> Proposal:
    return Proposal([7] * n, None, None if confidence is None else [confidence] * n)


@pytest.mark.parametrize(
    ("live", "fresh", "explained"),
    [
        (proposal(1, 0.39), proposal(3, 0.41), True),
        (proposal(3, 0.41), proposal(1, 0.39), True),
        (proposal(1, 0.41), proposal(3, 0.41), False),
        (proposal(1, 0.2), proposal(3, 0.41), False),
        (proposal(0, 0.39), proposal(3, 0.41), False),
        (proposal(1, None), proposal(3, None), False),
    ],
)
def test_only_rounding_at_the_border_explains_another_length(
    live: Proposal, fresh: Proposal, explained: bool
) -> None:
    assert Remade(with_draft(draft_lm()), None)._as_sure(live, fresh) is explained


@pytest.mark.parametrize(("first", "explained"), [(0.48, True), (0.5, False), (0.3, False)])
def test_a_draft_may_end_for_what_its_first_token_was_found(first: float, explained: bool) -> None:
    """Both are as sure of the last token; drafts of models end once all of theirs together is unlikely."""
    live, fresh = Proposal([7, 7], None, [0.5, 1.0]), Proposal([7, 7, 7], None, [first, 1.0, 1.0])
    assert Remade(with_draft(draft_lm()), None)._as_sure(live, fresh) is explained


class Displaced(OwnWeights):
    """Drafts above the slots it should, so behind one the target has not written."""

    def _catch_up(self, rows: Sequence[Row], active: Sequence[bool]) -> torch.Tensor:
        self._fed = 1
        return super()._catch_up(rows, active)


def test_a_draft_in_the_targets_cache_is_made_again_in_a_fresh_one() -> None:
    fidelity = watched(with_draft(replace(draft_lm(), twin=True), OwnWeights))
    assert list(fidelity.problems()) == []
    assert fidelity.remade.compared > 10
    assert 0 < fidelity.accepted < fidelity.drafted


@pytest.mark.parametrize("planted", [False, True])
def test_a_displaced_draft_is_not_excused_as_noise(planted: bool) -> None:
    """The excuse is measured with the target's states as context, as the drafts are made."""
    one = with_draft(replace(draft_lm(), twin=True), OwnWeights)
    fidelity = Fidelity(one, noise=lambda: NOISE)
    params = DraftModelParams(method="draft-model", draft_tokens=3)
    parts = Parts(toy_lm(), one.draft, one.rules.sampler, frozenset())
    drafter = (Displaced if planted else OwnWeights)(params, parts)
    watchers = Watchers(drafter=lambda _: fidelity.watch(drafter))
    verify_greedy(one, ask(3, 16), batch_size=1, noise=None, audit=0, watchers=watchers)
    assert bool(list(fidelity.problems())) is planted


class Stale(Kangaroo):
    """Keeps in the adapter's cache what a copy of the first layers made of the tokens, not what the target did."""

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        self._copied = False
        super().observe(rows, scored, accepted)
        self._copied = True


@pytest.mark.parametrize("quantize", ["int4", None])
@pytest.mark.parametrize("planted", [False, True])
def test_a_stale_adapter_cache_is_not_excused_as_noise(planted: bool, quantize: Any) -> None:
    """The excuse is measured with the target's slots below the exit and its states in the adapter's cache."""
    lm, params = toy_lm(), KangarooParams(method="kangaroo", draft_tokens=3, min_confidence=0.0, rests=False)
    adapter = Adapter(lm, Shape(2, "layer")).bfloat16().eval()
    draft, _ = cheapened(replace(readout(draft_lm(), adapter), twin=True), quantize)

    def target(slots: int, capacity: int) -> Target:
        return Target(lm, slots=slots, capacity=capacity, captures=frozenset({2}))

    def make(sampler: Sampler, kind: type[Kangaroo] = Kangaroo) -> Kangaroo:
        return kind(params, Parts(lm, draft, sampler, frozenset()))

    def watch(drafter: Drafter) -> Drafter:
        return fidelity.watch(make(one.rules.sampler, Stale) if planted else drafter)

    one = replace(subject(lm, make, target=target), draft=draft)
    fidelity = Fidelity(one, noise=lambda: NOISE)
    verify_greedy(one, ask(4, 20), batch_size=2, noise=None, audit=0, watchers=Watchers(drafter=watch))
    assert fidelity.remade.compared > 10
    assert fidelity.accepted
    assert bool(list(fidelity.problems())) is planted


def test_rescoring_goes_on_from_the_targets_states() -> None:
    """Beside the draft's own reading of the text, which is another context."""
    lm, ids = draft_lm(), [5, 9, 4, 7, 11, 8]
    target = with_draft(lm, OwnWeights).make_target(1, 16)
    target.admit(ids[:5])
    exact = lm.forward(target.cache, [ids[4:]], range(1))[0, -1].float()
    rescorer = Rescorer(lm)
    over = rescorer.scores(ids, Law(), target.cache)
    alone = rescorer.scores(ids, Law())
    near, far = (float((one - exact).abs().max()) for one in (over, alone))
    assert near < 0.3
    assert far > 3 * near


def test_rescoring_an_adapter_goes_on_from_the_targets_states() -> None:
    """Below it and in its own cache."""
    adapter = Adapter(toy_lm(), Shape(2, "layer")).bfloat16().eval()
    draft, _ = cheapened(replace(readout(draft_lm(), adapter), twin=True), "int4")
    ids = [5, 9, 4, 7, 11, 8]
    target = Target(toy_lm(), slots=1, capacity=16, captures=frozenset({2}))
    hidden = target.admit(ids[:5])
    exact = draft.forward(with_adapter(draft, target.cache, hidden[2]), [ids[4:]], range(1))[0, -1].float()
    rescorer = Rescorer(draft)
    over = rescorer.scores(ids, Law(), with_adapter(draft, target.cache, hidden[2]))
    alone = rescorer.scores(ids, Law())
    near, far = (float((one - exact).abs().max()) for one in (over, alone))
    assert near < 0.3
    assert far > 3 * near


NOISE = Noise(0.2, 0.01, 100, {}, 0.1, 3.0)
HOT = Law(1.5, top_k=20)


def test_acceptance_is_what_the_laws_promise() -> None:
    fidelity = watched(with_draft(draft_lm(), law=HOT, accept="rejection"), new=60, rows=4)
    assert fidelity.expected > 5
    assert abs(fidelity.z) < 4
    assert list(fidelity.problems()) == []


def test_planted_over_acceptance_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from specctl.decode.noise import KeyedDraws

    monkeypatch.setattr(KeyedDraws, "accept", lambda self, chance, at: torch.ones_like(chance).bool())
    fidelity = watched(with_draft(draft_lm(), law=HOT, accept="rejection"), new=60, rows=4)
    assert fidelity.z > 5
    assert any("promise" in one.what for one in fidelity.problems())


def test_expected_acceptance() -> None:
    p = torch.tensor([[0.5, 0.3, 0.2], [0.1, 0.9, 0.0]])
    q = torch.tensor([[0.2, 0.8, 0.0], [0.5, 0.5, 0.0], [1.0, 0.0, 0.0]])
    assert acceptance(p, [1, 0], q) == pytest.approx([0.5, 0.6])
    assert acceptance(p, [1, 0], None) == pytest.approx([0.3, 0.1])
