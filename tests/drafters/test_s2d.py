"""S2D: exact output at any depth, and every answering depth's logits are those of a forward from scratch."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import Spy, ask, draft_model, noisy_lm, plain_tokens, run, shared_lm, tiny_lm
from specctl.decode.draft import Draft, Parts, Request, Row, Scored
from specctl.decode.sampling import Law, Sampler
from specctl.decode.stats import Stats
from specctl.drafters.s2d import S2D
from specctl.errors import MissingError, ModelFileError, RequestError
from specctl.events import Emitted
from specctl.models import sorted_draft
from specctl.models.cheap import cheapened
from specctl.models.lm import LM
from specctl.models.sorted_draft import Shape, SortedDraft
from specctl.models.trained import fingerprint, write_card
from specctl.profile import read
from specctl.profile.drafters import S2DParams
from specctl.session import open_session

HOT = Law(temperature=1.0)
DEPTHS = (1, 2, 4)
NEVER, ALWAYS = [0.0, 0.0, 0.0], [1.01, 1.01, 0.0]
MIXED = [0.5, 0.8, 0.0]  # of these models: some tokens are answered at each depth


def sorted_lm(base: LM | None = None, depths: tuple[int, ...] = DEPTHS, kept: Tensor | None = None) -> LM:
    """The disturbed target, cut at depths: its first layers as they are."""
    base = base or noisy_lm()
    lm = SortedDraft(base, Shape(depths)).merged(base, kept)
    lm.exits = tuple((depth, sorted_draft.CLIMB) for depth in depths)
    return lm


def drafter(
    thresholds: list[float],
    *,
    target: LM | None = None,
    draft: LM | None = None,
    law: Law | None = None,
    accept: str = "greedy",
    eos: frozenset[int] = frozenset(),
    **params: Any,
) -> S2D:
    sampler = Sampler.keyed(law or Law(), coupled=accept == "coupled")
    settings = S2DParams(
        method="s2d", **{"draft_tokens": 4, "thresholds": thresholds, "rests": False, **params}
    )
    return S2D(settings, Parts(target or shared_lm(), draft or sorted_lm(), sampler, eos))


def changing(depths: int, seed: int) -> list[float]:
    chance = random.Random(seed)
    return [chance.random() for _ in range(depths)]


@pytest.mark.parametrize("batch_size", [1, 4])
@pytest.mark.parametrize(
    "thresholds",
    [NEVER, ALWAYS, MIXED, changing(3, 1), changing(3, 2)],
    ids=["never", "always", "mixed", "a", "b"],
)
def test_output_is_plain_decodings(thresholds: list[float], batch_size: int) -> None:
    one = drafter(thresholds)
    tokens, _, _ = run(shared_lm(), one, ask(5), batch_size=batch_size)
    assert [tuple(row) for row in tokens] == list(plain_tokens())
    if thresholds == NEVER:
        assert one.exits[1:] == [0, 0]
    elif thresholds == ALWAYS:
        assert one.exits[:2] == [0, 0]
    elif thresholds == MIXED:
        assert min(one.exits) > 0


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gemma2", "gemma3_text", "olmo2", "granite"])
def test_other_families(kind: str) -> None:
    one = drafter(MIXED, target=shared_lm(kind), draft=sorted_lm(noisy_lm(kind)))
    tokens, _, _ = run(shared_lm(kind), one, ask(5), batch_size=2)
    assert [tuple(row) for row in tokens] == list(plain_tokens(kind))


@pytest.mark.parametrize("schedule", ["eqspec", "exspec"])
def test_rows_may_wait_for_others(schedule: str) -> None:
    tokens, _, _ = run(shared_lm(), drafter(MIXED), ask(5), batch_size=2, schedule=schedule)
    assert [tuple(row) for row in tokens] == list(plain_tokens())


@pytest.mark.parametrize("accept", ["coupled", "rejection"])
def test_samples_repeat_on_any_batch(accept: str) -> None:
    answers = [
        run(
            shared_lm(), drafter(MIXED, law=HOT, accept=accept), ask(5), law=HOT, accept=accept, batch_size=n
        )[0]
        for n in (1, 3)
    ]
    assert answers[0] == answers[1]
    if accept == "coupled":
        assert [tuple(row) for row in answers[0]] == list(plain_tokens(law=HOT, accept="coupled"))


def test_always_climbing_is_drafting_with_the_deepest() -> None:
    """And so it is with a static depth: the same drafts as a draft model of that many layers."""
    for depths, thresholds in (((1, 2, 4), ALWAYS), ((1, 2), [1.01, 0.0])):
        lm = sorted_lm(depths=depths)
        mine = Spy(drafter(thresholds, draft=lm))
        plain = Spy(draft_model(shared_lm(), lm))
        for one in (mine, plain):
            run(shared_lm(), one, ask(3, 12), batch_size=2)
        assert [draft.tokens for _, draft in mine.log] == [draft.tokens for _, draft in plain.log]


# The oracle ------------------------------------------------------------------------------------------------------


class Oracle(Spy):
    """Computes each answer again, from scratch and at the depth that gave it, and checks the counters."""

    def __init__(self, drafter: S2D) -> None:
        super().__init__(drafter)
        self.s2d, self.worst, self.compared = drafter, 0.0, 0
        self._answer = drafter._answer
        drafter._answer = self.answer  # type: ignore[method-assign]

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        self.now = [list(row.ids) for row in rows]
        self.first = True
        return super().draft(rows, budget)

    def answer(self, fed: Sequence[Sequence[int]]) -> tuple[Tensor, list[float]]:
        for slot, ids in enumerate(fed):
            self.now[slot] += [] if self.first else ids
        self.first = False
        before = list(self.s2d.exits)
        logits, sure = self._answer(fed)
        self.check_counters([bool(ids) for ids in fed])
        answered = [new - old for new, old in zip(self.s2d.exits, before, strict=True)]
        for slot, ids in enumerate(fed):
            if ids:
                self.check_logits(self.now[slot], logits[slot], sure[slot], answered)
        return logits, sure

    def check_counters(self, active: Sequence[bool]) -> None:
        caches, waiting = self.s2d._caches, self.s2d._waiting
        for slot, on in enumerate(active):
            if on:
                assert caches[0].lengths[slot] == len(self.now[slot])
        for j in range(1, len(caches)):
            for slot, length in enumerate(caches[j].lengths):
                assert length + len(waiting[j][slot]) == caches[j - 1].lengths[slot]

    def check_logits(self, ids: Sequence[int], logits: Tensor, sure: float, answered: Sequence[int]) -> None:
        """From scratch the rule picks one depth; that must have answered, with these logits."""
        lm = self.s2d._lm
        for j, (depth, climb) in enumerate(zip((one for one, _ in lm.exits), self.s2d._climb, strict=True)):
            cache = lm.new_cache()
            cache.admit()
            states = lm.segment(cache, [list(ids)], range(1), 0, depth)
            alone = lm.read_out(states)[0, -1]
            best = float(alone.softmax(-1).max())
            if best > climb or j + 1 == len(lm.exits):
                assert answered[j]
                self.worst = max(self.worst, float((alone - logits).abs().max()), abs(best - sure))
                self.compared += 1
                return


def watched(batch_size: int = 1, thresholds: list[float] = MIXED, **params: Any) -> Oracle:
    one = Oracle(drafter(thresholds, **params))
    tokens, _, _ = run(shared_lm(), one, ask(3, 16), batch_size=batch_size)
    assert [tuple(row) for row in tokens] == list(plain_tokens(n=3, new=16))
    assert one.compared > 30
    return one


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("thresholds", [MIXED, NEVER, ALWAYS, [0.9, 0.1, 0.0]], ids=str)
def test_answers_are_those_from_scratch(thresholds: list[float], batch_size: int) -> None:
    assert watched(batch_size, thresholds).worst < 1e-9


def test_a_good_draft_is_no_easier() -> None:
    """Full acceptance leaves two tokens to feed, the case the published code's rollback is wrong for."""
    one = watched(thresholds=[0.9, 0.9, 0.0], draft=sorted_lm(shared_lm()), draft_tokens=2)
    assert one.worst < 1e-9


def one_too_many(self: S2D, slot: int, length: int) -> None:
    """Planted: one waiting state fewer than is owed (the published code, in one of its cases)."""
    for cache in self._caches:
        cache.truncate(slot, length)
    for j in range(1, len(self._spans)):
        owed = self._caches[j - 1].lengths[slot] - self._caches[j].lengths[slot]
        del self._waiting[j][slot][max(owed - 1, 0) :]


def stale_states(self: S2D, slot: int, length: int) -> None:
    """Planted: as many states as are owed, but the newest ones, rejected tokens among them."""
    for cache in self._caches:
        cache.truncate(slot, length)
    for j in range(1, len(self._spans)):
        owed = self._caches[j - 1].lengths[slot] - self._caches[j].lengths[slot]
        waiting = self._waiting[j][slot]
        waiting[:] = waiting[len(waiting) - owed :]


def keys_left(self: S2D, slot: int, length: int) -> None:
    """Planted: the deepest segment keeps the slots of rejected tokens."""
    for cache in self._caches[:-1]:
        cache.truncate(slot, length)
    for j in range(1, len(self._spans)):
        owed = self._caches[j - 1].lengths[slot] - self._caches[j].lengths[slot]
        del self._waiting[j][slot][max(owed, 0) :]


@pytest.mark.parametrize("planted", [one_too_many, stale_states, keys_left])
def test_planted_rollbacks_are_seen(monkeypatch: pytest.MonkeyPatch, planted: Any) -> None:
    """With the counters switched off the logits alone show them; and the output never does."""
    monkeypatch.setattr(S2D, "_roll_back", planted)
    tokens, _, _ = run(shared_lm(), drafter(MIXED), ask(5))
    assert [tuple(row) for row in tokens] == list(plain_tokens())
    monkeypatch.setattr(Oracle, "check_counters", lambda *_: None)
    try:
        worst = watched().worst
    except AssertionError:  # another depth answered than should have
        return
    assert worst > 1e-3


# Choices ---------------------------------------------------------------------------------------------------------


def test_confidence_ends_drafts_behind_the_unsure_token() -> None:
    one = Spy(drafter(MIXED, min_confidence=1.0))
    tokens, _, _ = run(shared_lm(), one, ask(5), batch_size=2)
    assert [tuple(row) for row in tokens] == list(plain_tokens())
    assert max(draft.longest for _, draft in one.log) == 1
    one = Spy(drafter(MIXED, min_confidence=0.6))
    run(shared_lm(), one, ask(5), batch_size=2)
    assert {1, 4} <= {len(row) for _, draft in one.log for row in draft.tokens}
    for _, draft in one.log:
        assert draft.confidence is not None
        assert all(sure >= 0.6 for row in draft.confidence for sure in row[:-1])


def test_a_trimmed_head_drafts_kept_tokens_only() -> None:
    one = Spy(drafter(MIXED, draft=sorted_lm(kept=torch.arange(0, 48, 3))))
    tokens, _, _ = run(shared_lm(), one, ask(5), batch_size=2)
    assert [tuple(row) for row in tokens] == list(plain_tokens())
    assert {token % 3 for _, draft in one.log for row in draft.tokens for token in row} == {0}


def test_nothing_is_drafted_behind_the_end_of_sequence() -> None:
    answer = run(shared_lm(), None, ask(1, 12))[0][0]
    eos = frozenset({answer[2]})
    one = Spy(drafter(ALWAYS, draft=sorted_lm(shared_lm()), draft_tokens=6, eos=eos))
    tokens, reasons, _ = run(shared_lm(), one, ask(1, 12), eos=eos)
    assert tokens[0] == answer[: answer.index(answer[2]) + 1]
    assert reasons == ["stop"]
    assert len(one.log) == 1


def test_past_the_drafts_context_rows_are_decoded_plainly() -> None:
    short = sorted_lm(noisy_lm())
    short.config.max_position_embeddings = 12
    one = Spy(drafter(MIXED, draft=short))
    tokens, _, _ = run(shared_lm(), one, ask(5), batch_size=2)
    assert [tuple(row) for row in tokens] == list(plain_tokens())
    assert (
        max(len(ids) for rows, draft in one.log for ids, new in zip(rows, draft.tokens, strict=True) if new)
        < 12
    )


def test_a_target_may_have_thresholds_of_its_own() -> None:
    named = {shared_lm().name: NEVER}
    one = drafter(ALWAYS, targets=named)
    run(shared_lm(), one, ask(2))
    assert one.exits[1:] == [0, 0]
    with pytest.raises(RequestError, match="2 thresholds for a sorted draft of 3 depths"):
        drafter([0.5, 0.0])


def test_on_the_fused_decoder() -> None:
    generic = sorted_lm()
    fused, _ = cheapened(generic, None)
    fused.exits = generic.exits
    logs = []
    for lm in (generic, fused):
        one = Spy(drafter(MIXED, draft=lm))
        tokens, _, _ = run(shared_lm(), one, ask(5), batch_size=3)
        assert [tuple(row) for row in tokens] == list(plain_tokens())
        logs.append([draft.tokens for _, draft in one.log])
    assert logs[0] == logs[1]


# Files -----------------------------------------------------------------------------------------------------------


def moved(base: LM, shape: Shape) -> SortedDraft:
    """Something that was trained, as it were."""
    draft = SortedDraft(base, shape)
    with torch.no_grad():
        for parameter in draft.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return draft


@pytest.mark.parametrize("rank", [None, 3])
def test_a_sorted_draft_comes_back_as_it_was(tmp_path: Path, rank: int | None) -> None:
    base = tiny_lm()
    made = moved(base, Shape((1, 3), rank))
    sorted_draft.write(tmp_path, base, made.state_dict(), made.shape, torch.tensor([3, 5, 9]), {})
    back, kept = sorted_draft.read(tmp_path, base)
    assert back.shape == made.shape
    assert kept is not None
    ids = [[3, 5, 7, 11]]
    answers = []
    for draft in (made.as_lm(base, kept), made.merged(base, kept), back.merged(base, kept)):
        cache = draft.new_cache()
        cache.admit()
        answers.append(draft.forward(cache, ids, range(1)))
    assert answers[0].shape == (1, 4, 3)
    for other in answers[1:]:
        torch.testing.assert_close(answers[0], other, rtol=1e-9, atol=1e-9)
    stored = {name for name, _ in made.named_parameters()}
    assert stored == set(made.state_dict())
    assert (rank is None) == ("layers.0.mlp.up_proj.weight" in stored)


def test_a_new_sorted_draft_is_its_bases_first_layers() -> None:
    base = tiny_lm()
    for rank in (None, 2):
        lm = SortedDraft(base, Shape((2, 4), rank)).merged(base)
        mine, theirs = lm.new_cache(), base.new_cache()
        for cache in (mine, theirs):
            cache.admit()
        assert torch.equal(
            lm.forward(mine, [[3, 4, 5]], range(1)), base.forward(theirs, [[3, 4, 5]], range(1))
        )


def test_the_wrong_base_is_refused(tmp_path: Path) -> None:
    base = tiny_lm()
    made = SortedDraft(base, Shape((1, 2)))
    sorted_draft.write(tmp_path, base, made.state_dict(), made.shape, None, {})
    with pytest.raises(ModelFileError, match="trained for another model"):
        sorted_draft.read(tmp_path, tiny_lm(seed=1))


def test_files_that_are_no_sorted_draft_are_refused(tmp_path: Path) -> None:
    base = tiny_lm()
    with pytest.raises(ModelFileError, match="has no"):
        sorted_draft.read(tmp_path, base)
    made = SortedDraft(base, Shape((1, 2)))
    for kept in ([5, 3], [3, 48], []):
        sorted_draft.write(tmp_path, base, made.state_dict(), made.shape, torch.tensor(kept), {})
        with pytest.raises(ModelFileError, match="keeps tokens"):
            sorted_draft.read(tmp_path, base)
    tensors = dict(list(made.state_dict().items())[1:])
    sorted_draft.write(tmp_path, base, tensors, made.shape, None, {})
    with pytest.raises(ModelFileError, match="does not fit"):
        sorted_draft.read(tmp_path, base)


def test_thresholds_belong_to_a_target(tmp_path: Path) -> None:
    base, other = tiny_lm(), tiny_lm(seed=1)
    shape = Shape((1, 2, 4))
    sorted_draft.write(tmp_path, base, {}, shape, None, {})
    assert sorted_draft.thresholds(tmp_path, shape, base) == (0.5, 0.5, 0.0)
    card = sorted_draft.read_card(tmp_path)
    card["targets"][fingerprint(other)] = {"thresholds": [0.9, 0.2, 0]}
    write_card(tmp_path, card)
    assert sorted_draft.thresholds(tmp_path, shape, other) == (0.9, 0.2, 0.0)
    assert sorted_draft.thresholds(tmp_path, shape, base) == (0.5, 0.5, 0.0)
    with pytest.raises(ModelFileError, match="threshold for each depth"):
        sorted_draft.thresholds(tmp_path, Shape((1, 2)), other)


@pytest.mark.parametrize("depths", [(), (0, 2), (2, 5), (2, 2), (3, 1)])
def test_depths_that_cannot_be_cut_are_refused(depths: tuple[int, ...]) -> None:
    with pytest.raises(RequestError, match="cannot be cut"):
        SortedDraft(shared_lm(), Shape(depths))


def test_none_is_shipped_for_unknown_weights() -> None:
    with pytest.raises(MissingError, match="is shipped"):
        sorted_draft.shipped(shared_lm())


def test_observing_needs_no_scores() -> None:
    assert S2D.needs == frozenset()
    one = drafter(NEVER)
    one.observe([], Scored(torch.empty(0)), [])


@pytest.mark.real
def test_the_shipped_draft_drafts_for_its_base(smollm2: Path) -> None:
    asked = [Request((504, 2988, 288, 451, 1962), 20), Request((504, 5721), 20)]
    answers = []
    for name in ("s2d", "plain"):
        session = open_session(read.load(name), smollm2, None, target_name="smollm2-135m", draft_name=None)
        stats = Stats()
        tokens: list[list[int]] = [[], []]
        for event in session.generate(asked, batch_size=2):
            stats.add(event)
            if isinstance(event, Emitted):
                tokens[event.row] += event.tokens
        answers.append(tokens)
        assert (stats.summary()["accepted"] > 0) == (name == "s2d")
    assert answers[0] == answers[1]
