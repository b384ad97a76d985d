"""Draft-model speculation: a small model of the same vocabulary writes, the target checks.

A draft with streams says several tokens a forward (`models/streams.py`).
Source: Leviathan et al., arXiv:2211.17192; Chen et al., arXiv:2302.01318.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from specctl.decode.draft import Draft, Parts, Row, Scored
from specctl.decode.length import Company, Lengths, Need
from specctl.decode.noise import Place
from specctl.models import costs
from specctl.models.cache import SlotCache
from specctl.models.lm import LM
from specctl.models.trimmed import widen
from specctl.profile.drafters import DraftModelParams, SelfParams

_CATCH_UP = 8
"""Committed tokens the draft lacks are fed with the round's first step; more than these are prefilled apart."""


class DraftModel:
    """Drafts token by token with a model and slot cache of its own.

    Invariant between rounds: a row's cache holds a prefix of its committed tokens. After full acceptance two
    tokens are missing (the last drafted one never went through the draft model, nor did the target's own).
    With `draft_tokens: auto` a prompt is read when its row is first drafted for, if ever (`decode/length.py`).
    """

    needs: frozenset[int] = frozenset()
    keeps_cache = True
    """Whether the cache is its own to fill, move and roll back."""

    def __init__(self, params: DraftModelParams | SelfParams, parts: Parts) -> None:
        assert parts.draft is not None
        self._lm: LM = parts.draft
        self._vocab_size = parts.target.vocab_size
        self._params = params
        self._sampler = parts.sampler
        self._least = params.min_confidence or 0.0
        self._eos = parts.eos
        self._cache = self._lm.new_cache()
        self._fed = 0  # drafted tokens of this round that went through the draft model
        self._lengths: Lengths | None = None
        self._drafted: list[int] = []
        if params.draft_tokens == "auto":
            known = parts.costs or costs.of(parts.target, parts.draft, rows=parts.rows)
            self._lengths = Lengths(params.most, known, Company.of(parts.sampler, parts.rows))

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        if self.keeps_cache:
            self._take_in(row)
        if self._lengths is not None:
            self._lengths.begin()

    def _take_in(self, row: Row) -> None:
        slot = self._cache.admit()
        if len(row.ids) <= self._lm.context_length:
            capacity = len(row.ids) + row.request.max_new_tokens + self._params.most
            self._cache.reserve(slot + 1, capacity + self._lm.row_floor)
            if self._lengths is None:
                self._lm.prefill(self._cache, slot, self._known(row.ids[:-1]))

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        room = self._room(rows, budget)
        active = [most > 0 for most in room]
        drafts: list[list[int]] = [[] for _ in rows]
        confidence: list[list[float]] = [[] for _ in rows]
        laws: list[Tensor] = []
        reach = [1.0] * len(rows)  # that all of a row's draft is right, as far as the draft model can tell
        self._fed = 0
        unread: list[list[int]] = [[] for _ in rows]
        logits, states = self._catch_up(rows, active) if any(active) else (None, None)
        while logits is not None:
            scores = self._scores(logits, rows, drafts)
            places = [Place(row.request.seed, len(row.ids) + len(laws)) for row in rows]
            chosen, q = self._sampler.draft_tokens(scores, places)
            if q is not None:
                laws.append(q)
            tokens = chosen.tolist()
            sure = self._confidence(scores)
            for b, token in enumerate(tokens):
                if active[b]:
                    # An unsure token stays in the draft: dropping it after a look would bias sampling.
                    drafts[b].append(token)
                    confidence[b].append(sure[b])
                    reach[b] *= sure[b]
                    active[b] = (
                        reach[b] >= self._least and token not in self._eos and len(drafts[b]) < room[b]
                    )
                unread[b].append(token)
            logits, states = self._go_on(unread, states) if any(active) else (None, None)
        self._drafted = [len(tokens) for tokens in drafts]
        known = confidence if self._params.min_confidence is not None else None
        return Draft(drafts, torch.stack(laws, dim=1) if laws else None, confidence=known)

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        if self.keeps_cache:
            for slot, n in enumerate(accepted):
                self._cache.commit(slot, min(n, self._fed))
        if self._lengths is not None:
            self._lengths.observe(self._drafted, accepted)

    def swap(self, one: int, other: int) -> None:
        if self.keeps_cache:
            self._cache.swap(one, other)
        if self._lengths is not None:
            self._lengths.swap(one, other)

    def drop(self, slot: int) -> None:
        if self.keeps_cache:
            self._cache.release(slot)
        if self._lengths is not None:
            self._lengths.drop(slot)

    def _room(self, rows: Sequence[Row], budget: Sequence[int]) -> list[int]:
        """How much to draft for each row at most. Past the draft's own context a row is decoded plainly."""
        most, context = self._params.most, self._lm.context_length
        room = [max(min(n, most, context - len(row.ids)), 0) for row, n in zip(rows, budget, strict=True)]
        if self._lengths is None:
            return room
        read = self._cache.lengths
        return self._lengths.choose(
            [Need(len(row.ids) - read[slot], room[slot], len(row.ids)) for slot, row in enumerate(rows)]
        )

    def _catch_up(self, rows: Sequence[Row], active: Sequence[bool]) -> tuple[Tensor, Tensor | None]:
        """Feed each row the committed tokens it lacks; logits `[n, vocab]` behind its last one, over the target's
        vocabulary, and for streams the states `[n, H]` they come from."""
        missing = []
        for slot, row in enumerate(rows):
            lacking = self._known(row.ids[self._cache.lengths[slot] :] if active[slot] else row.ids[-1:])
            if len(lacking) > _CATCH_UP:
                self._lm.prefill(self._cache, slot, lacking[:-1])
                lacking = lacking[-1:]
            missing.append(lacking)
        width = max(len(lacking) for lacking in missing)
        tokens = [lacking + [0] * (width - len(lacking)) for lacking in missing]
        read = self._forward(tokens, 0, [len(lacking) - 1 for lacking in missing])
        for slot, lacking in enumerate(missing):
            self._cache.commit(slot, len(lacking) if active[slot] else 0)
        return read

    def _known(self, ids: Sequence[int]) -> list[int]:
        """Ids the draft's smaller vocabulary lacks are read as some other token: only drafts suffer."""
        return [token if token < self._lm.vocab_size else 0 for token in ids]

    def _go_on(self, unread: list[list[int]], states: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Behind the tokens just drafted, of which the draft model has not read `unread`: by the next stream, or by
        a forward over these."""
        streams, said = self._lm.streams, len(unread[0])
        if streams is None or states is None or said > len(streams):
            return self._feed(unread)
        states, logits = streams.follow(said - 1, states, self._known([row[-1] for row in unread]))
        return widen(logits, streams.kept, self._vocab_size), states

    def _feed(self, unread: list[list[int]]) -> tuple[Tensor, Tensor | None]:
        """Some steps on: tokens just drafted, above what is committed. Empties `unread`."""
        tokens = [self._known(row) for row in unread]
        width = len(tokens[0])
        read = self._forward(tokens, self._fed, [width - 1] * len(tokens))
        self._fed += width
        for row in unread:
            row.clear()
        return read

    def _forward(
        self, tokens: list[list[int]], offset: int, last: Sequence[int]
    ) -> tuple[Tensor, Tensor | None]:
        rows = range(len(tokens))
        states: Tensor | None = None
        if self._lm.streams is None:
            logits = self._lm.forward(self._cache, tokens, rows, offset=offset)
        else:
            logits, states = self._lm.forward_states(self._cache, tokens, rows, offset=offset)
        at = list(rows), list(last)
        wide = widen(logits[at], self._lm.kept, self._vocab_size)
        return wide, None if states is None else states[at]

    def _scores(self, logits: Tensor, rows: Sequence[Row], drafts: Sequence[list[int]]) -> Tensor:
        histories = [row.ids + draft for row, draft in zip(rows, drafts, strict=True)]
        return self._sampler.law.scores(logits[:, None], histories, [[] for _ in rows])[:, 0]

    def _confidence(self, scores: Tensor) -> list[float]:
        """The best token's probability `[n]`; 1 where nobody asks."""
        if self._params.min_confidence is None:
            return [1.0] * len(scores)
        return cast(list[float], scores.softmax(dim=-1).amax(dim=-1).tolist())


class OwnWeights(DraftModel):
    """Self-drafting: a copy of the target's weights writes, in the target's own cache. No second model to load.

    The copy has the target's layers and heads, so the target's states of the committed tokens are context it can
    read as they are: better than its own, and nothing is read twice, neither the prompt nor a round. It feeds the
    last committed token and what it drafts, above the committed slots. Nothing of that stays: scoring writes the
    target's own states into the same slots before any is committed.
    """

    keeps_cache = False

    def share(self, cache: SlotCache) -> None:
        self._cache = cache

    def _catch_up(self, rows: Sequence[Row], active: Sequence[bool]) -> tuple[Tensor, Tensor | None]:
        """The cache holds all but each row's last token."""
        return self._feed([[row.ids[-1]] for row in rows])
