"""A target that is watched while it decodes: what it saw, what its caches held, and whether rollback is right."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from specctl.decode.draft import Draft, Midway, Row, Scored
from specctl.decode.sampling import Law
from specctl.decode.target import Reading, Target
from specctl.equivalence.drawn import Drawn
from specctl.equivalence.report import Problem, Verdict
from specctl.equivalence.sight import Sight, look
from specctl.models.cache import SlotCache
from specctl.models.lm import LM

Layers = list[tuple[Tensor, ...]]
"""Keys and values of each layer."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The cache as it was before a round: rows `[n, n_kv, capacity, d]` and their lengths.

    The round runs `columns` tokens a row; the layers below `drafted` ran one token after the other, while drafting.
    """

    layers: Layers
    lengths: list[int]
    pads: list[int]
    columns: int
    drafted: int


class Watched:
    """Stands in for a `Target`; the loop sees no difference.

    `audit`: share of rounds rebuilt. Cached states of rows that left are kept in `caches`, by row index. `drawn`
    is given the tokens of a sampled run with their laws. `chances`: each drafted token's probability, a list a
    round, where the run reports it.
    """

    def __init__(
        self,
        target: Target,
        law: Law,
        audit: float,
        drawn: Drawn | None = None,
        *,
        probabilities: bool = False,
    ) -> None:
        self.lm = target.lm
        self.sights: dict[int, list[Sight]] = {}
        self.caches: dict[int, Layers] = {}
        self.problems: dict[int, list[Problem]] = {}
        self.audited: dict[int, int] = {}
        self.chances: dict[int, list[list[float]]] = {}
        self._target = target
        self._law = law
        self._audit = audit
        self._drawn = drawn
        self._probabilities = probabilities
        self._rounds = 0
        self._rows: Sequence[Row] = ()
        self._snapshot: Snapshot | None = None

    def admit(self, prompt: Sequence[int]) -> dict[int, Tensor]:
        self._close_round()
        return self._target.admit(prompt)

    def begin(self, prompt: Sequence[int]) -> Reading:
        return self._target.begin(prompt)

    def read(self, reading: Reading) -> None:
        self._target.read(reading)

    def join(self, reading: Reading) -> dict[int, Tensor]:
        self._close_round()
        return self._target.join(reading)

    def score(self, rows: Sequence[Row], draft: Draft) -> Scored:
        self._close_round()
        self._rows = rows
        self._check_lengths()
        self._rounds += 1
        if chosen(self._rounds, self._audit):
            depth = draft.depth if draft.hidden is not None else 0
            self._snapshot = _copy(self._target.cache, len(rows), draft.longest + 1, depth)
        scored = self._target.score(rows, draft)
        for slot, (row, drafted) in enumerate(zip(rows, draft.tokens, strict=True)):
            seen = self.sights.setdefault(row.index, [])
            del seen[len(row.generated) :]
            used = scored.logits[slot, : len(drafted) + 1]
            scores = self._law.scores(used[None], [row.ids], [drafted])[0]
            seen.extend(look(one, law) for one, law in zip(used, scores, strict=True))
            if self._probabilities:
                self.chances.setdefault(row.index, []).append(_chances(self._law, scores, drafted))
            if self._drawn is not None:
                self._drawn.settle(row)
                self._drawn.scored(row, scores, draft, slot)
        return scored

    def stop_midway(self, midway: Midway) -> None:
        self._target.stop_midway(midway)

    @property
    def cache(self) -> SlotCache:
        return self._target.cache

    @property
    def widths(self) -> list[int]:
        return self._target.widths

    def fit(self, rows: Sequence[Row]) -> None:
        self._close_round()
        self._target.fit(rows)

    def swap(self, one: int, other: int) -> None:
        self._close_round()
        self._target.swap(one, other)

    def align(self, n: int) -> bool:
        self._close_round()
        return self._target.align(n)

    def commit(self, slot: int, n: int) -> None:
        self._target.commit(slot, n)

    def release(self, slot: int) -> None:
        self._close_round()
        row = self._rows[slot]
        self._check_length(slot, row)
        if self._drawn is not None:
            self._drawn.settle(row)
        end = len(row.ids) - 1
        self.caches[row.index] = [
            tuple(tensor.clone() for tensor in tensors) for tensors in _row(self._target.cache, slot, end)
        ]
        self._target.release(slot)

    def _check_lengths(self) -> None:
        for slot, row in enumerate(self._rows):
            self._check_length(slot, row)

    def _check_length(self, slot: int, row: Row) -> None:
        held, expected = self._target.cache.lengths[slot], len(row.ids) - 1
        if held != expected:
            self._report(row, f"the cache holds {held} committed tokens instead of {expected}")

    def _close_round(self) -> None:
        """Compare the round that ended with its rebuilding, if it was chosen for audit."""
        snapshot, self._snapshot = self._snapshot, None
        if snapshot is None:
            return
        live = self._target.cache
        rows = self._rows[: len(snapshot.lengths)]  # one behind them is about to join
        kept = [row.ids[length:-1] for row, length in zip(rows, snapshot.lengths, strict=True)]
        if max(map(len, kept)) > snapshot.columns:
            self._report(rows[0], "a round committed more tokens than it scored")
            return
        rebuilt = _rebuild(self.lm, snapshot, kept)
        for slot, row in enumerate(rows):
            self.audited[row.index] = self.audited.get(row.index, 0) + 1
            end = snapshot.lengths[slot] + len(kept[slot])
            wrong = differing(_row(live, slot, end), _row(rebuilt, slot, end))
            if wrong:
                self._report(row, f"after a round the cache differs from its rebuilding at {wrong}")

    def _report(self, row: Row, what: str) -> None:
        self.problems.setdefault(row.index, []).append(Problem(Verdict.STATE, what))


def _chances(law: Law, scores: Tensor, drafted: Sequence[int]) -> list[float]:
    """Of each drafted token, by what the target saw `[k + 1, vocab]`."""
    found = scores.softmax(dim=-1) if law.greedy else law.probabilities(scores)
    return [float(one[token]) for one, token in zip(found, drafted, strict=False)]


def chosen(number: int, share: float) -> bool:
    """Whether round `number` (from 1) is in a sample of this share: the first is, then evenly."""
    return math.ceil(number * share) > math.ceil((number - 1) * share)


def differing(live: Layers, expected: Layers) -> str | None:
    """Where two rows `[n_kv, length, d]` a layer first differ in any bit: `layer 0 keys, position 7`."""
    for number, (ours, theirs) in enumerate(zip(live, expected, strict=True)):
        for name, one, other in zip(("keys", "values"), ours, theirs, strict=True):
            if one.shape != other.shape:
                return f"layer {number} {name}: {one.shape[1]} positions instead of {other.shape[1]}"
            if not torch.equal(one, other):
                at = int((one != other).any(dim=2).any(dim=0).nonzero()[0])
                return f"layer {number} {name}, position {at}"
    return None


def row_of(cache: SlotCache, end: int) -> Layers:
    """The first row's committed states."""
    return _row(cache, 0, end)


def _row(cache: SlotCache, slot: int, end: int) -> Layers:
    start = cache.pads[slot]
    return [
        tuple(tensor[slot, :, start : start + end] for tensor in layer.tensors())
        for layer in cache.slot_layers
    ]


def _copy(cache: SlotCache, rows: int, columns: int, drafted: int) -> Snapshot:
    layers = [tuple(tensor[:rows].clone() for tensor in layer.tensors()) for layer in cache.slot_layers]
    return Snapshot(layers, cache.lengths[:rows], cache.pads[:rows], columns, drafted)


def _rebuild(lm: LM, snapshot: Snapshot, kept: Sequence[Sequence[int]]) -> SlotCache:
    """The copy, and the committed tokens fed again in the round's own shapes, dummies for rejected drafts."""
    cache = lm.new_cache()
    cache.lengths, cache.pads = list(snapshot.lengths), list(snapshot.pads)
    capacity = max((tensors[0].shape[2] for tensors in snapshot.layers if tensors), default=0)
    cache.reserve(len(kept), capacity)
    for layer, tensors in zip(cache.slot_layers, snapshot.layers, strict=True):
        if tensors:
            layer.keys, layer.values = tensors
            layer.is_initialized = True
    tokens = [[*row, *[0] * (snapshot.columns - len(row))] for row in kept]
    batch = range(len(kept))
    if not snapshot.drafted:
        lm.forward(cache, tokens, batch)
        return cache
    states = [
        lm.segment(cache, [[row[column]] for row in tokens], batch, 0, snapshot.drafted, offset=column)
        for column in range(snapshot.columns)
    ]
    lm.segment(cache, torch.cat(states, dim=1), batch, snapshot.drafted, None)
    return cache
