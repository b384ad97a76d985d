"""A draft model that writes drafts, and continuations of them for several verdicts at once.

All continuations of a row are one tree in its slots of the cache: they share the prefix, and each sees its own
branch only (`models/lm.py:Tree`). The branch of the verdict that comes is moved to where a draft would stand. A
draft with streams says several tokens a forward, in drafts and branches alike, so both stay the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from specctl.decode.draft import Key, Row
from specctl.decode.noise import Place
from specctl.decode.sampling import Sampler
from specctl.mirror.branches import Branch, Plan, Twig
from specctl.mirror.outcomes import Guess, Ranked, choose, ranked
from specctl.models.lm import LM, Tree
from specctl.models.trimmed import widen

_CATCH_UP = 8
"""Committed tokens the draft lacks are fed with a round's first step; more than these are prefilled apart."""


class Writer:
    """Drafts with a model and slot cache of its own, for rows it is told of whole.

    Invariant: slots `0 … len(held) - 1` of a row's cache hold the tokens `held`, of which a prefix is committed to
    the answer. Nothing that is verified is ever told: what differs from a row's ids is cut off when they come.
    """

    def __init__(self, lm: LM, vocab_size: int, sampler: Sampler, eos: frozenset[int], plan: Plan) -> None:
        # Without a reader: a branch has to be, to the bit, what is drafted when its turn has come.
        self._lm = replace(lm, reader=None)
        self._vocab_size, self._sampler, self._eos, self._plan = vocab_size, sampler, eos, plan
        self._cache = lm.new_cache()
        self._held: list[list[int]] = []
        self._twigs: list[list[Twig]] = []

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
        twigs = [
            Twig((0, 0), list(row.ids), most, open=most > 0) for row, most in zip(rows, room, strict=True)
        ]
        if any(room):
            self._say(twigs, rows, *self._catch_up(rows, [most > 0 for most in room]))
        fed = [len(row.ids) for row in rows]
        while any(twig.open for twig in twigs):
            columns = [twig.whole[n:] for twig, n in zip(twigs, fed, strict=True)]
            fed = [n + len(new) if twig.open else n for twig, new, n in zip(twigs, columns, fed, strict=True)]
            self._say(twigs, rows, *self._feed(columns, [twig.open for twig in twigs]))
        return [twig.done() for twig in twigs]

    def branch(
        self, rows: Sequence[Row], drafts: Sequence[Branch], exits: Sequence[Guess], budget: Sequence[int]
    ) -> None:
        """Go on from each row's draft, for the verdicts that are likely; `budget` is that of the draft's round."""
        own = self._complete(rows, drafts)
        self._twigs = [self._keys(*one) for one in zip(rows, drafts, exits, own, budget, strict=True)]
        width = max(map(len, self._twigs), default=0)
        if width:
            self._grow(rows, width)

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

    def _adopt(self, slot: int, twig: Twig) -> Branch:
        start = len(twig.ids) - 1
        self._cache.gather(slot, twig.slots, start)
        self._held[slot] = twig.whole[: start + len(twig.slots)]
        return twig.done()

    def _complete(self, rows: Sequence[Row], drafts: Sequence[Branch]) -> list[Guess]:
        """Read each draft's last token too: what the draft says behind it is its guess at the target's token."""
        live = [bool(draft.tokens) for draft in drafts]
        if not any(live):
            return [draft.guess for draft in drafts]
        ids = [row.ids + draft.tokens for row, draft in zip(rows, drafts, strict=True)]
        whole = [replace(row, ids=one) for row, one in zip(rows, ids, strict=True)]
        logits, _ = self._catch_up(whole, live)
        logits = widen(logits, self._lm.kept, self._vocab_size)
        best = self._ranked(self._scores(logits, ids), ids, rows)[0]
        return [
            Guess([*draft.guess.slots, one], draft.guess.drafted) if draft.tokens else draft.guess
            for draft, one in zip(drafts, best, strict=True)
        ]

    def _keys(self, row: Row, draft: Branch, exit_: Guess, own: Guess, budget: int) -> list[Twig]:
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
                twigs.append(Twig(key, ids, room))
        return twigs

    def _grow(self, rows: Sequence[Row], width: int) -> None:
        """Write all branches, at most `width` a row: each forward takes what they have not read, side by side."""
        flat = [(b, c, twig) for b, twigs in enumerate(self._twigs) for c, twig in enumerate(twigs)]
        asking = [rows[b] for b, _, _ in flat]
        fed = 0
        while going := [twig for _, _, twig in flat if twig.open]:
            run = len(going[0].unread)  # of all that are open the same
            columns = max(width * run, self._lm.row_floor)
            tokens, tree = self._next(columns, fed)
            logits, states = self._forward(tokens, fed, tree)
            at = [b for b, _, _ in flat], [(c + 1) * run - 1 for _, c, _ in flat]
            self._say(
                [twig for _, _, twig in flat], asking, logits[at], None if states is None else states[at]
            )
            fed += columns

    def _next(self, columns: int, fed: int) -> tuple[list[list[int]], Tree]:
        """What each branch has not read, and who sees what; columns without a branch see the first slot only."""
        starts = [len(held) + fed for held in self._held[: len(self._twigs)]]
        width = max(starts) + columns
        places = torch.arange(width).repeat(len(starts), 1)
        sight = torch.zeros(len(starts), columns, width, dtype=torch.bool)
        sight[:, :, 0] = True
        tokens = [[0] * columns for _ in starts]
        for b, twigs in enumerate(self._twigs):
            for c, twig in enumerate(twigs):
                new = twig.unread if twig.open else []
                prefix = len(twig.ids) - 1
                for column, token in enumerate(new, start=c * len(new)):
                    tokens[b][column] = self._known(token)
                    twig.slots.append(starts[b] + column)
                    sight[b, column, :prefix] = True
                    sight[b, column, twig.slots] = True
                places[b, twig.slots] = torch.arange(prefix, prefix + len(twig.slots))
        sight[:, range(columns), :] |= _own(starts, columns, width)
        return tokens, Tree(places.to(self._lm.device), sight.to(self._lm.device))

    def _forward(
        self, tokens: list[list[int]], offset: int = 0, tree: Tree | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Logits `[n, q, vocab]`; for streams also the states `[n, q, H]` they come from."""
        rows = range(len(tokens))
        if self._lm.streams is None:
            return self._lm.forward(self._cache, tokens, rows, offset=offset, tree=tree), None
        return self._lm.forward_states(self._cache, tokens, rows, offset=offset, tree=tree)

    def _say(self, twigs: Sequence[Twig], rows: Sequence[Row], logits: Tensor, states: Tensor | None) -> None:
        """Go on with the open ones, from the logits `[n, vocab]` of a forward and the states `[n, H]` behind them:
        a token, and one more for each stream."""
        streams = self._lm.streams
        logits = widen(logits, self._lm.kept, self._vocab_size)
        for number in range(1 if streams is None else 1 + len(streams)):
            if streams is not None and states is not None and number:
                newest = [self._known(twig.whole[-1]) for twig in twigs]
                states, logits = streams.follow(number - 1, states, newest)
                logits = widen(logits, streams.kept, self._vocab_size)
            drawn, best, chances, q = self._draw(logits, [twig.whole for twig in twigs], rows)
            for at, twig in enumerate(twigs):
                if twig.open:
                    twig.add(drawn[at], best[at], chances[at], None if q is None else q[at], self._eos)
            if not any(twig.open for twig in twigs):
                return

    def _catch_up(self, rows: Sequence[Row], active: Sequence[bool]) -> tuple[Tensor, Tensor | None]:
        """Feed each row the tokens it lacks; logits `[n, vocab]` and states `[n, H]` behind its last one."""
        missing = []
        for slot, row in enumerate(rows):
            if active[slot]:
                known = _common_prefix(self._held[slot], row.ids[:-1])
                self._cache.truncate(slot, known)
                del self._held[slot][known:]
                if len(row.ids) - known > _CATCH_UP:
                    self._read(slot, row.ids[known:-1])
            missing.append(row.ids[len(self._held[slot]) :] if active[slot] else row.ids[-1:])
        return self._feed(missing, active)

    def _feed(self, tokens: Sequence[Sequence[int]], active: Sequence[bool]) -> tuple[Tensor, Tensor | None]:
        """Go on by these tokens in the active rows; logits and states as `_catch_up`."""
        width = max(map(len, tokens))
        columns = [[*map(self._known, some), *[0] * (width - len(some))] for some in tokens]
        logits, states = self._forward(columns)
        for slot, some in enumerate(tokens):
            if active[slot]:
                self._hold(slot, some)
        last = list(range(len(tokens))), [len(some) - 1 for some in tokens]
        return logits[last], None if states is None else states[last]

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
        return self._sampler.law.scores(logits[:, None], ids, [[] for _ in ids])[:, 0]


def _own(starts: Sequence[int], columns: int, width: int) -> Tensor:
    """`[n, columns, width]`: each column's own slot."""
    slots = torch.tensor(starts)[:, None] + torch.arange(columns)
    return torch.nn.functional.one_hot(slots, width).bool()


def _common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
