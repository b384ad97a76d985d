"""Every registered method, also those to come: exact output, exact caches, a faithful draft, the right law."""

from __future__ import annotations

import pytest
from methods import COPY, maker
from scenes import HOT, greedy, sampled, subject, watched

from fakes import ask
from specctl.decode.draft import _REGISTRY
from specctl.decode.sampling import Law
from specctl.equivalence.greedy import Watchers, verify_greedy
from specctl.equivalence.report import Verdict
from specctl.equivalence.tape import Recorder

METHODS = [*_REGISTRY, COPY]


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
