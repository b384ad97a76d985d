"""Decoding without models: drafters at work on an answer that is known.

The loop is the one of `decode/loop.py` for one row and greedy acceptance. Lookup runs as it is; a model's
drafts come from its trace. So accepted tokens are exact for every draft length, and seconds follow from the curves.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from specctl.bench.trace import Trace
from specctl.decode.draft import Draft, Drafter, Parts, Request, Row, Scored, build_drafter
from specctl.models.costs import Costs

_NO_SCORES = Scored(torch.empty(0))


@dataclass(frozen=True, slots=True)
class Round:
    """`steps`: tokens fed to the draft model in each of its forwards."""

    context: int
    drafted: int
    accepted: int
    steps: tuple[int, ...] = ()


class TracedDrafter:
    """Stands for a model that drafts: right for as long as the trace is, then wrong.

    What a model says once it has left the track, and how sure it is then, was not recorded. It is taken to be as
    sure as on average, which bears on the time only.
    """

    needs: frozenset[int] = frozenset()

    def __init__(self, trace: Trace, params: Any, eos: frozenset[int]) -> None:
        self._trace, self._eos = trace, eos
        self._most: int = params.most
        self._least: float = params.min_confidence or 0.0
        self._usual = sum(trace.confidence) / max(len(trace.confidence), 1)
        self._read: int | None = None if params.method == "self" else 0  # None: the target reads for it
        self.steps: tuple[int, ...] = ()

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        """Reading the prompt is part of the first step."""

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        row, most = rows[0], min(budget[0], self._most)
        tokens = self._tokens(len(row.generated), most) if most else []
        lacking = 1 if self._read is None else len(row.ids) - self._read
        self.steps = (lacking, *[1] * (len(tokens) - 1)) if tokens else ()
        if tokens and self._read is not None:
            self._read = len(row.ids)
        return Draft([tokens])

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        if self.steps and self._read is not None:
            self._read += min(accepted[0], len(self.steps) - 1)

    def swap(self, one: int, other: int) -> None:
        """One row only."""

    def drop(self, slot: int) -> None:
        """One row only."""

    def _tokens(self, at: int, most: int) -> list[int]:
        tokens: list[int] = []
        reach = 1.0
        for place in range(at, min(at + most, len(self._trace.proposed))):
            token = self._trace.proposed[place]
            if token is None:
                return tokens
            tokens.append(token)
            reach *= self._trace.confidence[place]
            if reach < self._least or token in self._eos:
                return tokens
            if not self._trace.right(place):
                return tokens + [-1] * self._strays(reach, most - len(tokens))
        return tokens

    def _strays(self, reach: float, room: int) -> int:
        """Tokens it goes on for off the track."""
        strays = 0
        while strays < room and reach >= self._least:
            reach *= self._usual
            strays += 1
        return strays


def build(params: Any, parts: Parts, trace: Trace | None) -> tuple[Drafter, Callable[[], tuple[int, ...]]]:
    """The drafter for `params` with its model played back from `trace`, and what steps that model took last."""
    traced: list[TracedDrafter] = []

    def make(inner: Any, parts: Parts) -> Drafter:
        if inner.method in ("none", "ngram"):
            return build_drafter(inner, parts)
        if trace is None:
            raise ValueError("no trace of the model")
        traced.append(TracedDrafter(trace, inner, parts.eos))
        return traced[-1]

    if params.method == "auto":
        from specctl.drafters.auto import Auto

        drafter: Drafter = Auto(params, parts, make)
    else:
        drafter = make(params, parts)
    return drafter, lambda: traced[0].steps if traced else ()


def replay(
    drafter: Drafter, steps: Callable[[], tuple[int, ...]], request: Request, answer: Sequence[int]
) -> list[Round]:
    """The rounds in which `drafter` gets to `answer`."""
    row = Row(0, request, list(request.prompt))
    drafter.begin(row, {})
    rounds: list[Round] = []
    while len(row.generated) < len(answer):
        done = len(row.generated)
        budget = request.max_new_tokens - done - 1
        tokens = drafter.draft([row], [budget]).tokens[0]
        rest = answer[done:]
        accepted = next(
            (i for i, token in enumerate(tokens) if i >= len(rest) or token != rest[i]), len(tokens)
        )
        rounds.append(Round(len(row.ids), len(tokens), accepted, steps()))
        row.ids.extend(rest[: accepted + 1])
        drafter.observe([row], _NO_SCORES, [accepted])
    return rounds


def seconds(rounds: Sequence[Round], prompt: int, costs: Costs) -> float:
    """Time to the end of the answer, both models' reading of the prompt included."""
    total = costs.target.prefill * (prompt - 1)
    for one in rounds:
        total += costs.target.seconds(1 + one.drafted, context=one.context) + costs.overhead
        if costs.draft is not None:
            total += sum(costs.draft.reading(tokens, one.context) for tokens in one.steps)
    return total
