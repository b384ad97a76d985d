"""A draft model that writes drafts, and continuations of them for several verdicts at once.

All continuations of a row are one tree in its slots of the cache: they share the prefix, and each sees its own
branch only (`models/lm.py:Tree`). The branch of the verdict that comes is moved to where a draft would stand.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from specctl.decode.draft import Key, Row
from specctl.decode.noise import Place
from specctl.decode.sampling import Sampler
from specctl.mirror.outcomes import Guess, Ranked, choose, ranked
from specctl.models.lm import LM, Tree
from specctl.models.trimmed import widen

_CATCH_UP = 8
"""Committed tokens the draft lacks are fed with a round's first step; more than these are prefilled apart."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How many branches to write, of at most how many tokens; `trust` is the exit's weight beside the draft's own
    guesses, 0 to 1."""

    candidates: int
    branches: int
    draft_tokens: int
    trust: float


@dataclass(slots=True)
class Branch:
    """A row's draft: its tokens, the laws `[k, vocab]` they were drawn from (None: not drawn), and the draft's own
    guess at the verdict, without the slot behind the last token."""

    tokens: list[int] = field(default_factory=list)
    q: Tensor | None = None
    guess: Guess = field(default_factory=lambda: Guess([], []))

    def add(self, token: int, best: Ranked, chance: float) -> None:
        self.tokens.append(token)
        self.guess.slots.append(best)
        self.guess.drafted.append(chance)


@dataclass(slots=True)
class _Twig:
    """A branch being written: its key, the ids before its first token, its slots in the cache and its laws."""

    key: Key
    ids: list[int]
    room: int
    slots: list[int] = field(default_factory=list)
    branch: Branch = field(default_factory=Branch)
    laws: list[Tensor] = field(default_factory=list)
    open: bool = True

    def done(self) -> Branch:
        self.branch.q = torch.stack(self.laws) if self.laws else None
        return self.branch


class Writer:
    """Drafts with a model and slot cache of its own, for rows it is told of whole.

    Invariant: slots `0 … len(held) - 1` of a row's cache hold the tokens `held`, of which a prefix is committed to
    the answer. Nothing that is verified is ever told: what differs from a row's ids is cut off when they come.
    """

    def __init__(self, lm: LM, vocab_size: int, sampler: Sampler, eos: frozenset[int], plan: Plan) -> None:
        self._lm, self._vocab_size, self._sampler, self._eos, self._plan = lm, vocab_size, sampler, eos, plan
        self._cache = lm.new_cache()
        self._held: list[list[int]] = []
        self._twigs: list[list[_Twig]] = []

    def begin(self, row: Row) -> None:
        """A row joins as the last slot."""
        slot = self._cache.admit()
        self._held.append([])
        if len(row.ids) <= self._lm.context_length:
            plan = self._plan
            most = len(row.ids) + row.request.max_new_tokens + plan.draft_tokens * (plan.branches + 1)
            self._cache.reserve(slot + 1, most + self._lm.row_floor)
            self._read(slot, row.ids[:-1])

    def swap(self, one: int, other: int) -> None:
        self._cache.swap(one, other)
        self._held[one], self._held[other] = self._held[other], self._held[one]

    def drop(self, slot: int) -> None:
        self._cache.release(slot)
        self._held[slot] = self._held[-1]
        self._held.pop()

    def room(self, row: Row, most: int) -> int:
        """Past the draft's own context a row is decoded plainly."""
        return max(min(most, self._plan.draft_tokens, self._lm.context_length - len(row.ids)), 0)

    def write(self, rows: Sequence[Row], room: Sequence[int]) -> list[Branch]:
        """Draft now, at most `room[b]` tokens for each row; none for a row whose cache must stay as it is."""
        drafts = [Branch() for _ in rows]
        active = [most > 0 for most in room]
        laws: list[Tensor] = []
        logits = self._catch_up(rows, active) if any(active) else None
        while logits is not None:
            ids = [row.ids + draft.tokens for row, draft in zip(rows, drafts, strict=True)]
            tokens, best, chances, q = self._draw(logits, ids, rows)
            if q is not None:
                laws.append(q)
            for b, token in enumerate(tokens):
                if active[b]:
                    drafts[b].add(token, best[b], chances[b])
                    active[b] = token not in self._eos and len(drafts[b].tokens) < room[b]
            logits = self._feed(tokens, active) if any(active) else None
        for b, draft in enumerate(drafts):
            own = [law[b] for law in laws[: len(draft.tokens)]]
            draft.q = torch.stack(own) if own else None
        return drafts

    def branch(
        self, rows: Sequence[Row], drafts: Sequence[Branch], exits: Sequence[Guess], budget: Sequence[int]
    ) -> None:
        """Go on from each row's draft, for the verdicts that are likely; `budget` is that of the draft's round."""
        own = self._complete(rows, drafts)
        self._twigs = [self._keys(*one) for one in zip(rows, drafts, exits, own, budget, strict=True)]
        width = max(map(len, self._twigs), default=0)
        if width:
            self._grow(rows, max(width, self._lm.row_floor))

    @property
    def keys(self) -> list[list[Key]]:
        """The verdicts the last branches are for."""
        return [[twig.key for twig in twigs] for twigs in self._twigs]

    def take(self, verdicts: Sequence[Key | None]) -> list[Branch | None]:
        """The branches for these verdicts, each now in its row's cache as if drafted after it; None where there is
        none."""
        taken: list[Branch | None] = []
        for slot, (verdict, twigs) in enumerate(zip(verdicts, self._twigs, strict=True)):
            twig = next((one for one in twigs if one.key == verdict), None)
            taken.append(None if twig is None else self._adopt(slot, twig))
        self._twigs = []
        return taken

    def _adopt(self, slot: int, twig: _Twig) -> Branch:
        start = len(twig.ids) - 1
        self._cache.gather(slot, twig.slots, start)
        self._held[slot] = [*twig.ids, *twig.branch.tokens][: start + len(twig.slots)]
        return twig.done()

    def _complete(self, rows: Sequence[Row], drafts: Sequence[Branch]) -> list[Guess]:
        """Read each draft's last token too: what the draft says behind it is its guess at the target's token."""
        live = [bool(draft.tokens) for draft in drafts]
        if not any(live):
            return [draft.guess for draft in drafts]
        ids = [row.ids + draft.tokens for row, draft in zip(rows, drafts, strict=True)]
        whole = [replace(row, ids=one) for row, one in zip(rows, ids, strict=True)]
        logits = self._catch_up(whole, live)
        best = self._ranked(self._scores(logits, ids), ids, rows)[0]
        return [
            Guess([*draft.guess.slots, one], draft.guess.drafted) if draft.tokens else draft.guess
            for draft, one in zip(drafts, best, strict=True)
        ]

    def _keys(self, row: Row, draft: Branch, exit_: Guess, own: Guess, budget: int) -> list[_Twig]:
        """The branches to write for a row, those apart behind which nothing will be drafted."""
        plan = self._plan
        weighed = [(exit_, plan.trust), (own, 1 - plan.trust)]
        twigs = []
        for key in choose(draft.tokens, weighed, plan.candidates, plan.branches) if draft.tokens else []:
            accepted, token = key
            ids = [*row.ids, *draft.tokens[:accepted], token]
            room = min(budget - accepted - 1, plan.draft_tokens, self._lm.context_length - len(ids))
            ends = token in self._eos or (draft.tokens[-1] in self._eos and accepted == len(draft.tokens))
            if room > 0 and not ends:
                twigs.append(_Twig(key, ids, room))
        return twigs

    def _grow(self, rows: Sequence[Row], columns: int) -> None:
        """Write all branches, a token each in one forward."""
        fed = 0
        while any(twig.open for twigs in self._twigs for twig in twigs):
            tokens, tree = self._next(columns, fed)
            logits = self._lm.forward(self._cache, tokens, range(len(rows)), offset=fed, tree=tree)
            flat = [(b, c, twig) for b, twigs in enumerate(self._twigs) for c, twig in enumerate(twigs)]
            picked = torch.stack([logits[b, c] for b, c, _ in flat])
            ids = [[*twig.ids, *twig.branch.tokens] for _, _, twig in flat]
            drawn, best, chances, q = self._draw(picked, ids, [rows[b] for b, _, _ in flat])
            for at, (_, _, twig) in enumerate(flat):
                if twig.open:
                    twig.branch.add(drawn[at], best[at], chances[at])
                    if q is not None:
                        twig.laws.append(q[at])
                    twig.open = drawn[at] not in self._eos and len(twig.branch.tokens) < twig.room
            fed += columns

    def _next(self, columns: int, fed: int) -> tuple[list[list[int]], Tree]:
        """The newest token of each branch, and who sees what; columns without a branch see the first slot only."""
        starts = [len(held) + fed for held in self._held[: len(self._twigs)]]
        width = max(starts) + columns
        places = torch.arange(width).repeat(len(starts), 1)
        sight = torch.zeros(len(starts), columns, width, dtype=torch.bool)
        sight[:, :, 0] = True
        tokens = [[0] * columns for _ in starts]
        for b, twigs in enumerate(self._twigs):
            for c, twig in enumerate(twigs):
                slot = starts[b] + c
                if twig.open:
                    tokens[b][c] = self._known((twig.branch.tokens or twig.ids)[-1])
                    twig.slots.append(slot)
                prefix = len(twig.ids) - 1
                places[b, twig.slots] = torch.arange(prefix, prefix + len(twig.slots))
                sight[b, c, :prefix] = True
                sight[b, c, twig.slots] = True
        sight[:, range(columns), :] |= _own(starts, columns, width)
        return tokens, Tree(places.to(self._lm.device), sight.to(self._lm.device))

    def _catch_up(self, rows: Sequence[Row], active: Sequence[bool]) -> Tensor:
        """Feed each row the tokens it lacks; returns the logits `[n, vocab]` behind its last one."""
        missing = []
        for slot, row in enumerate(rows):
            if active[slot]:
                known = _common_prefix(self._held[slot], row.ids[:-1])
                self._cache.truncate(slot, known)
                del self._held[slot][known:]
                if len(row.ids) - known > _CATCH_UP:
                    self._read(slot, row.ids[known:-1])
            missing.append(row.ids[len(self._held[slot]) :] if active[slot] else row.ids[-1:])
        width = max(map(len, missing))
        tokens = [[*map(self._known, lacking), *[0] * (width - len(lacking))] for lacking in missing]
        logits = self._lm.forward(self._cache, tokens, range(len(rows)))
        for slot, lacking in enumerate(missing):
            if active[slot]:
                self._hold(slot, lacking)
        last = torch.tensor([len(lacking) - 1 for lacking in missing], device=logits.device)
        return logits[torch.arange(len(rows), device=logits.device), last]

    def _feed(self, tokens: Sequence[int], active: Sequence[bool]) -> Tensor:
        """One step on for the active rows; logits `[n, vocab]`."""
        columns = [[self._known(token)] for token in tokens]
        logits = self._lm.forward(self._cache, columns, range(len(tokens)))
        for slot, token in enumerate(tokens):
            if active[slot]:
                self._hold(slot, [token])
        return logits[:, -1]

    def _read(self, slot: int, ids: Sequence[int]) -> None:
        self._lm.prefill(self._cache, slot, [*map(self._known, ids)])
        self._held[slot].extend(ids)

    def _hold(self, slot: int, tokens: Sequence[int]) -> None:
        self._cache.commit(slot, len(tokens))
        self._held[slot].extend(tokens)

    def _known(self, token: int) -> int:
        """Ids the draft's smaller vocabulary lacks are read as some other token: only drafts suffer."""
        return token if token < self._lm.vocab_size else 0

    def _draw(
        self, logits: Tensor, ids: Sequence[list[int]], rows: Sequence[Row]
    ) -> tuple[list[int], list[Ranked], list[float], Tensor | None]:
        """The next token behind each of `ids`, the likeliest ones, its own chance, and the law it comes from."""
        scores = self._scores(logits, ids)
        at = [Place(row.request.seed, len(one)) for row, one in zip(rows, ids, strict=True)]
        chosen, q = self._sampler.draft_tokens(scores, at)
        best, chances = self._ranked(scores, ids, rows)
        own: list[float] = chances.gather(1, chosen[:, None])[:, 0].tolist() if len(chances) else []
        return chosen.tolist(), best, own or [1.0] * len(ids), q

    def _ranked(
        self, scores: Tensor, ids: Sequence[list[int]], rows: Sequence[Row]
    ) -> tuple[list[Ranked], Tensor]:
        """Nothing where nobody will ask."""
        if not self._plan.candidates:
            return [[] for _ in ids], scores[:0]
        at = [Place(row.request.seed, len(one)) for row, one in zip(rows, ids, strict=True)]
        return ranked(scores, at, self._sampler, self._plan.candidates + 1)

    def _scores(self, logits: Tensor, ids: Sequence[list[int]]) -> Tensor:
        logits = widen(logits, self._lm.kept, self._vocab_size)
        return self._sampler.law.scores(logits[:, None], ids, [[] for _ in ids])[:, 0]


def _own(starts: Sequence[int], columns: int, width: int) -> Tensor:
    """`[n, columns, width]`: each column's own slot."""
    slots = torch.tensor(starts)[:, None] + torch.arange(columns)
    return torch.nn.functional.one_hot(slots, width).bool()


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
