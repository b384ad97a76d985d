"""Self-drafting in the target's cache: drafts of a model with exact context, and nothing of them left behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import Spy, ask, flat_costs, noisy_lm, plain_tokens, prompts, run, shared_lm
from specctl.decode.draft import Parts, Request
from specctl.decode.sampling import Law, Sampler
from specctl.decode.stats import Stats
from specctl.decode.target import Kept, Target
from specctl.drafters.auto import Auto
from specctl.drafters.draft_model import OwnWeights
from specctl.models.cheap import cheapened
from specctl.models.lm import LM
from specctl.models.trimmed import cut, trimmed
from specctl.profile.drafters import AutoParams, SelfParams

HOT = Law(temperature=1.0)
KEPT = torch.arange(0, 48, 2)


def drafter(
    draft: LM | None = None,
    *,
    target: LM | None = None,
    law: Law | None = None,
    accept: str = "greedy",
    **params: Any,
) -> OwnWeights:
    sampler = Sampler.keyed(law or Law(), coupled=accept == "coupled")
    settings = SelfParams(method="self", **{"draft_tokens": 4, **params})
    return OwnWeights(settings, Parts(target or shared_lm(), draft or noisy_lm(), sampler, frozenset()))


@cache
def exact(committed: tuple[int, ...], drafted: tuple[int, ...], kept: bool = False) -> int:
    """The noisy model's choice behind the drafted tokens, the target having read all but the last committed."""
    slots = shared_lm().new_cache()
    slots.admit()
    if committed[:-1]:
        shared_lm().forward(slots, [committed[:-1]], range(1))
        slots.commit(0, len(committed) - 1)
    logits = noisy_lm().forward(slots, [[committed[-1], *drafted]], range(1))[0, -1]
    return int(KEPT[logits[KEPT].argmax()]) if kept else int(logits.argmax())


def inexact(spy: Spy, kept: bool = False) -> tuple[int, int]:
    """Drafted tokens that a model with exact context would not have drafted, and how many were compared."""
    wrong = compared = 0
    for committed, draft in spy.log:
        for ids, tokens in zip(committed, draft.tokens, strict=True):
            for i, token in enumerate(tokens):
                wrong += token != exact(tuple(ids), tuple(tokens[:i]), kept)
                compared += 1
    return wrong, compared


def stale(batch_size: int, schedule: str = "ragged", caps: Sequence[int] = (16,) * 5, **params: Any) -> int:
    spy = Spy(drafter(**params))
    asked = [replace(one, max_new_tokens=cap) for one, cap in zip(ask(5), caps, strict=True)]
    tokens, _, _ = run(shared_lm(), spy, asked, batch_size=batch_size, schedule=schedule)
    assert [tuple(row) for row in tokens] == [
        answer[:cap] for answer, cap in zip(plain_tokens(new=16), caps, strict=True)
    ]
    wrong, compared = inexact(spy)
    assert compared > 20
    return wrong


@pytest.mark.parametrize("schedule", ["ragged", "eqspec", "exspec"])
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("k", [1, 4])
def test_drafts_are_those_of_a_model_with_exact_context(k: int, batch_size: int, schedule: str) -> None:
    """Rounds of all lengths, rows that leave, swap and are padded."""
    assert stale(batch_size, schedule, (3, 16, 9, 5, 12), draft_tokens=k) == 0


@pytest.mark.parametrize("schedule", ["ragged", "eqspec", "exspec"])
def test_the_fused_decoder_sees_no_padding(schedule: str) -> None:
    fused, _ = cheapened(noisy_lm(), None)
    assert stale(3, schedule, draft=fused) == 0


def test_planted_sight_of_the_padding_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    from specctl.models.fused import FusedDecoder

    whole = FusedDecoder._mask

    def blind(self: Any, given: Any, cache: Any, q: int) -> Any:
        return None if q == 1 and cache.window.common_start is not None else whole(self, given, cache, q)

    monkeypatch.setattr(FusedDecoder, "_mask", blind)
    assert stale(3, "eqspec", draft=cheapened(noisy_lm(), None)[0]) > 0


def unshared(one: OwnWeights, cache: Any) -> None:
    """A cache of its own that nobody fills."""
    one._cache.reserve(8, 64)
    for _ in range(8):
        one._cache.admit()


def committing(one: OwnWeights, rows: Any, scored: Any, accepted: Sequence[int]) -> None:
    """What was drafted counts as the target's."""
    for slot in range(len(accepted)):
        one._cache.commit(slot, 1)


def a_slot_too_high(one: OwnWeights, rows: Any, active: Any) -> Tensor:
    one._fed = 1
    return one._feed([[row.ids[-1]] for row in rows])


BUGS: list[tuple[str, Callable[..., Any]]] = [
    ("share", unshared),
    ("observe", committing),
    ("_catch_up", a_slot_too_high),
]


@pytest.mark.parametrize(("name", "bug"), BUGS, ids=[f"planted-{bug.__name__}" for _, bug in BUGS])
def test_planted_bugs_are_seen(name: str, bug: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OwnWeights, name, bug)
    try:
        wrong = stale(3)
    except (AssertionError, IndexError):
        wrong = 1  # or the output itself is not plain's any more
    assert wrong > 0


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_trimmed_head_drafts_kept_tokens_only(batch_size: int, fused: bool) -> None:
    draft = trimmed(noisy_lm(), cut(noisy_lm(), KEPT))
    spy = Spy(drafter(cheapened(draft, None)[0] if fused else draft))
    tokens, _, _ = run(shared_lm(), spy, ask(5), batch_size=batch_size)
    assert [tuple(row) for row in tokens] == list(plain_tokens())
    wrong, compared = inexact(spy, kept=True)
    assert wrong == 0
    assert compared > 30


@pytest.mark.parametrize("accept", ["coupled", "rejection"])
def test_a_model_that_drafts_for_itself_is_always_right(accept: str) -> None:
    stats = Stats()
    one = drafter(shared_lm(), law=HOT, accept=accept)
    run(shared_lm(), one, ask(5, 20), law=HOT, accept=accept, batch_size=3, on_event=stats.add)
    assert stats.acceptance_rate == 1.0
    assert stats.rounds == 5 * 4


@pytest.mark.parametrize("row_floor", [2, 4])
def test_dummy_rows_change_nothing(row_floor: int) -> None:
    target = LM(shared_lm().module, "floored", row_floor=row_floor)
    spy = Spy(drafter(target=target))
    tokens, _, _ = run(target, spy, ask(5), batch_size=3)
    assert [tuple(row) for row in tokens] == list(plain_tokens())
    assert inexact(spy)[0] == 0


@pytest.mark.parametrize("kind", ["qwen3", "mistral", "gemma2", "gemma3_text"])
def test_other_families(kind: str) -> None:
    one = drafter(noisy_lm(kind), target=shared_lm(kind))
    tokens, _, _ = run(shared_lm(kind), one, ask(5), batch_size=2)
    assert [tuple(row) for row in tokens] == list(plain_tokens(kind))


def test_the_second_turn_of_a_conversation_is_read_by_nobody_twice() -> None:
    """A kept cache serves the next prompt, and the drafts with it."""
    first = Request(prompts(1)[0], 12)
    target = Target(shared_lm(), slots=1, capacity=64)
    said = run(shared_lm(), drafter(), [first], target=target)[0][0]
    ids = [*first.prompt, *said]
    again = Target(shared_lm(), slots=1, capacity=64, kept=Kept(target.cache, ids))
    second = Request((*ids, 7, 9), 12)
    spy = Spy(drafter())
    tokens, _, _ = run(shared_lm(), spy, [second], target=again)
    assert tokens == run(shared_lm(), None, [second])[0]
    assert inexact(spy)[0] == 0


@pytest.mark.parametrize("batch_size", [1, 3])
def test_auto_drafts_so_when_it_drafts_itself(batch_size: int) -> None:
    twin = replace(noisy_lm(), twin=True)
    parts = Parts(shared_lm(), twin, Sampler.keyed(Law()), frozenset(), flat_costs())
    auto = Auto(AutoParams(method="auto", draft_tokens=6), parts)
    assert isinstance(auto._model, OwnWeights)
    spy = auto._model = Spy(auto._model)
    tokens, _, _ = run(shared_lm(), auto, ask(5), batch_size=batch_size)
    assert [tuple(row) for row in tokens] == list(plain_tokens())
    wrong, compared = inexact(spy)
    assert wrong == 0
    assert compared > 20
