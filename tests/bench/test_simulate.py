"""Simulated rounds are the real ones, for every draft length; and what is foretold follows from the curves."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from fakes import VOCAB, Spy, draft_model, flat_costs, noisy_lm, prompts, run, shared_lm, tiny_lm
from specctl.bench import simulate, trace
from specctl.bench.simulate import Round
from specctl.bench.trace import Trace
from specctl.decode.draft import Parts, Request, Row, Scored, build_drafter
from specctl.decode.sampling import Law, Sampler
from specctl.models import costs
from specctl.models.costs import Costs, Curve
from specctl.profile.drafters import AutoParams, DraftModelParams, NgramParams

NEW = 40
EOS = frozenset(range(3, VOCAB, 17))  # some answers end early


def parts() -> Parts:
    return Parts(shared_lm(), noisy_lm(), Sampler.keyed(Law()), EOS, flat_costs(0.2))


@cache
def traces() -> tuple[Trace, ...]:
    """As `trace.follow` makes them, for tiny models, which no session holds."""
    found = []
    for prompt in prompts(4):
        request = Request(prompt, NEW)
        answer = tuple(run(shared_lm(), None, [request], eos=EOS)[0][0])
        found.append(Trace(request, answer, *trace.proposals(noisy_lm(), Law(), prompt, answer, VOCAB)))
    return tuple(found)


def rounds(params: Any, one: Trace) -> list[tuple[int, int]]:
    drafter, steps = simulate.build(params, parts(), one)
    played = simulate.replay(drafter, steps, one.request, one.answer)
    return [(each.drafted, each.accepted) for each in played]


def real(params: Any, one: Trace) -> list[tuple[int, int]]:
    _, _, events = run(shared_lm(), build_drafter(params, parts()), [one.request], eos=EOS)
    return [(event.drafted, event.accepted) for event in events if event.kind == "verified"]


@pytest.mark.parametrize("k", [1, 2, 3, 5, 8, 13])
def test_accepted_tokens_are_exact_for_every_draft_length(k: int) -> None:
    params = DraftModelParams(method="draft-model", draft_tokens=k)
    for one in traces():
        simulated, found = rounds(params, one), real(params, one)
        assert [accepted for _, accepted in simulated] == [accepted for _, accepted in found]
    assert any(accepted for one in traces() for _, accepted in rounds(params, one))


@pytest.mark.parametrize("threshold", [0.2, 0.5, 0.9])
def test_thresholds_are_exact_too(threshold: float) -> None:
    params = DraftModelParams(method="draft-model", draft_tokens=6, min_confidence=threshold)
    for one in traces():
        assert [n for _, n in rounds(params, one)] == [n for _, n in real(params, one)]


def test_lookup_is_exact_drafted_tokens_included() -> None:
    for one in traces():
        assert rounds(NgramParams(method="ngram"), one) == real(NgramParams(method="ngram"), one)


def test_auto_is_simulated_with_what_it_composes() -> None:
    """Its choices hang on how much was drafted off the track, which a trace does not know: close, not exact."""
    params = AutoParams(method="auto")
    for one in traces():
        simulated, found = rounds(params, one), real(params, one)
        assert abs(len(simulated) - len(found)) <= 0.15 * len(found) + 1


def test_a_planted_wrong_trace_is_seen() -> None:
    one = traces()[0]
    shifted = Trace(one.request, one.answer, (*one.proposed[1:], None), one.confidence)
    params = DraftModelParams(method="draft-model", draft_tokens=5)
    assert rounds(params, shifted) != rounds(params, one)


def test_a_trace_is_what_the_model_says_when_asked_one_token_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Read in pieces, with a repetition penalty; against a drafter that is asked at every position and ignored."""
    monkeypatch.setattr(trace, "_CHUNK", 7)
    law = Law(repetition_penalty=1.3)
    for prompt in prompts(2):
        spy = Spy(draft_model(shared_lm(), noisy_lm(), law=law, draft_tokens=1, min_confidence=0.0))
        answer, said = _asked(spy, Request(prompt, NEW), law)
        proposed, confidence = trace.proposals(noisy_lm(), law, prompt, answer, VOCAB)
        assert [token for token, _ in said] == list(proposed)[: len(said)]
        assert [sure for _, sure in said] == pytest.approx(list(confidence)[: len(said)])
        assert proposed != trace.proposals(noisy_lm(), Law(), prompt, answer, VOCAB)[0]


def _asked(spy: Spy, request: Request, law: Law) -> tuple[tuple[int, ...], list[tuple[int, float]]]:
    """Plain decoding; and at each position but the last what the drafter proposed, how sure it was."""
    answer = tuple(run(shared_lm(), None, [request], law=law)[0][0])
    row = Row(0, request, list(request.prompt))
    spy.begin(row, {})
    said = []
    for token in answer[:-1]:
        draft = spy.draft([row], [1])
        assert draft.confidence is not None
        said.append((draft.tokens[0][0], draft.confidence[0][0]))
        row.ids.append(token)
        spy.observe([row], Scored(torch.empty(0)), [0])
    return answer, said


def test_past_its_context_a_model_proposes_nothing() -> None:
    short = tiny_lm(max_position_embeddings=20)
    prompt, answer = tuple(range(3, 17)), tuple(range(3, 15))
    proposed, confidence = trace.proposals(short, Law(), prompt, answer, VOCAB)
    assert [token is None for token in proposed] == [False] * 7 + [True] * 5
    assert len(confidence) == len(answer)
    assert trace.proposals(short, Law(), tuple(range(3, 30)), answer, VOCAB)[0] == (None,) * 12


def test_seconds_add_up() -> None:
    known = Costs(
        Curve({1: {1: 1.0, 2: 1.1, 5: 1.4}}, 0.01), Curve({1: {1: 0.2, 2: 0.3}}, 0.02), overhead=0.05
    )
    played = [Round(256, 2, 2, (1, 1)), Round(256, 0, 0)]
    target = 9 * 0.01 + 1.2 + 1.0
    assert simulate.seconds(played, 10, known) == pytest.approx(target + 2 * 0.2 + 2 * 0.05)


def test_a_curve_is_measured_kept_and_measured_again_when_something_changes(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.setenv("SPECCTL_CACHE_DIR", str(tmp_path))
    said: list[str] = []
    first = costs.curve(shared_lm(), told=said.append)
    assert costs.curve(shared_lm(), told=said.append) == first
    assert len(said) == 1
    assert list(first.points[1].values()) == sorted(first.points[1].values())
    thorough = costs.curve(shared_lm(), thorough=True, told=said.append)
    assert costs.curve(shared_lm(), told=said.append) == thorough
    costs.curve(noisy_lm(seed=1), told=said.append)
    (tmp_path / "costs.json").write_text('{"x": 1}')
    costs.curve(shared_lm(), told=said.append)
    assert len(said) == 3 or len(said) == 4


def test_curves_interpolate() -> None:
    curve = Curve({1: {1: 1.0, 4: 1.3, 8: 2.1}, 2: {1: 1.2, 4: 2.0}}, prefill=0.1, per_slot=0.001)
    assert curve.seconds(2) == pytest.approx(1.1)
    assert curve.seconds(6) == pytest.approx(1.7)
    assert curve.seconds(10) == pytest.approx(2.5)
    assert curve.seconds(4, rows=2) == 2.0
    assert curve.seconds(2, rows=4) == pytest.approx(2.1)  # not measured: as eight tokens
    assert curve.seconds(1, context=356) == pytest.approx(1.1)
    assert curve.reading(101) == pytest.approx(11.0)
    assert Curve.from_json(curve.to_json()) == curve
    for broken in ({}, None, {"points": {"2": {"1": 1.0}}, "prefill": 1, "per_slot": 0, "thorough": False}):
        with pytest.raises((ValueError, KeyError, TypeError)):
            Curve.from_json(broken)
