"""Simulated rounds are the real ones, for every draft length; and what is foretold follows from the curves."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest

from fakes import VOCAB, flat_costs, noisy_lm, prompts, render, run, shared_lm
from specctl.bench import simulate, trace
from specctl.bench.simulate import Round
from specctl.bench.trace import Recorder, Trace
from specctl.decode.draft import Parts, Request, build_drafter
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
    """As `trace.record` makes them, for tiny models, which no session holds."""
    found = []
    for prompt in prompts(4):
        request = Request(prompt, NEW)
        params = DraftModelParams(method="draft-model", draft_tokens=1, min_confidence=0.0)
        recorder = Recorder(build_drafter(params, parts()))
        tokens, _, _ = run(shared_lm(), recorder, [request], eos=EOS)
        found.append(Trace(request, tuple(tokens[0]), tuple(recorder.proposed), tuple(recorder.confidence)))
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


def test_the_answer_of_a_trace_is_plain_decodings() -> None:
    for one in traces():
        assert list(one.answer) == run(shared_lm(), None, [one.request], eos=EOS)[0][0]
        assert len(one.proposed) == len(one.answer)


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


def test_recording_asks_for_one_token_and_proposes_none() -> None:
    assert trace.Recorder.__doc__
    _, _, events = run(shared_lm(), Recorder(build_drafter(NgramParams(method="ngram"), parts())), [
        Request((5, 9, 7, 5, 9, 7, 5), 10)
    ])  # fmt: skip
    assert all(event.drafted == 0 for event in events if event.kind == "verified")
    assert render([1, 2])
