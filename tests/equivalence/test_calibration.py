"""Noise is measured, not assumed; what is tolerated in native numerics, and what is not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from toys import subject, toy_lm

from fakes import ask, prompts, run, scripts, tiny_lm
from specctl.decode.draft import Draft, Row, Scored
from specctl.decode.target import Target
from specctl.equivalence.noise import Noise, calibrate, poisson_quantile
from specctl.equivalence.report import Divergence, SequenceReport, Verdict
from specctl.equivalence.rescore import Rescorer
from specctl.equivalence.verify import too_many_ties, verify_greedy
from specctl.models.lm import LM


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPECCTL_CACHE_DIR", str(tmp_path))


def measured(lm: LM) -> Noise:
    texts = prompts(4, lengths=(40, 60, 50, 30))
    return calibrate(lm, texts, Rescorer(lm), blocks=[2, 5], rows=2, positions=150)


def test_noise_shrinks_with_the_dtype() -> None:
    coarse, fine = measured(toy_lm()), measured(tiny_lm(dtype=torch.float32))
    assert coarse.eps > 100 * fine.eps > 0
    assert coarse.positions == fine.positions == 150
    assert coarse.quantiles["0.5"] <= coarse.quantiles["0.999"] <= coarse.largest
    assert fine.problem is None


def test_noise_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = measured(toy_lm())
    assert (tmp_path / "noise.json").exists()
    monkeypatch.setattr(Rescorer, "logits", lambda *args: 1 / 0)
    assert measured(toy_lm()) == first
    with pytest.raises(ZeroDivisionError):
        measured(tiny_lm(seed=3, dtype=torch.bfloat16))


def test_a_planted_outlier_is_named_and_does_not_widen_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    clean = measured(toy_lm())
    honest, asked = Rescorer.logits, []

    def one_off(self: Rescorer, ids: Sequence[int], last: int = 1) -> torch.Tensor:
        logits = honest(self, ids, last)
        if len(asked) == 1:
            logits[5, logits[5].argmax()] += 30
        asked.append(ids)
        return logits

    monkeypatch.setattr(Rescorer, "logits", one_off)
    lm = toy_lm()
    texts = prompts(8, lengths=(200,))
    noise = calibrate(lm, texts, Rescorer(lm), blocks=[16, 32], rows=1, positions=1600)
    assert "text 1, position 5" in (noise.problem or "")
    assert noise.eps < 3 * clean.eps


def test_noise_above_the_gaps_says_nothing() -> None:
    noise = measured(tiny_lm(dtype=torch.float32))
    assert "larger than the median gap" in (replace(noise, median_gap=noise.eps / 2).problem or "")


@pytest.mark.parametrize(("mean", "n"), [(0.0, 0), (1.0, 6), (10.0, 24), (2000.0, 2168)])
def test_poisson_quantile(mean: float, n: int) -> None:
    assert poisson_quantile(mean, 0.9999) == n


# Divergences ----------------------------------------------------------------------------------------------------


class Swapped(Target):
    """Adds `by` to one token's logits in one round: enough to tip a near-tie, or more."""

    def __init__(self, lm: LM, token: int, round_number: int, by: float, slots: int, capacity: int) -> None:
        super().__init__(lm, slots=slots, capacity=capacity)
        self._token, self._left, self._by = token, round_number, by

    def score(self, rows: Sequence[Row], draft: Draft) -> Scored:
        scored = super().score(rows, draft)
        scored = replace(scored, logits=scored.logits.clone())
        self._left -= 1
        if self._left == 0:
            scored.logits[:, 0, self._token] += self._by
        return scored


def tipped(lm: LM, noise: Noise, extra: float) -> SequenceReport:
    """A run whose closest decision falls the other way, by `extra` more than needed."""
    from specctl.equivalence.reference import decode_plainly

    best: tuple[float, int, int, int] | None = None
    rules = subject(lm, lambda sampler: scripts([[]], 1)["empty"]).rules
    for number, request in enumerate(ask(5)):
        for index, sight in enumerate(decode_plainly(lm, request, rules).sights):
            here = (sight.margin, number, index, list(sight.best)[1])
            best = here if best is None else min(best, here)
    assert best is not None
    margin, number, index, second = best
    request = ask(5)[number]

    def make(slots: int, capacity: int) -> Target:
        return Swapped(lm, second, index + 1, margin + extra, slots, capacity)

    one = subject(lm, lambda sampler: scripts([[]], 1)["empty"], target=make)
    return verify_greedy(one, [request], batch_size=1, noise=noise, audit=1.0)[0]


NOISE = Noise(0.5, 0.01, 100, {}, 0.1, 3.0)


def test_a_near_tie_is_certified() -> None:
    report = tipped(tiny_lm(dtype=torch.float32), NOISE, 0.01)
    assert report.verdict is Verdict.TIE
    assert report.divergences[0].certified
    assert abs(report.divergences[0].gap_ref or 9) < 0.5


def test_the_same_is_diverged_if_nothing_is_tolerated() -> None:
    report = tipped(tiny_lm(dtype=torch.float32), replace(NOISE, eps=1e-6), 0.01)
    assert report.verdict is Verdict.DIVERGED


def test_planted_wrong_state_near_a_tie_is_no_tie() -> None:
    """The two tokens are close, but the run's logits are nowhere near the reference's."""
    report = tipped(tiny_lm(dtype=torch.float32), NOISE, 3.0)
    assert abs(report.divergences[0].gap_ref or 9) < 0.5
    assert not report.divergences[0].certified
    assert report.verdict is Verdict.DIVERGED


def test_planted_wrong_state_without_a_changed_token_is_state() -> None:
    lm = tiny_lm(dtype=torch.float32)
    request = ask(1)[0]
    plain, _, _ = run(lm, None, [request])

    def make(slots: int, capacity: int) -> Target:
        return Swapped(lm, plain[0][2], 3, 4.0, slots, capacity)

    one = subject(lm, lambda sampler: scripts([[]], 1)["empty"], target=make)
    report = verify_greedy(one, [request], batch_size=1, noise=NOISE, audit=0)[0]
    assert report.verdict is Verdict.STATE
    assert "more than the noise" in report.problems[0].what


def test_too_many_ties_are_suspect() -> None:
    tie = Divergence(0, 1, 0, 3, 4, 0.01, 0.0, 0.0, 0.5, certified=True)
    noise = replace(NOISE, flips=0.005)

    def sequence(ties: int) -> SequenceReport:
        return SequenceReport("x", Verdict.TIE, (), (tie,) * ties, (1,) * 100, "length", 100, 0)

    assert list(too_many_ties([sequence(2)], noise)) == []
    assert [one.verdict for one in too_many_ties([sequence(20)], noise)] == [Verdict.SUSPECT]


def test_clean_native_runs_pass() -> None:
    lm = tiny_lm(dtype=torch.float32)
    asked = ask(4)
    plain, _, _ = run(lm, None, asked)
    one = subject(lm, lambda sampler: scripts(plain, 4)["coin"])
    for report in verify_greedy(one, asked, batch_size=3, noise=measured(lm), audit=1.0):
        assert report.verdict in (Verdict.EXACT, Verdict.TIE)
        assert report.problems == ()
