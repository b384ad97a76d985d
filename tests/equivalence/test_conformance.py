"""Every registered method, also those to come: exact output, exact caches, a faithful draft, the right law."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
from pydantic import TypeAdapter
from scenes import HOT, K, draft_lm, greedy, sampled, subject, target_lm, watched

from fakes import ask, flat_costs
from specctl.decode.draft import _REGISTRY, Drafter, Parts, build_drafter
from specctl.decode.sampling import Law, Sampler
from specctl.equivalence.greedy import Watchers, verify_greedy
from specctl.equivalence.report import Verdict
from specctl.equivalence.tape import Recorder
from specctl.models.adapter import Adapter, Shape, readout
from specctl.models.lm import LM
from specctl.profile.drafters import Drafter as DrafterParams

COPY = "kangaroo with a copy"
METHODS = [*_REGISTRY, COPY]


@cache
def adapter_lm() -> LM:
    """The draft's last layer as an adapter, behind its first: that is the target's, in other weights."""
    return readout(draft_lm(), Adapter(draft_lm(), Shape(1, "layer")).double().eval())


def params(method: str) -> Any:
    """A method's defaults, its drafts cut to the length that toys have equal shapes with."""
    drafter: Any = TypeAdapter(DrafterParams).validate_python({"method": method.split()[0]})
    return drafter.model_copy(update={"draft_tokens": K} if hasattr(drafter, "draft_tokens") else {})


def maker(method: str) -> Any:
    def make(sampler: Sampler) -> Drafter:
        draft = draft_lm()
        if method in ("kangaroo", COPY):
            draft = replace(adapter_lm(), twin=method == COPY)
        elif method == "s2d":
            draft = replace(draft, exits=((1, 0.5), (2, 0.0)))
        return build_drafter(params(method), Parts(target_lm(), draft, sampler, frozenset(), flat_costs()))

    return make


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize(("law", "accept"), [(Law(), "greedy"), (HOT, "coupled")], ids=["greedy", "coupled"])
def test_a_method_is_exact(method: str, batch_size: int, law: Law, accept: str) -> None:
    one = subject(maker(method), law=law, accept=accept)
    assert greedy(one, ask(4, 10), batch_size) == {Verdict.EXACT}


@pytest.mark.parametrize("method", [method for method in METHODS if method != "none"])
@pytest.mark.parametrize(("law", "accept"), [(Law(), "greedy"), (HOT, "coupled")], ids=["greedy", "coupled"])
def test_a_methods_drafts_are_faithful(method: str, law: Law, accept: str) -> None:
    assert watched(subject(maker(method), law=law, accept=accept), ask(3, 10)) == {Verdict.EXACT}


@pytest.mark.parametrize("method", METHODS)
def test_a_methods_samples_have_the_targets_law(method: str) -> None:
    assert sampled(make_drafter=maker(method)) == {Verdict.EXACT}


@pytest.mark.parametrize("method", METHODS)
def test_a_method_drafts_the_same_when_recorded(method: str) -> None:
    recorder = Recorder()
    one = subject(maker(method))
    reports = verify_greedy(
        one, ask(2, 8), batch_size=2, noise=None, audit=0, watchers=Watchers(drafter=recorder.watch)
    )
    assert {report.verdict for report in reports} == {Verdict.EXACT}
    assert any(any(drafts.values()) for drafts in recorder.calls) is (method != "none")
