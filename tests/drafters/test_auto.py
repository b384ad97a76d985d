"""The drafter that chooses: exact output whatever it chooses, sources kept apart, choices that follow the costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fakes import Spy, ask, flat_costs, noisy_lm, plain_tokens, run, shared_lm
from specctl.decode.draft import Parts, Request, build_drafter
from specctl.decode.policy import Situation, Source, Yield, choose, least_confidence
from specctl.decode.sampling import Law, Sampler
from specctl.drafters.auto import Auto
from specctl.events import Drafted
from specctl.models.costs import Costs, Curve
from specctl.profile.drafters import AutoParams

HOT = Law(temperature=0.8)


def auto(
    *, law: Law | None = None, accept: str = "greedy", costs: Costs | None = None, model: bool = True
) -> Auto:
    sampler = Sampler.keyed(law or Law(), coupled=accept == "coupled")
    parts = Parts(shared_lm(), noisy_lm() if model else None, sampler, frozenset(), costs or flat_costs())
    return Auto(AutoParams(method="auto", draft_tokens=6), parts)


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("law", "accept"), [(None, "greedy"), (HOT, "coupled")], ids=["greedy", "coupled"])
@pytest.mark.parametrize("model", [True, False])
def test_output_is_plain(batch_size: int, law: Law | None, accept: str, model: bool) -> None:
    drafter = auto(law=law, accept=accept, model=model)
    tokens, _, events = run(shared_lm(), drafter, ask(5), batch_size=batch_size, law=law, accept=accept)
    assert tuple(map(tuple, tokens)) == plain_tokens(law=law, accept=accept)
    if model:
        assert any(event.tokens for event in events if isinstance(event, Drafted))


def repeating(n: int = 3) -> list[Request]:
    """Prompts that lookup finds something in at once, and in which it then goes wrong."""
    return [Request((5 + i, 9, 7, 5 + i, 9), 20, seed=i) for i in range(n)]


def test_both_sources_are_used_and_rows_differ() -> None:
    spy = Spy(auto())
    tokens, _, _ = run(shared_lm(), spy, [*ask(3), *repeating()], batch_size=6)
    alone = [run(shared_lm(), None, [request])[0][0] for request in [*ask(3), *repeating()]]
    assert tokens == alone
    assert isinstance(spy.drafter, Auto)


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_models_cache_survives_rounds_of_lookup(batch_size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A perfect draft model must have every token kept, however often lookup takes a round in between."""
    from specctl.drafters import auto as module

    rounds = 0

    def alternating(rows: Any, costs: Costs, most: int) -> Any:
        nonlocal rounds
        rounds += 1
        plan = choose(rows, costs, most)
        for slot in range(len(rows)):
            looked_up = (rounds + slot) % 3 == 0
            plan.sources[slot] = Source.LOOKUP if looked_up else Source.MODEL
            plan.tokens[slot] = min(3, rows[slot].budget)
        return plan

    monkeypatch.setattr(module, "choose", alternating)
    parts = Parts(shared_lm(), shared_lm(), Sampler.keyed(Law()), frozenset(), flat_costs())
    drafter = Auto(AutoParams(method="auto"), parts)
    spy = Spy(drafter)
    requests = [*ask(3), *repeating()]
    tokens, _, events = run(shared_lm(), spy, requests, batch_size=batch_size)
    assert tokens == [run(shared_lm(), None, [request])[0][0] for request in requests]
    kept = [state.model for state in drafter._states]
    assert kept == []
    verdicts = [e for e in events if e.kind == "verified" and e.drafted]
    wrong = [e for e in verdicts if e.accepted < e.drafted]
    assert len(wrong) < len(verdicts) / 2, "only lookup may be wrong"


def test_samples_of_mixed_rows_carry_the_right_laws() -> None:
    """Rejection sampling needs q of every token: the model's law, or one-hot for what was looked up."""
    drafter = auto(law=HOT, accept="rejection")
    spy = Spy(drafter)
    run(shared_lm(), spy, [*repeating(4)], batch_size=4, law=HOT, accept="rejection")
    mixed = [draft for _, draft in spy.log if draft.q is not None]
    assert mixed
    for draft in mixed:
        assert draft.q is not None
        assert draft.q.shape[1] == draft.longest
        for row, tokens in enumerate(draft.tokens):
            for place, token in enumerate(tokens):
                assert draft.q[row, place].sum() == pytest.approx(1)
                assert draft.q[row, place, token] > 0


def situation(**changes: Any) -> Situation:
    plain = Situation(lookup=[], model=Yield().averages(), lag=1, budget=50, context=200)
    return replace(plain, **changes)


def test_choices_follow_costs_and_chances() -> None:
    cheap, dear = flat_costs(0.05), flat_costs(0.9)
    assert choose([situation()], cheap, 8).sources == [Source.MODEL]
    assert choose([situation()], dear, 8).sources == [Source.NOBODY]
    sure = situation(lookup=[0.95] * 8)
    assert choose([sure], dear, 8).sources == [Source.LOOKUP]
    assert choose([sure], dear, 8).tokens == [8]
    unlikely = situation(lookup=[0.001] * 8)
    assert choose([unlikely], dear, 8).sources == [Source.NOBODY]
    poor = Yield()
    for _ in range(50):
        poor.fade()
        poor.learn(0, 3)
    assert choose([situation(model=poor.averages())], flat_costs(0.3), 8).sources == [Source.NOBODY]


def test_rows_of_a_batch_are_decoded_plainly_where_more_tokens_cost_more() -> None:
    """One row waits for memory, so drafts are nearly free; eight rows of five tokens are forty products."""
    target = Curve({1: {1: 1.0, 5: 1.1}, 8: {1: 1.2, 5: 6.0}}, 0.1)
    draft = Curve({1: {1: 0.1}, 8: {1: 0.2}}, 0.01)
    sure = situation(lookup=[0.7, 0.5, 0.3])
    for row, alone in ((situation(), Source.MODEL), (sure, Source.LOOKUP)):
        assert choose([row], Costs(target, draft if row is not sure else None), 8).sources == [alone]
        assert choose([row] * 8, Costs(target, draft), 8).sources == [Source.NOBODY] * 8
    cheap = Curve({1: {1: 1.0, 5: 1.1}, 8: {1: 1.2, 5: 1.4}}, 0.1)
    assert choose([situation()] * 8, Costs(cheap, draft), 8).sources == [Source.MODEL] * 8


def test_a_model_that_was_given_up_is_tried_again() -> None:
    model = Yield()
    for _ in range(50):
        model.fade()
        model.learn(0, 3)
    costs = flat_costs(0.3)
    rounds = 0
    while choose([situation(model=model.averages())], costs, 8).sources == [Source.NOBODY]:
        model.fade()
        rounds += 1
    assert 5 < rounds < 100


def test_a_long_unread_prompt_is_not_read_for_a_short_answer() -> None:
    costs = flat_costs(0.2)
    assert choose([situation(lag=2000, budget=5)], costs, 8).sources == [Source.NOBODY]
    assert choose([situation(lag=20, budget=200)], costs, 8).sources == [Source.MODEL]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.builds(
            Situation,
            lookup=st.lists(st.floats(0, 1), max_size=6),
            model=st.tuples(st.floats(0, 6), st.floats(0, 6)),
            lag=st.integers(1, 500),
            budget=st.integers(0, 9),
            context=st.integers(1, 900),
        ),
        min_size=1,
        max_size=4,
    ),
    st.floats(0.01, 2),
    st.integers(1, 6),
)
def test_no_plan_breaks_a_limit(rows: list[Situation], draft: float, most: int) -> None:
    plan = choose(rows, flat_costs(draft), most)
    for row, source, tokens in zip(rows, plan.sources, plan.tokens, strict=True):
        assert 0 <= tokens <= min(row.budget, most)
        assert source is not Source.LOOKUP or tokens <= len(row.lookup)
    without = Costs(flat_costs().target, None)
    assert Source.MODEL not in choose(rows, without, most).sources


def test_the_threshold_rises_with_the_price_of_a_step() -> None:
    cheap, dear = least_confidence(flat_costs(0.01)), least_confidence(flat_costs(0.6))
    assert 0.25 <= cheap < dear <= 0.9
    assert least_confidence(Costs(Curve({1: {1: 1.0}}, 0.1))) == 0.0


def test_the_registry_builds_it() -> None:
    parts = Parts(shared_lm(), None, Sampler.keyed(Law()), frozenset(), flat_costs())
    assert isinstance(build_drafter(AutoParams(method="auto"), parts), Auto)
