"""Speed foretold: what a profile's drafter would have made of recorded answers, at what forwards cost here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from specctl.bench import simulate
from specctl.bench.simulate import Round
from specctl.bench.trace import Trace
from specctl.decode.draft import Parts
from specctl.models.costs import Costs
from specctl.session import Session

METHODS = ("none", "ngram", "draft-model", "self", "auto")
"""Those whose drafts follow from one token a position, or from the text alone."""


def rounds(session: Session, params: Any, trace: Trace, costs: Costs) -> list[Round]:
    """The rounds `params`, the settings of one of `METHODS`, would have needed; exact for greedy decoding."""
    parts = Parts(session.target, session.draft, session.sampler(), session.eos, costs)
    drafter, steps = simulate.build(params, parts, trace)
    return simulate.replay(drafter, steps, trace.request, trace.answer)


def speedup(session: Session, params: Any, trace: Trace, costs: Costs) -> float:
    """Predicted ratio to plain decoding, prefill included."""
    prompt = len(trace.request.prompt)
    plain = [Round(prompt + at, 0, 0) for at in range(len(trace.answer))]
    drafted = simulate.seconds(rounds(session, params, trace, costs), prompt, costs)
    return simulate.seconds(plain, prompt, costs) / drafted


def acceptance(traces: Sequence[Trace]) -> float | None:
    """Share of positions where the draft model alone would have been right; None without a model."""
    asked = [
        trace.right(at) for trace in traces for at, token in enumerate(trace.proposed) if token is not None
    ]
    return sum(asked) / len(asked) if asked else None
