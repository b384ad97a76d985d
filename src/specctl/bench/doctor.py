"""What this machine and this pair can give: measured, not looked up."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from statistics import median
from time import perf_counter
from typing import Any

import torch

from specctl.bench import machine, predict
from specctl.bench.memory import weight_bytes
from specctl.bench.statistics import geometric_mean
from specctl.bench.trace import Trace
from specctl.models.costs import Costs
from specctl.session import Session

_LONGEST = 12
_SHOWN = (1, 2, 3, 4, 5, 6, 8, 12, 16, 32)


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """`expected`: speedups foretold for each traced prompt; `break_even`: the share of single draft tokens that has
    to be right before drafting with this model pays at all, None if none is enough. `fewest_rows`: a forward of the
    target has at least so many (`models/rows.py`).
    """

    machine: dict[str, Any]
    bandwidth_bytes_s: float
    bf16_faster: float
    numerics: str
    dtype: str
    costs: Costs
    fewest_rows: int
    weights_bytes: int
    acceptance: float | None
    break_even: float | None
    expected: list[float]
    advice: list[str]

    def curve(self) -> dict[int, float]:
        """Milliseconds of a target forward, by tokens."""
        return {tokens: 1e3 * self.costs.target.seconds(tokens) for tokens in _SHOWN}

    def to_json(self) -> dict[str, Any]:
        draft = self.costs.draft
        return {
            "schema": 1,
            "machine": self.machine,
            "bandwidth_bytes_s": self.bandwidth_bytes_s,
            "bf16_faster": self.bf16_faster,
            "numerics": self.numerics,
            "dtype": self.dtype,
            "target_ms": self.curve(),
            "fewest_rows": self.fewest_rows,
            "draft_step_ms": 1e3 * draft.seconds(1) if draft else None,
            "weights_bytes": self.weights_bytes,
            "acceptance": self.acceptance,
            "break_even": self.break_even,
            "expected_speedup": {
                "mean": geometric_mean(self.expected),
                "low": min(self.expected),
                "high": max(self.expected),
            },
            "advice": self.advice,
        }


def diagnose(session: Session, traces: Sequence[Trace], costs: Costs) -> Diagnosis:
    """`session` has method `auto`; `traces` are of its models."""
    facts = machine.machine()
    models = [session.target] if session.draft is None else [session.target, session.draft]
    weights = sum(map(weight_bytes, models))
    expected = [predict.speedup(session, session.profile.drafter, one, costs) for one in traces]
    bf16 = _bf16_faster()
    needed = break_even(costs)
    found = predict.acceptance(traces)
    advice = _advice(session, facts, costs, weights, bf16, geometric_mean(expected), needed, found)
    return Diagnosis(
        facts,
        _bandwidth(),
        bf16,
        session.info.numerics,
        session.info.dtype,
        costs,
        session.target.fewest_rows,
        weights,
        found,
        needed,
        expected,
        advice[:3],
    )


def best_speedup(costs: Costs, chance: float) -> float:
    """Of any draft length, prefill apart, if each token is right with this chance (arXiv:2211.17192, sec. 3.3)."""
    if costs.draft is None:
        return 1.0
    draft, target = costs.draft, costs.target
    kept = accumulate(chance**k for k in range(1, _LONGEST + 1))
    return max(
        (1 + more) * target.seconds(1) / (target.seconds(k + 1) + draft.drafting(k))
        for k, more in enumerate(kept, start=1)
    )


def break_even(costs: Costs) -> float | None:
    """The lowest chance, in hundredths, at which some draft length gains."""
    return next((n / 100 for n in range(101) if best_speedup(costs, n / 100) > 1), None)


def _advice(
    session: Session,
    facts: dict[str, Any],
    costs: Costs,
    weights: int,
    bf16: float,
    expected: float,
    needed: float | None,
    found: float | None,
) -> list[str]:
    """What would help most, the largest first."""
    said = []
    if expected < 1.02:
        said.append(f"do not speculate here: {expected:.2f} × is expected of `auto`; use `--profile plain`")
    else:
        said.append(f"use `--profile auto`: {expected:.2f} × plain decoding is expected")
    if needed is not None and found is not None and found < needed:
        said.append(
            f"find a better draft: {found:.0%} of its tokens are right alone, {needed:.0%} would be needed"
        )
    if facts["threads"] < (facts["cpus"] or 1):
        said.append(
            f"give torch more threads: {facts['threads']} of {facts['cpus']} are in use (OMP_NUM_THREADS)"
        )
    if session.info.dtype == "float32" and bf16 > 1.2:
        said.append(f"use `--dtype bfloat16`: its products are {bf16:.1f} × as fast here")
    if facts["memory_bytes"] and weights > facts["memory_bytes"] / 2:
        said.append("use a smaller pair: the weights fill more than half of the memory")
    if session.info.numerics_note:
        said.append("compare with `--dtype float32`: near-ties may fall differently in this one")
    longest = max(n for n in range(1, 65) if costs.target.seconds(n) < 1.5 * costs.target.seconds(1))
    said.append(f"keep drafts at {longest - 1} tokens or fewer: longer ones cost half a forward more")
    return said


def _bandwidth() -> float:
    """Bytes a second that are read from memory, in sums over a block far larger than the caches."""
    block = torch.ones(64_000_000, dtype=torch.float32)
    return block.numel() * 4 / _seconds(lambda: block.sum())


def _bf16_faster() -> float:
    """How many times as fast as in float32 a matrix of bfloat16 is multiplied with four rows."""
    weight, x = torch.randn(4096, 2048), torch.randn(4, 2048)
    narrow_weight, narrow = weight.bfloat16(), x.bfloat16()
    wide_s = _seconds(lambda: torch.nn.functional.linear(x, weight))
    return wide_s / _seconds(lambda: torch.nn.functional.linear(narrow, narrow_weight))


def _seconds(work: Any) -> float:
    work()
    times = []
    for _ in range(7):
        begun = perf_counter()
        work()
        times.append(perf_counter() - begun)
    return median(times)
