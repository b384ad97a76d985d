"""Kangaroo: the target's own first layers and a small adapter draft; the other layers verify.

Two early exits: out of the target after a few layers, and out of drafting after a token the drafter is unsure of.
What the first layers computed while drafting is what verification goes on from, so they never run twice.

Two things the paper does not do: a row whose drafts are not kept is left alone for a while, and a copy of the first
layers in fewer bits may draft instead of them. Then verification runs all layers, in one forward.
Source: Liu et al., "Kangaroo", arXiv:2404.18911, algorithm 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from specctl.decode.draft import Draft, Parts, Row, Scored
from specctl.decode.noise import Place
from specctl.decode.rest import Rest
from specctl.models import costs
from specctl.models.cache import SlotCache
from specctl.models.lm import PREFILL_CHUNK
from specctl.models.trimmed import widen
from specctl.profile.drafters import KangarooParams


class Kangaroo:
    """Drafts with the target's first layers, or a copy, in the target's own cache, and an adapter in another.

    Invariant between rounds: the adapter's cache and a row's `_pending` states are together the target's own state
    for each committed token but the last. A round's last drafted token never goes through the adapter in that
    round, so after full acceptance its state is pending (the paper's adapter lag). A copy's states are not the
    target's, so nothing of a round stays: scoring overwrites the slots, and the states it finds are pending.
    """

    def __init__(self, params: KangarooParams, parts: Parts) -> None:
        assert parts.draft is not None
        self._params, self._target, self._adapter = params, parts.target, parts.draft
        self._copied = parts.draft.twin
        self._first = parts.draft if self._copied else parts.target
        self._depth = parts.draft.reads
        self.needs = frozenset({self._depth})
        self.adapts = params.rests
        self._worth = 0.0
        if params.rests:
            known = parts.costs or costs.of(parts.target, parts.draft, rows=parts.rows)
            self._worth = known.drafted(parts.rows)
        self._sampler, self._eos = parts.sampler, parts.eos
        self._least = params.min_confidence or 0.0
        self._cache = self._adapter.new_cache()
        self._shared: SlotCache | None = None
        self._pending: list[list[Tensor]] = []  # a slot's states `[H]` the adapter has not seen
        self._steps = 0  # tokens drafted this round, over all rows
        self._rests: list[Rest] = []

    def share(self, cache: SlotCache) -> None:
        self._shared = cache

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        slot = self._cache.admit()
        self._pending.append([])
        self._rests.append(Rest(self._worth))
        capacity = len(row.ids) + row.request.max_new_tokens + self._params.draft_tokens
        self._cache.reserve(slot + 1, min(capacity, self._target.context_length) + self._adapter.row_floor)
        if self._depth in hidden:
            for chunk in torch.split(hidden[self._depth], PREFILL_CHUNK, dim=1):
                only_row = range(slot, slot + 1)
                self._adapter.segment(self._cache, chunk, only_row, self._depth, self._adapter.n_layers)
                self._cache.commit(slot, chunk.shape[1])

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        asked = [not self._params.rests or rest.over() for rest in self._rests[: len(rows)]]
        room = [
            min(most, self._params.draft_tokens) if ask else 0
            for ask, most in zip(asked, budget, strict=True)
        ]
        active = [most > 0 for most in room]
        drafts: list[list[int]] = [[] for _ in rows]
        confidence: list[list[float]] = [[] for _ in rows]
        laws: list[Tensor] = []
        states: list[Tensor] = []
        tokens = [row.ids[-1] for row in rows]
        self._steps = 0
        while any(active):
            states.append(self._shallow(tokens))
            scores = self._scores(self._read_out(states[-1]), rows, drafts)
            places = [Place(row.request.seed, len(row.ids) + self._steps) for row in rows]
            chosen, q = self._sampler.draft_tokens(scores, places)
            if q is not None:
                laws.append(q)
            self._steps += 1
            tokens, sure = chosen.tolist(), self._confidence(scores)
            for b, token in enumerate(tokens):
                if active[b]:
                    # An unsure token stays in the draft: dropping it after a look would bias sampling.
                    drafts[b].append(token)
                    confidence[b].append(sure[b])
                    active[b] = sure[b] >= self._least and token not in self._eos and len(drafts[b]) < room[b]
        q = torch.stack(laws, dim=1) if laws else None
        known = confidence if self._params.min_confidence is not None else None
        if self._copied:
            return Draft(drafts, q, confidence=known)
        states.append(self._shallow(tokens))
        return Draft(drafts, q, torch.cat(states, dim=1), self._depth, confidence=known)

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        states = scored.hidden[self._depth]
        for slot, n in enumerate(accepted):
            seen = 0 if self._copied else min(n + 1, self._steps)
            self._cache.commit(slot, seen)
            self._pending[slot].extend(states[slot, seen : n + 1])
            self._rests[slot].learn(n)

    def swap(self, one: int, other: int) -> None:
        self._cache.swap(one, other)
        self._pending[one], self._pending[other] = self._pending[other], self._pending[one]
        self._rests[one], self._rests[other] = self._rests[other], self._rests[one]

    def drop(self, slot: int) -> None:
        self._cache.release(slot)
        self._pending[slot], self._rests[slot] = self._pending[-1], self._rests[-1]
        self._pending.pop()
        self._rests.pop()

    def _shallow(self, tokens: Sequence[int]) -> Tensor:
        """The first layers over the newest token of each row, above what is committed and drafted; `[n, 1, H]`."""
        assert self._shared is not None
        rows, columns = range(len(tokens)), [[token] for token in tokens]
        return self._first.segment(self._shared, columns, rows, 0, self._depth, offset=self._steps)

    def _read_out(self, state: Tensor) -> Tensor:
        """The adapter's logits `[n, head]` behind the newest state `[n, 1, H]` of each row."""
        rows = range(len(state))
        if self._steps:
            logits = self._adapter.segment(self._cache, state, rows, self._depth, None, offset=self._steps)
            return logits[:, -1]
        late = [torch.stack(states) if states else state[0, :0] for states in self._pending[: len(rows)]]
        width = max(map(len, late)) + 1
        fed = [
            torch.cat([known, new, new.expand(width - 1 - len(known), -1)])
            for known, new in zip(late, state, strict=True)
        ]
        logits = self._adapter.segment(self._cache, torch.stack(fed), rows, self._depth, None)
        for slot, known in enumerate(late):
            self._cache.commit(slot, len(known))
            self._pending[slot] = []
        last = torch.tensor([len(known) for known in late], device=logits.device)
        return logits[torch.arange(len(rows), device=logits.device), last]

    def _scores(self, logits: Tensor, rows: Sequence[Row], drafts: Sequence[list[int]]) -> Tensor:
        if logits.shape[-1] < self._target.vocab_size:
            logits = widen(logits, self._adapter.kept, self._target.vocab_size)
        histories = [row.ids + draft for row, draft in zip(rows, drafts, strict=True)]
        return self._sampler.law.scores(logits[:, None], histories, [[] for _ in rows])[:, 0]

    def _confidence(self, scores: Tensor) -> list[float]:
        """The best token's probability `[n]`; 1 where nobody asks."""
        if self._params.min_confidence is None:
            return [1.0] * len(scores)
        return cast(list[float], scores.softmax(dim=-1).amax(dim=-1).tolist())
