"""Sorted speculative decoding: one draft, several depths that can answer, the shallowest that is sure does.

Every token starts at the first depth and climbs while the exit's best token is not likely enough. Layers that were
skipped owe keys and values; they are computed when a later token climbs, many at once, or never.
Source: "S2D: Sorted Speculative Decoding" (arXiv:2407.01955), section 3.3. Unlike the published code, q is the law
of the depth that answered, and the token is drawn from it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor

from specctl.decode.draft import Draft, Parts, Row, Scored
from specctl.decode.noise import Place
from specctl.decode.rest import Rest
from specctl.errors import RequestError
from specctl.models.lm import PREFILL_CHUNK
from specctl.models.trimmed import widen
from specctl.profile.drafters import S2DParams


class S2D:
    """Drafts token by token; segment j is the layers between two neighbouring depths, with a slot cache of its own.

    Invariant, for each row at any time: the tokens fed are `caches[0].lengths`, they are a prefix of the row's
    committed and drafted tokens, and `caches[j].lengths + len(waiting[j]) == caches[j - 1].lengths`: a token has
    gone through segment j, or its state waits before it, or it waits before an earlier one. `exits` counts the
    drafted tokens by the segment that answered.
    """

    needs: frozenset[int] = frozenset()

    def __init__(self, params: S2DParams, parts: Parts) -> None:
        assert parts.draft is not None
        self._params, self._lm, self._vocab_size = params, parts.draft, parts.target.vocab_size
        self._sampler, self._eos = parts.sampler, parts.eos
        self._least = params.min_confidence or 0.0
        self.adapts = params.rests
        depths = [depth for depth, _ in self._lm.exits]
        self._spans = list(pairwise([0, *depths]))
        self._climb = self._thresholds(parts.target.name)
        self._caches = [self._lm.new_cache() for _ in depths]
        self._waiting: list[list[list[Tensor]]] = [[] for _ in depths]  # by segment, then slot: states `[H]`
        self._before: list[int] = []  # tokens committed when this round's draft began, by slot
        self._rests: list[Rest] = []
        self.exits = [0] * len(depths)

    def _thresholds(self, target: str) -> list[float]:
        """One a depth. Raises RequestError if the profile gives another number of them."""
        chosen = self._params.targets.get(target, self._params.thresholds)
        if chosen is None:
            return [threshold for _, threshold in self._lm.exits]
        if len(chosen) != len(self._spans):
            raise RequestError(
                f"{len(chosen)} thresholds for a sorted draft of {len(self._spans)} depths",
                hint="give one for each depth in `drafter.thresholds`; the last one is without effect",
            )
        return chosen

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        slot = 0
        self._rests.append(Rest())
        capacity = len(row.ids) + row.request.max_new_tokens + self._params.draft_tokens
        for cache, waiting in zip(self._caches, self._waiting, strict=True):
            slot = cache.admit()
            cache.reserve(slot + 1, min(capacity, self._lm.context_length) + self._lm.row_floor)
            waiting.append([])
        known = self._known(row.ids[:-1]) if len(row.ids) <= self._lm.context_length else []
        for start in range(0, len(known), PREFILL_CHUNK):
            states: list[list[int]] | Tensor = [known[start : start + PREFILL_CHUNK]]
            for cache, (low, high) in zip(self._caches, self._spans, strict=True):
                states = self._lm.segment(cache, states, range(slot, slot + 1), low, high)
                cache.commit(slot, states.shape[1])

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        asked = [not self._params.rests or rest.over() for rest in self._rests[: len(rows)]]
        room = [
            self._room(row, most) if ask else 0 for ask, row, most in zip(asked, rows, budget, strict=True)
        ]
        active = [most > 0 for most in room]
        drafts: list[list[int]] = [[] for _ in rows]
        confidence: list[list[float]] = [[] for _ in rows]
        laws: list[Tensor] = []
        self._before = [len(row.ids) for row in rows]
        fed = [row.ids[self._caches[0].lengths[slot] :] for slot, row in enumerate(rows)]
        while any(active):
            logits, sure = self._answer([ids if on else [] for ids, on in zip(fed, active, strict=True)])
            scores = self._scores(logits, rows, drafts)
            places = [Place(row.request.seed, len(row.ids) + len(laws)) for row in rows]
            chosen, q = self._sampler.draft_tokens(scores, places)
            if q is not None:
                laws.append(q)
            tokens = cast(list[int], chosen.tolist())
            for b, token in enumerate(tokens):
                if active[b]:
                    # An unsure token stays in the draft: dropping it after a look would bias sampling.
                    drafts[b].append(token)
                    confidence[b].append(sure[b])
                    active[b] = sure[b] >= self._least and token not in self._eos and len(drafts[b]) < room[b]
            fed = [[token] for token in tokens]
        known = confidence if self._params.min_confidence is not None else None
        return Draft(drafts, torch.stack(laws, dim=1) if laws else None, confidence=known)

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        for slot, n in enumerate(accepted):
            self._roll_back(slot, self._before[slot] + n)
            self._rests[slot].learn(n)

    def swap(self, one: int, other: int) -> None:
        for cache, waiting in zip(self._caches, self._waiting, strict=True):
            cache.swap(one, other)
            waiting[one], waiting[other] = waiting[other], waiting[one]
        self._rests[one], self._rests[other] = self._rests[other], self._rests[one]

    def drop(self, slot: int) -> None:
        self._rests[slot] = self._rests[-1]
        self._rests.pop()
        for cache, waiting in zip(self._caches, self._waiting, strict=True):
            cache.release(slot)
            waiting[slot] = waiting[-1]
            waiting.pop()

    def _room(self, row: Row, most: int) -> int:
        """Past the draft's own context a row is decoded plainly."""
        return max(min(most, self._params.draft_tokens, self._lm.context_length - len(row.ids)), 0)

    def _known(self, ids: Sequence[int]) -> list[int]:
        """Ids the draft's smaller vocabulary lacks are read as some other token: only drafts suffer."""
        return [token if token < self._lm.vocab_size else 0 for token in ids]

    def _answer(self, fed: Sequence[Sequence[int]]) -> tuple[Tensor, list[float]]:
        """Take in `fed` tokens of each row, none for one that is done.

        Returns the answering depths' logits `[n, vocab]` behind each row's last token, and how likely they find
        their best one.
        """
        states = self._enter(fed)
        logits, sure = self._read_out(states)
        depth = [0] * len(fed)
        for j in range(1, len(self._spans)):
            climbs = [
                bool(ids) and depth[b] == j - 1 and sure[b] <= self._climb[j - 1] for b, ids in enumerate(fed)
            ]
            if not any(climbs):
                break
            states = self._climb_on(j, states)
            deeper, surer = self._read_out(states)
            for b, climbing in enumerate(climbs):
                if climbing:
                    logits[b], sure[b], depth[b] = deeper[b], surer[b], j
        for b, ids in enumerate(fed):
            self.exits[depth[b]] += bool(ids)
        return logits, sure

    def _enter(self, fed: Sequence[Sequence[int]]) -> Tensor:
        """`fed` through the first segment; each row's last state, `[n, 1, H]`."""
        width = max(map(len, fed))
        tokens = [self._known(ids) + [0] * (width - len(ids)) for ids in fed]
        states = self._lm.segment(self._caches[0], tokens, range(len(fed)), *self._spans[0])
        return self._keep(0, states, [len(ids) for ids in fed])

    def _climb_on(self, j: int, newest: Tensor) -> Tensor:
        """All that waits before segment j through it, of all rows: beside one that has to, the others cost little.

        `newest` `[n, 1, H]` stands in for a row with nothing waiting. Returns each row's last state, `[n, 1, H]`.
        """
        n = len(newest)
        counts = [len(states) for states in self._waiting[j][:n]]
        width = max(counts)
        fed = [
            torch.stack(states + [newest[slot, 0]] * (width - len(states)))
            for slot, states in enumerate(self._waiting[j][:n])
        ]
        states = self._lm.segment(self._caches[j], torch.stack(fed), range(n), *self._spans[j])
        for slot in range(n):
            self._waiting[j][slot] = []
        return self._keep(j, states, counts)

    def _keep(self, j: int, states: Tensor, counts: Sequence[int]) -> Tensor:
        """The first `counts[b]` of a row's states `[n, q, H]` behind segment j are real: they wait for the next."""
        for slot, count in enumerate(counts):
            self._caches[j].commit(slot, count)
            if j + 1 < len(self._spans):
                self._waiting[j + 1][slot].extend(states[slot, :count])
        last = torch.tensor([max(count - 1, 0) for count in counts], device=states.device)
        return states[torch.arange(len(counts), device=states.device), last][:, None]

    def _roll_back(self, slot: int, length: int) -> None:
        """Forget the tokens behind the first `length`: their slots, and their states that still wait."""
        for cache in self._caches:
            cache.truncate(slot, length)
        for j in range(1, len(self._spans)):
            owed = self._caches[j - 1].lengths[slot] - self._caches[j].lengths[slot]
            del self._waiting[j][slot][owed:]

    def _read_out(self, states: Tensor) -> tuple[Tensor, list[float]]:
        """Logits `[n, head]` of states `[n, 1, H]`, and the best token's probability."""
        logits = self._lm.read_out(states)[:, 0].clone()  # to be written to, which an inference tensor cannot
        wide = torch.promote_types(logits.dtype, torch.float32)
        return logits, cast(list[float], logits.softmax(dim=-1, dtype=wide).amax(dim=-1).tolist())

    def _scores(self, logits: Tensor, rows: Sequence[Row], drafts: Sequence[list[int]]) -> Tensor:
        logits = widen(logits, self._lm.kept, self._vocab_size)
        histories = [row.ids + draft for row, draft in zip(rows, drafts, strict=True)]
        return self._sampler.law.scores(logits[:, None], histories, [[] for _ in rows])[:, 0]
