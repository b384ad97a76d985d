"""The tokens a run drew, each with the law that the run's own logits gave for it.

Whether those logits are right is a question of its own, answered by comparing them with the reference. Here no
noise comes in between, so laws cut by top-k, top-p or min-p are tested in native numerics like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from specctl.decode.draft import Draft, Request, Row
from specctl.decode.sampling import Sampler
from specctl.equivalence.report import Problem, Verdict
from specctl.equivalence.sampled import SampledLaw, Test, borderline

_REPEATS = 4
"""Times the tokens of the first run: what a borderline result is repeated with."""


@dataclass(frozen=True, slots=True)
class _Round:
    """A row's last round: how long its ids were, its scores `[k + 1, vocab]` and the draft's laws `[k, vocab]`."""

    start: int
    scores: Tensor
    q: Tensor | None


class Drawn:
    """Collects a run's tokens, as rounds are settled, for the tests of the sampled law."""

    def __init__(self, sampler: Sampler, measured: SampledLaw) -> None:
        self._sampler = sampler
        self._measured = measured
        self._open: dict[int, _Round] = {}

    def scored(self, row: Row, scores: Tensor, draft: Draft, slot: int) -> None:
        """What the round's verdict on the row has to follow from; the row's last round is settled by now."""
        self._open[row.index] = _Round(len(row.ids), scores, self._laws(draft, slot, scores))

    def settle(self, row: Row) -> None:
        """The verdict is in `row.ids`: every token of it, with the law it has to come from."""
        last = self._open.pop(row.index, None)
        if last is None:
            return
        tokens = row.ids[last.start :]
        p = self._sampler.law.probabilities(last.scores[: len(tokens)])
        n_drafted = 0 if last.q is None else min(len(last.q), len(tokens))
        if last.q is not None and n_drafted:
            self._measured.add(tokens[:n_drafted], p[:n_drafted], last.q[:n_drafted])
        if tokens[n_drafted:]:
            self._measured.add(tokens[n_drafted:], p[n_drafted:])

    def _laws(self, draft: Draft, slot: int, scores: Tensor) -> Tensor | None:
        """Given all before it, q knows nothing of the token at its slot: as the tests want it.

        A draft that was not drawn is known from what stands before it; coupled ones share the target's noise.
        """
        tokens = draft.tokens[slot]
        if draft.q is not None:
            return draft.q[slot, : len(tokens)]
        if self._sampler.coupled or not tokens:
            return None
        x = torch.tensor(tokens, device=scores.device)[:, None]
        return torch.zeros_like(scores[: len(tokens)]).scatter_(1, x, 1.0)


def judge_law(
    first: SampledLaw, requests: Sequence[Request], again: Callable[[Sequence[Request]], SampledLaw]
) -> tuple[dict[str, Any], list[Problem]]:
    """The tests for the report, and what they find. A borderline p is no verdict: `again` decodes fresh seeds, for
    four times the tokens, and what those say holds."""
    tests, repeated = first.tests(), None
    if borderline(tests):
        n = len(requests)
        fresh = [
            replace(one, seed=one.seed + n * times) for times in range(1, _REPEATS + 1) for one in requests
        ]
        repeated, tests = tests, again(fresh).tests()
    problems = [Problem(Verdict.DISTRIBUTION, _told(test)) for test in tests if test.rejected]
    return {"tests": _json(tests), "before_repeat": None if repeated is None else _json(repeated)}, problems


def _told(test: Test) -> str:
    return f"{test.n} sampled tokens do not fit the law: {test.name} {test.stat:.3g}, p {test.p:.1e}"


def _json(tests: Sequence[Test]) -> list[dict[str, Any]]:
    return [test.to_json() for test in tests]
