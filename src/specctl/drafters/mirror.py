"""Mirror-SD: while the target verifies a draft, the next one is written for every verdict that is likely.

The target stops half-way and is read out. What that says of the verdict, and the draft model's own second choices,
are the verdicts to prepare for. If the real one is among them its continuation is the next draft, and drafting has
cost nothing; if not, drafting goes on as with a draft model. Source: Mirror Speculative Decoding, reconstructed
(docs/methods/mirror.md).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from specctl.decode.draft import Ahead, Draft, Key, Midway, Parts, Row, Scored
from specctl.decode.noise import Place
from specctl.decode.sampling import Sampler
from specctl.errors import RequestError
from specctl.mirror.branches import Branch, Plan
from specctl.mirror.outcomes import Guess, ranked
from specctl.mirror.sites import InProcess, InThread, InTurn, Met, Site
from specctl.mirror.writer import Writer
from specctl.models.cache import SlotCache
from specctl.profile.drafters import MirrorParams


class Mirror:
    """Drafts ahead; a draft that was made ahead is the one that would have been made now.

    Draws are keyed by position, so a branch holds one rollout from q given its key, made without regard to the
    verification's numbers, with its q: accepting it leaves the target's law as it is.
    """

    needs: frozenset[int] = frozenset()

    def __init__(self, params: MirrorParams, parts: Parts) -> None:
        assert parts.draft is not None
        self._params, self._target, self._sampler = params, parts.target, parts.sampler
        depth = _depth(params, parts)
        self._trust = params.trust if depth < parts.target.n_layers else 1.0
        plan = Plan(params.candidates, params.branches, params.draft_tokens, self._trust)
        self._writer = Writer(parts.draft, parts.target.vocab_size, _sampler(params, parts), parts.eos, plan)
        self._site = _site(params, parts, self._writer, plan)
        self._headless = SlotCache(0)  # positions for the read-out, which has no layers
        self._next: list[Branch | None] = []  # a slot's draft, if it was made ahead
        self._drafts: list[Branch] = []
        self._budget: list[int] = []
        self._starts: list[int] = []
        self._ahead = Ahead([], [], (0.0, 0.0), 0.0, 0.0, self._site.overlaps)
        self.midway = Midway(depth, self._look, lambda: self._ahead) if params.candidates else None

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self._next.append(None)
        self._headless.admit()
        self._site.begin(row)

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        room = [self._writer.room(row, most) for row, most in zip(rows, budget, strict=True)]
        made = [
            one if one is not None and len(one.tokens) <= most else None
            for one, most in zip(self._next, room, strict=False)
        ]
        missing = [0 if one is not None else most for one, most in zip(made, room, strict=True)]
        written = self._site.write(rows, missing)
        self._drafts = [one or new for one, new in zip(made, written, strict=True)]
        self._next[: len(rows)] = [None] * len(rows)
        self._budget, self._starts = list(budget), [len(row.ids) for row in rows]
        return Draft([one.tokens for one in self._drafts], self._laws())

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        if self.midway is None:
            return
        verdicts = [
            self._verdict(slot, row, n) for slot, (row, n) in enumerate(zip(rows, accepted, strict=True))
        ]
        met = self._site.meet(rows, verdicts)
        self._next[: len(rows)] = met.branches
        self._ahead = self._account(met, verdicts, scored)

    def swap(self, one: int, other: int) -> None:
        self._next[one], self._next[other] = self._next[other], self._next[one]
        self._site.swap(one, other)

    def drop(self, slot: int) -> None:
        self._next[slot] = self._next[-1]
        self._next.pop()
        self._headless.release(slot)
        self._site.drop(slot)

    def _look(self, rows: Sequence[Row], hidden: Tensor) -> None:
        """The first meeting: the target's states `[n, k + 1, H]` half-way are read out, if anybody listens."""
        exits = self._exits(rows, hidden) if self._trust else [Guess([], []) for _ in rows]
        self._site.start(rows, self._drafts, exits, self._budget)

    def _exits(self, rows: Sequence[Row], hidden: Tensor) -> list[Guess]:
        """What they say of each slot."""
        n, slots, _ = hidden.shape
        batch = range(n)
        logits = self._target.segment(self._headless, hidden, batch, self._target.n_layers, None)
        drafts = [one.tokens for one in self._drafts]
        scores = self._sampler.law.scores(logits, [row.ids for row in rows], drafts)
        at = [Place(row.request.seed, len(row.ids) + slot) for row in rows for slot in range(slots)]
        best, chances = ranked(scores.flatten(0, 1), at, self._sampler, self._params.candidates + 1)
        exits = []
        for b, tokens in enumerate(drafts):
            first = b * slots
            own = chances[first : first + len(tokens)]
            drafted = own.gather(1, torch.tensor(tokens, device=own.device, dtype=torch.long)[:, None])
            exits.append(Guess(best[first : first + len(tokens) + 1], drafted[:, 0].tolist()))
        return exits

    def _verdict(self, slot: int, row: Row, accepted: int) -> Key | None:
        """None if the answer was cut: then the row is done."""
        whole = len(row.ids) == self._starts[slot] + accepted + 1
        return (accepted, row.ids[-1]) if whole else None

    def _account(self, met: Met, verdicts: Sequence[Key | None], scored: Scored) -> Ahead:
        """A round counts as hit or miss if it had a draft and another one follows."""
        hits: list[bool | None] = []
        for slot, verdict in enumerate(verdicts):
            left = 0 if verdict is None else self._budget[slot] - verdict[0] - 1
            asked = left > 0 and bool(self._drafts[slot].tokens)
            hits.append(met.branches[slot] is not None if asked else None)
        return Ahead(
            met.keys, hits, scored.halves, met.spent_s, met.waited_s, self._site.overlaps, met.failed
        )

    def _laws(self) -> Tensor | None:
        """The drafts' laws `[n, k, vocab]`, as long as the longest."""
        known = [one.q for one in self._drafts if one.q is not None]
        if not known:
            return None
        longest = max(map(len, known))
        laws = known[0].new_zeros(len(self._drafts), longest, known[0].shape[1])
        for slot, one in enumerate(self._drafts):
            if one.q is not None:
                laws[slot, : len(one.q)] = one.q
        return laws.to(self._target.device)


def _depth(params: MirrorParams, parts: Parts) -> int:
    """The layers before the exit. Raises RequestError."""
    most = parts.target.n_layers
    depth = params.exit or max(most // 2, 1)
    if depth > most:
        raise RequestError(
            f"exit layer {depth} is not inside `{parts.target.name}`",
            hint=f"it has {most} layers: choose 1 to {most}",
        )
    return depth


def _site(params: MirrorParams, parts: Parts, writer: Writer, plan: Plan) -> Site:
    if params.overlap == "worker" and parts.worker is not None:
        settings = (parts.sampler.law, parts.sampler.coupled, parts.eos, plan)
        return InProcess(parts.worker, writer, settings, params.patience)
    return InThread(writer) if params.overlap == "thread" else InTurn(writer)


def _sampler(params: MirrorParams, parts: Parts) -> Sampler:
    """A thread draws with a generator of its own; the numbers are the same, since they are keyed."""
    mine = parts.sampler
    return Sampler.keyed(mine.law, coupled=mine.coupled) if params.overlap == "thread" else mine
