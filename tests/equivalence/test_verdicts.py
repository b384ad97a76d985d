"""Clean runs are EXACT; each kind of damage has its own verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from toys import scripted, subject, toy_lm

from fakes import Scripted, ask, run, scripts
from specctl.decode import loop
from specctl.decode.draft import Draft, Request, Row, Scored
from specctl.decode.sampling import Law
from specctl.decode.target import Target
from specctl.equivalence.report import SequenceReport, Verdict
from specctl.equivalence.verify import verify_greedy


def verify(name: str, asked: Sequence[Request], batch_size: int = 1, **changes: Any) -> list[SequenceReport]:
    return verify_greedy(
        scripted(name, asked, **changes), asked, batch_size=batch_size, noise=None, audit=1.0
    )


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("script", ["always-right", "never-right", "coin", "uneven", "empty", "over-long"])
def test_clean_runs_are_exact(script: str, batch_size: int) -> None:
    for report in verify(script, ask(4), batch_size):
        assert report.problems == ()
        assert report.verdict is Verdict.EXACT
        assert report.audited_rounds == report.rounds > 0


def test_clean_coupled_sampling_is_exact() -> None:
    for report in verify("coin", ask(3), law=Law(1.0), accept="coupled"):
        assert report.verdict is Verdict.EXACT


class Broken(Target):
    """A target whose scores, caches or lengths are wrong in a way the test chooses."""

    def __init__(self, damage: str, slots: int, capacity: int) -> None:
        super().__init__(toy_lm(), slots=slots, capacity=capacity)
        self._damage = damage

    def score(self, rows: Sequence[Row], draft: Draft) -> Scored:
        scored = super().score(rows, draft)
        scored = replace(scored, logits=scored.logits.clone())
        if self._damage == "token":
            scored.logits[:, 0] = scored.logits[:, 0].flip(-1)
        if self._damage == "bit":
            scored.logits[:, -1, 7] *= 1.0078125
        return scored

    def commit(self, slot: int, n: int) -> None:
        super().commit(slot, n + (1 if self._damage == "too-many" else 0))
        if self._damage == "cache":
            self.cache.slot_layers[2].tensors()[1][slot, 0, 0, 0] += 1


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        ("token", Verdict.DIVERGED),
        ("bit", Verdict.STATE),
        ("too-many", Verdict.STATE),
        ("cache", Verdict.STATE),
    ],
)
def test_planted_damage_has_its_verdict(damage: str, expected: Verdict) -> None:
    asked = ask(2)
    reports = verify("coin", asked, target=lambda slots, capacity: Broken(damage, slots, capacity))
    for report in reports:
        assert expected in {problem.verdict for problem in report.problems}
        assert report.verdict.violation


def test_every_divergence_is_found_not_only_the_first() -> None:
    asked = ask(1)
    report = verify("empty", asked, target=lambda slots, capacity: Broken("token", slots, capacity))[0]
    assert len(report.divergences) > 3
    assert [one.index for one in report.divergences] == sorted({one.index for one in report.divergences})
    first = report.divergences[0]
    assert (first.index, first.round, first.slot) == (0, 1, 0)
    assert first.gap_ar is None or first.gap_ar > 0


def test_the_audit_alone_finds_a_planted_wrong_rollback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the comparison with the reference, as in native numerics."""
    from specctl.equivalence import verdicts

    monkeypatch.setattr(verdicts, "_bits_off", lambda *args: iter(()))
    reports = verify("coin", ask(1), target=lambda slots, capacity: Broken("cache", slots, capacity))
    assert any("rebuilding" in problem.what for problem in reports[0].problems)


def test_a_planted_crash_is_a_finding(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ask(2)

    def crash(sampler: object) -> Any:
        drafter = scripts(run(toy_lm(), None, asked)[0], 4)["coin"]
        monkeypatch.setattr(drafter, "observe", lambda *args: 1 / 0)
        return drafter

    reports = verify_greedy(subject(toy_lm(), crash), asked, batch_size=2, noise=None, audit=0)
    assert {report.verdict for report in reports} == {Verdict.STRUCTURE}
    assert "ZeroDivisionError" in reports[0].problems[0].what


def test_planted_logits_that_are_not_numbers_are_inconclusive() -> None:
    class Infinite(Broken):
        def score(self, rows: Sequence[Row], draft: Draft) -> Scored:
            from specctl.errors import MachineError

            raise MachineError("logits that are not numbers")

    reports = verify("coin", ask(1), target=lambda slots, capacity: Infinite("", slots, capacity))
    assert reports[0].verdict is Verdict.INCONCLUSIVE


PLANTED_ENDINGS = {
    "goes-on": lambda ending, block: loop.Ending(len(block), ending.reason),
    "no-reason": lambda ending, block: loop.Ending(ending.kept, "context" if ending.reason else None),
    "loses-the-bonus": lambda ending, block: loop.Ending(max(ending.kept - 1, 1), ending.reason),
}


@pytest.mark.parametrize("planted", list(PLANTED_ENDINGS))
def test_planted_endings_are_structure(planted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = ask(2)
    plain, _, _ = run(toy_lm(), None, asked)
    eos = frozenset({plain[0][7]})
    assert verify("always-right", asked, eos=eos)[0].verdict is Verdict.EXACT
    honest = loop.finish

    def finish(generated: Any, block: Any, limits: Any, render: Any) -> loop.Ending:
        return PLANTED_ENDINGS[planted](honest(generated, block, limits, render), block)

    monkeypatch.setattr(loop, "finish", finish)
    assert verify("always-right", asked, eos=eos)[0].verdict is Verdict.STRUCTURE


def test_the_toy_runs_are_not_vacuous() -> None:
    """The bits of the reference and of blocks are compared in a dtype where rounding shows."""
    assert toy_lm().dtype is torch.bfloat16
    report = verify("coin", ask(1))[0]
    assert len(set(report.tokens)) > 3


def test_requests_keep_their_order() -> None:
    def mixed() -> Iterator[Request]:
        for number, request in enumerate(ask(5)):
            yield Request(request.prompt, 3 + 5 * (number % 3), request.seed)

    asked = list(mixed())
    reports = verify("coin", asked, batch_size=3)
    assert [len(report.tokens) for report in reports] == [one.max_new_tokens for one in asked]


@pytest.mark.parametrize(("in_one_call", "rows"), [(True, {0, 1, 2}), (False, {0})])
def test_a_recorded_call_is_replayed_as_one(in_one_call: bool, rows: set[int]) -> None:
    """A tape names rows by their place in the call, also when one is decoded after the other."""
    asked = ask(3, 4)
    seen: set[int] = set()

    def plan(row: int, at: int, right: int | None) -> None:
        seen.add(row)

    one = subject(toy_lm(), lambda sampler: Scripted([[]] * 3, 2, plan))
    verify_greedy(one, asked, batch_size=1, noise=None, audit=0, in_one_call=in_one_call)
    assert seen == rows
