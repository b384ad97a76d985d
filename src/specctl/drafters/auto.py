"""The drafter that chooses: lookup, a model, or nobody, and how many tokens, anew for every round and row.

It composes other drafters and adds none; what it decides by is in `decode/policy.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from specctl.decode.draft import Draft, Drafter, Parts, Row, Scored, build_drafter
from specctl.decode.policy import Chance, Plan, Situation, Source, choose, least_confidence
from specctl.models import costs
from specctl.profile.drafters import AutoParams, DraftModelParams, NgramParams

LOOKUP_PRIOR = Chance((0.5, 0.75), 2.0)
MODEL_PRIOR = Chance((0.75, 0.75), 4.0)


@dataclass(slots=True)
class _State:
    """What is known of one row. `read`: committed tokens the model has taken in; `found`: what lookup proposes."""

    lookup: Chance = field(default_factory=lambda: Chance(LOOKUP_PRIOR.prior, LOOKUP_PRIOR.weight))
    model: Chance = field(default_factory=lambda: Chance(MODEL_PRIOR.prior, MODEL_PRIOR.weight))
    read: int = 0
    found: list[int] = field(default_factory=list)
    drafted: int = 0
    committed: int = 0


class Auto:
    """Asks lookup always, since that is free, and the model only where it pays.

    The model reads the prompt when it is first asked. Lookup learns from every round, asked for its tokens or not.
    """

    needs: frozenset[int] = frozenset()

    def __init__(
        self, params: AutoParams, parts: Parts, build: Callable[[Any, Parts], Drafter] = build_drafter
    ) -> None:
        self._costs = parts.costs or costs.of(parts.target, parts.draft)
        self._most = params.draft_tokens
        self._lookup = build(NgramParams(method="ngram", draft_tokens=self._most), parts)
        self._model: Drafter | None = None
        if parts.draft is not None:
            least = least_confidence(self._costs, self._most)
            self._model = build(
                DraftModelParams(method="draft-model", draft_tokens=self._most, min_confidence=least), parts
            )
        self._states: list[_State] = []
        self._plan = Plan([], [])

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self._states.append(_State())
        self._lookup.begin(row, hidden)
        if self._model is not None:
            # As if the answer began behind the first token: the rest of the prompt is caught up with when needed.
            unread = len(row.ids) - 1
            request = replace(row.request, max_new_tokens=row.request.max_new_tokens + unread)
            self._model.begin(Row(row.index, request, row.ids[:1]), hidden)

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        looked_up = self._lookup.draft(rows, budget).tokens
        for state, row, found in zip(self._states, rows, looked_up, strict=True):
            state.found, state.committed = found, len(row.ids)
        situations = [
            Situation(
                found=len(state.found),
                lag=len(row.ids) - state.read,
                budget=most,
                left=most + 1,
                context=len(row.ids),
                lookup=state.lookup.rates(),
                model=state.model.rates(),
            )
            for state, row, most in zip(self._states, rows, budget, strict=True)
        ]
        self._plan = choose(situations, self._costs, self._most)
        draft = self._drafted(rows)
        for state, tokens in zip(self._states, draft.tokens, strict=True):
            state.drafted = len(tokens)
        return draft

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        own = [0] * len(rows)
        lookup_kept = []
        for slot, (row, state) in enumerate(zip(rows, self._states, strict=True)):
            state.lookup.fade()
            state.model.fade()
            lookup_kept.append(_learn_lookup(state, row.ids[state.committed :]))
            if self._plan.sources[slot] is Source.MODEL and state.drafted:
                own[slot] = accepted[slot]
                state.model.learn(accepted[slot], accepted[slot] < state.drafted)
                state.read = state.committed + min(accepted[slot], state.drafted - 1)
        self._lookup.observe(rows, scored, lookup_kept)
        if self._model is not None:
            self._model.observe(rows, scored, own)

    def drop(self, slot: int) -> None:
        self._states[slot] = self._states[-1]
        self._states.pop()
        self._lookup.drop(slot)
        if self._model is not None:
            self._model.drop(slot)

    def _drafted(self, rows: Sequence[Row]) -> Draft:
        """Each row's tokens from the source that was chosen for it."""
        sources, most = self._plan.sources, self._plan.tokens
        tokens = [
            state.found[:n] if source is Source.LOOKUP else []
            for state, source, n in zip(self._states, sources, most, strict=True)
        ]
        if self._model is None:
            return Draft(tokens)
        asked = [n if source is Source.MODEL else 0 for source, n in zip(sources, most, strict=True)]
        modelled = self._model.draft(rows, asked)
        merged = [own or found for own, found in zip(modelled.tokens, tokens, strict=True)]
        return Draft(merged, None if modelled.q is None else _laws(modelled.q, merged, tokens))


def _learn_lookup(state: _State, committed: Sequence[int]) -> int:
    """Compares what lookup proposed with what was committed; returns how many of its tokens count as kept.

    What was committed may end before the proposal does: the rest is then given the benefit of the doubt.
    """
    overlap = min(len(state.found), len(committed))
    right = next((i for i in range(overlap) if state.found[i] != committed[i]), overlap)
    if overlap:
        state.lookup.learn(right, right < overlap)
    return right if right < overlap else len(state.found)


def _laws(q: Tensor, tokens: Sequence[Sequence[int]], looked_up: Sequence[Sequence[int]]) -> Tensor:
    """The model's laws `[n, k, vocab]`, widened to the longest draft; tokens looked up have one-hot laws."""
    longest = max(map(len, tokens))
    laws = q.new_zeros(q.shape[0], longest, q.shape[2])
    laws[:, : q.shape[1]] = q
    for row, found in enumerate(looked_up):
        if found:
            laws[row] = 0
            laws[row, torch.arange(len(found)), torch.tensor(found)] = 1
    return laws
