"""The draft model's cache: what it proposes is what the same model without a cache would propose."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from math import prod
from typing import Any

import pytest
from torch import Tensor

from fakes import Spy, ask, draft_model, noisy_lm, plain_tokens, run, shared_lm, tiny_lm
from specctl.decode.draft import Draft, Request, Row
from specctl.decode.sampling import Law
from specctl.decode.stats import Stats
from specctl.drafters.draft_model import DraftModel
from specctl.models.lm import LM

WARM = Law(0.8, top_k=20)


def fresh_logits(lm: LM, ids: Sequence[int]) -> Tensor:
    """Logits behind `ids`, `[vocab]`, from an empty cache."""
    slots = lm.new_cache()
    slots.admit()
    return lm.forward(slots, [list(ids)], range(1))[0, -1]


@cache
def fresh_best(ids: tuple[int, ...]) -> int:
    return int(fresh_logits(noisy_lm(), ids).argmax())


def stale_proposals(batch_size: int, caps: Sequence[int] = (16,) * 5, **params: Any) -> tuple[int, int]:
    """Drafted tokens a cache-less draft model would not have drafted, and how many were compared."""
    spy = Spy(draft_model(shared_lm(), noisy_lm(), **params))
    asked = [replace(one, max_new_tokens=cap) for one, cap in zip(ask(5), caps, strict=True)]
    tokens, _, _ = run(shared_lm(), spy, asked, batch_size=batch_size)
    plain = plain_tokens(new=16)
    expected = [answer[:cap] for answer, cap in zip(plain, caps, strict=True)]
    assert [tuple(row) for row in tokens] == expected, "whatever is drafted, output is plain"
    wrong = compared = 0
    for committed, draft in spy.log:
        for ids, drafted in zip(committed, draft.tokens, strict=True):
            for i, token in enumerate(drafted):
                wrong += token != fresh_best((*ids, *drafted[:i]))
                compared += 1
    return wrong, compared


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("k", [1, 4])
def test_proposals_are_those_of_a_fresh_cache(k: int, batch_size: int) -> None:
    """Rounds of full, partial and no acceptance, rows that leave and others that take their slots."""
    wrong, compared = stale_proposals(batch_size, draft_tokens=k)
    assert wrong == 0
    assert compared > 40


def not_rolled_back(drafter: DraftModel, rows: Any, scored: Any, accepted: Sequence[int]) -> None:
    """The first rejected token stands where the target's own belongs, so there is nothing left to feed."""
    for slot, n in enumerate(accepted):
        drafter._cache.commit(slot, min(n + 1, drafter._fed))


def rolled_back_too_far(drafter: DraftModel, rows: Any, scored: Any, accepted: Sequence[int]) -> None:
    """Two tokens are gone, but count as there: nobody feeds them again."""
    for slot, n in enumerate(accepted):
        drafter._cache.commit(slot, min(n, drafter._fed))
        for layer in drafter._cache.slot_layers:
            for tensor in layer.tensors():
                tensor[slot, :, drafter._cache.lengths[slot] - 2 :] = 0


def last_token_missing(drafter: DraftModel, rows: Any, scored: Any, accepted: Sequence[int]) -> None:
    """After full acceptance the last drafted token counts as fed, although it never went in."""
    for slot, n in enumerate(accepted):
        drafter._cache.commit(slot, n)


BROKEN = [not_rolled_back, rolled_back_too_far, last_token_missing]


@pytest.mark.parametrize("broken", BROKEN, ids=lambda broken: f"planted-{broken.__name__}")
def test_a_broken_draft_cache_is_seen(broken: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(DraftModel, "observe", broken)
    try:
        wrong, _ = stale_proposals(3)
    except IndexError:
        wrong = 1
    assert wrong > 0


def test_planted_rows_that_do_not_move_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A finished row's slot keeps its old keys while the last row's tokens stand in it."""

    def stay(drafter: DraftModel, slot: int) -> None:
        drafter._cache.lengths[slot] = drafter._cache.lengths[-1]
        drafter._cache.lengths.pop()

    assert stale_proposals(3, caps=(3, 16, 9, 5, 12))[0] == 0
    monkeypatch.setattr(DraftModel, "drop", stay)
    assert stale_proposals(3, caps=(3, 16, 9, 5, 12))[0] > 0


def test_the_draft_cache_holds_committed_tokens_only() -> None:
    """Between rounds: a prefix of each row's tokens, short of them by two at most."""
    drafter = draft_model(shared_lm(), noisy_lm())
    spy = Spy(drafter)
    lm = noisy_lm()

    def check(event: object) -> None:
        for slot, row in enumerate(spy.rows if event.kind == "timed" else []):  # type: ignore[attr-defined]
            held = drafter._cache.lengths[slot]
            assert len(row.ids) - 2 <= held <= len(row.ids) - 1
            slots = lm.new_cache()
            lm.prefill(slots, slots.admit(), row.ids[:held])
            for mine, wanted in zip(drafter._cache.slot_layers, slots.slot_layers, strict=True):
                for one, other in zip(mine.tensors(), wanted.tensors(), strict=True):
                    assert float((one[slot, :, :held] - other[0, :, :held]).abs().max()) < 1e-9

    run(shared_lm(), spy, ask(5, 12), batch_size=3, on_event=check)


# Self-drafting: the oracle --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "law", [Law(), WARM, Law(0.8, repetition_penalty=1.4)], ids=["greedy", "warm", "penalty"]
)
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_model_that_drafts_for_itself_is_always_right(batch_size: int, law: Law) -> None:
    """Every token is accepted, so each round gives k + 1: 20 tokens are 4 rounds of 4 + 1.

    Drawn by the target's numbers (`coupled`), or greedily; under `rejection` p = q accepts everything too.
    """
    for accept in ("greedy",) if law.greedy else ("coupled", "rejection"):
        stats = Stats()
        drafter = draft_model(shared_lm(), shared_lm(), law=law, accept=accept)
        run(
            shared_lm(),
            drafter,
            ask(5, 20),
            law=law,
            accept=accept,
            batch_size=batch_size,
            on_event=stats.add,
        )
        assert stats.acceptance_rate == 1.0
        assert stats.mean_acceptance_length == 5.0
        assert stats.rounds == 5 * 4


# Laws -----------------------------------------------------------------------------------------------------------


def drafts(law: Law, accept: str, batch_size: int = 3, **params: Any) -> list[tuple[list[list[int]], Draft]]:
    spy = Spy(draft_model(shared_lm(), noisy_lm(), law=law, accept=accept, **params))
    run(shared_lm(), spy, ask(5, 12), law=law, accept=accept, batch_size=batch_size)
    return spy.log


@pytest.mark.parametrize("law", [WARM, Law(0.8, repetition_penalty=1.4)], ids=["warm", "penalty"])
def test_q_is_the_law_the_tokens_were_drawn_from(law: Law) -> None:
    """Temperature, trimming and penalty included, with this row's tokens and the draft so far."""
    compared = 0
    for committed, draft in drafts(law, "rejection"):
        if draft.longest == 0:
            assert draft.q is None
            continue
        assert draft.q is not None
        assert draft.q.shape[:2] == (len(committed), draft.longest)
        for b, (ids, tokens) in enumerate(zip(committed, draft.tokens, strict=True)):
            for i, token in enumerate(tokens):
                history = [*ids, *tokens[:i]]
                logits = fresh_logits(noisy_lm(), history)[None, None]
                expected = law.probabilities(law.scores(logits, [history], [[]]))[0, 0]
                assert float((draft.q[b, i] - expected).abs().max()) < 1e-9
                assert draft.q[b, i, token] > 0
                compared += 1
    assert compared > 30


def test_greedy_drafts_carry_no_law() -> None:
    assert all(draft.q is None for _, draft in drafts(Law(), "greedy"))


# Where drafting stops -------------------------------------------------------------------------------------------


def test_a_draft_goes_on_while_all_of_it_is_likely_enough_and_keeps_its_last_token() -> None:
    """Stopping before the token, after having looked at it, would bias sampling."""
    least = 0.5
    stopped = together = 0
    for law, accept in ((Law(), "greedy"), (Law(1.0), "rejection")):
        for committed, draft in drafts(law, accept, min_confidence=least):
            for ids, tokens in zip(committed, draft.tokens, strict=True):
                histories = [[*ids, *tokens[:i]] for i in range(len(tokens))]
                confidences = [float(fresh_logits(noisy_lm(), one).softmax(-1).max()) for one in histories]
                assert prod(confidences[:-1]) >= least - 1e-12
                if tokens and len(tokens) < 4 and prod(confidences) < least:
                    stopped += 1
                    # The rule is about the draft, not about its last token.
                    together += confidences[-1] >= least
    assert stopped > 10
    assert together > 0


def test_nothing_is_drafted_behind_an_end_of_sequence() -> None:
    """The end itself is drafted: it may be right, and then the answer ends with it."""
    plain = plain_tokens(new=16)
    eos = frozenset({plain[0][5], plain[1][7], plain[3][2]})
    spy = Spy(draft_model(shared_lm(), shared_lm(), eos=eos))
    tokens, reasons, _ = run(shared_lm(), spy, ask(5, 16), batch_size=3, eos=eos)
    assert "stop" in reasons
    for answer, said, reason in zip(plain, tokens, reasons, strict=True):
        assert said == list(answer[: len(said)])
        assert (reason == "stop") == (said[-1] in eos)
    ends = [
        tokens for _, draft in spy.log for tokens in draft.tokens if any(token in eos for token in tokens)
    ]
    assert ends
    assert all(token not in eos for tokens in ends for token in tokens[:-1])


@pytest.mark.parametrize("batch_size", [1, 3])
def test_past_the_drafts_own_context_rows_are_plain(batch_size: int) -> None:
    """Also for prompts that are too long for the draft from the start; neighbours are drafted for as ever."""
    short = tiny_lm(max_position_embeddings=15)
    drafter = draft_model(shared_lm(), short)
    spy = Spy(drafter)
    held: list[int] = []
    tokens, reasons, _ = run(
        shared_lm(),
        spy,
        ask(5, 16),
        batch_size=batch_size,
        on_event=lambda _: held.extend(drafter._cache.lengths),
    )
    assert max(held) <= 15
    assert [tuple(row) for row in tokens] == list(plain_tokens(new=16))
    assert set(reasons) == {"length"}
    for committed, draft in spy.log:
        for ids, drafted in zip(committed, draft.tokens, strict=True):
            assert len(ids) + len(drafted) <= 15 or not drafted
    assert any(len(ids) >= 15 for committed, _ in spy.log for ids in committed)
    assert any(draft.longest == 4 for _, draft in spy.log)


@pytest.mark.parametrize("accept", ["greedy", "rejection", "coupled"])
@pytest.mark.parametrize("vocab", [40, 64], ids=["narrower", "wider"])
def test_padded_vocabularies_of_other_sizes(vocab: int, accept: str) -> None:
    """Families pad their embeddings differently (Qwen 0.5B 151,936, 7B 152,064): only shared ids are drafted."""
    law = Law() if accept == "greedy" else WARM
    other = tiny_lm(seed=5, vocab_size=vocab)
    asked = [Request(tuple(token % 40 for token in one.prompt), 12, seed=i) for i, one in enumerate(ask(4))]
    stats = Stats()
    spy = Spy(draft_model(shared_lm(), other, law=law, accept=accept))
    tokens, reasons, _ = run(
        shared_lm(), spy, asked, law=law, accept=accept, batch_size=2, on_event=stats.add
    )
    assert set(reasons) == {"length"}
    assert stats.drafted > 20
    assert all(token < 48 for _, draft in spy.log for row in draft.tokens for token in row)
    if accept != "rejection":
        assert tokens == run(shared_lm(), None, asked, law=law, accept=accept)[0]


def test_many_tokens_the_draft_lacks_are_prefilled() -> None:
    """Another row's budget may keep a row undrafted for long; what it then lacks is more than one step takes."""
    lm = noisy_lm()
    drafter = draft_model(shared_lm(), lm)
    asked = ask(2, 99)
    rows = [Row(i, one, list(one.prompt)) for i, one in enumerate(asked)]
    for row in rows:
        drafter.begin(row, {})
    rows[0].ids += plain_tokens()[0]
    first = drafter.draft(rows, [4, 4])
    for row, drafted in zip(rows, first.tokens, strict=True):
        assert drafted[0] == fresh_best(tuple(row.ids))
        assert drafted[3] == fresh_best((*row.ids, *drafted[:3]))


def test_a_module_of_other_kind_can_draft() -> None:
    """Draft and target need one vocabulary, not one architecture."""
    tokens, _, _ = run(
        shared_lm(), draft_model(shared_lm(), shared_lm("gemma3_text")), ask(3, 12), batch_size=3
    )
    assert [tuple(row) for row in tokens] == list(plain_tokens(new=12)[:3])
