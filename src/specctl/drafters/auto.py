"""The drafter that chooses: lookup, a model, or nobody, and how many tokens, anew for every round and row.

It composes other drafters and adds none; what it decides by is in `decode/policy.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from specctl.decode.draft import Draft, Drafter, Parts, Row, Scored, build_drafter, share_cache
from specctl.decode.policy import Plan, Situation, Source, Yield, choose, least_confidence
from specctl.models import costs
from specctl.models.cache import SlotCache
from specctl.profile.drafters import AutoParams, DraftModelParams, NgramParams, SelfParams


@dataclass(slots=True)
class _State:
    """Of one row. `read`: committed tokens the model has taken in; `at`: tokens committed before this round."""

    model: Yield = field(default_factory=Yield)
    read: int = 0
    found: list[int] = field(default_factory=list)
    source: Source = Source.NOBODY
    drafted: int = 0
    at: int = 0


class Auto:
    """Asks lookup always, since that is free, and the model only where it pays.

    The model reads the prompt when it is first asked. Lookup learns from every round, asked for its tokens or not.
    """

    needs: frozenset[int] = frozenset()
    adapts = True

    def __init__(
        self, params: AutoParams, parts: Parts, build: Callable[[Any, Parts], Drafter] = build_drafter
    ) -> None:
        self._costs = parts.costs or costs.of(parts.target, parts.draft)
        self._most = params.draft_tokens
        self._lookup = build(NgramParams(method="ngram", draft_tokens=self._most), parts)
        self._model: Drafter | None = None
        self._in_targets_cache = parts.draft is not None and parts.draft.twin
        if parts.draft is not None:
            settings: dict[str, Any] = {
                "draft_tokens": self._most,
                "min_confidence": least_confidence(self._costs),
            }
            twin = SelfParams(method="self", **settings)
            other = DraftModelParams(method="draft-model", **settings)
            self._model = build(twin if self._in_targets_cache else other, parts)
        self._states: list[_State] = []
        self._only: Source | None = None

    def asked(self, slot: int) -> Source:
        return self._states[slot].source

    def ask_only(self, whom: object) -> None:
        assert isinstance(whom, Source)
        self._only = whom

    def share(self, cache: SlotCache) -> None:
        if self._model is not None:
            share_cache(self._model, cache)

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self._states.append(_State())
        self._lookup.begin(row, hidden)
        if self._model is not None:
            # As if the answer began behind the first token: the rest of the prompt is caught up with when needed.
            unread = len(row.ids) - 1
            request = replace(row.request, max_new_tokens=row.request.max_new_tokens + unread)
            self._model.begin(Row(row.index, request, row.ids[:1]), hidden)

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        looked_up = self._lookup.draft(rows, budget)
        assert looked_up.confidence is not None
        situations = []
        for slot, row in enumerate(rows):
            state = self._states[slot]
            state.found, state.at = looked_up.tokens[slot], len(row.ids)
            read = len(row.ids) - 1 if self._in_targets_cache else state.read
            odds, lag = looked_up.confidence[slot], len(row.ids) - read
            situations.append(Situation(odds, state.model.averages(), lag, budget[slot], len(row.ids)))
        if self._only is None:
            plan = choose(situations, self._costs, self._most)
        else:
            plan = Plan([self._only] * len(rows), list(budget))
        draft = self._drafted(rows, plan)
        for slot, tokens in enumerate(draft.tokens):
            self._states[slot].source = plan.sources[slot]
            self._states[slot].drafted = len(tokens)
        return draft

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        own = [0] * len(rows)
        for slot, n in enumerate(accepted):
            state = self._states[slot]
            state.model.fade()
            if state.source is Source.MODEL and state.drafted:
                own[slot] = n
                state.model.learn(n, state.drafted)
                state.read = state.at + min(n, state.drafted - 1)
        self._lookup.observe(rows, scored, accepted)
        if self._model is not None:
            self._model.observe(rows, scored, own)

    def swap(self, one: int, other: int) -> None:
        self._states[one], self._states[other] = self._states[other], self._states[one]
        self._lookup.swap(one, other)
        if self._model is not None:
            self._model.swap(one, other)

    def drop(self, slot: int) -> None:
        self._states[slot] = self._states[-1]
        self._states.pop()
        self._lookup.drop(slot)
        if self._model is not None:
            self._model.drop(slot)

    def _drafted(self, rows: Sequence[Row], plan: Plan) -> Draft:
        """Each row's tokens from the source that was chosen for it."""
        found, asked = [], []
        for state, source, most in zip(self._states, plan.sources, plan.tokens, strict=False):
            found.append(state.found[:most] if source is Source.LOOKUP else [])
            asked.append(most if source is Source.MODEL else 0)
        if self._model is None:
            return Draft(found)
        modelled = self._model.draft(rows, asked)
        merged = [own or copied for own, copied in zip(modelled.tokens, found, strict=True)]
        return Draft(merged, None if modelled.q is None else _laws(modelled.q, merged, found))


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
