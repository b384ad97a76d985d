"""The target: prefill, score a draft in one forward, commit what was kept."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from time import perf_counter

import torch
from torch import Tensor

from specctl.decode.draft import Draft, Midway, Row, Scored
from specctl.errors import MachineError
from specctl.models.cache import SlotCache
from specctl.models.lm import LM, PREFILL_CHUNK


@dataclass(frozen=True, slots=True)
class Kept:
    """A cache that outlives its answer: slot i of row 0 holds `ids[i]`, for all of them but the last."""

    cache: SlotCache
    ids: list[int]


@dataclass(slots=True)
class Reading:
    """A prompt on its way into a row of a cache. `left`: tokens to come; `parts`: the hidden states asked for."""

    cache: SlotCache
    row: int
    left: Sequence[int]
    parts: dict[int, list[Tensor]] = field(default_factory=dict)

    @property
    def hidden(self) -> dict[int, Tensor]:
        return {depth: torch.cat(states, dim=1) for depth, states in self.parts.items()}


class Target:
    """An `LM` with the slot cache of the rows being decoded.

    Invariant between rounds: a row's cache holds all its committed tokens but the last, which opens the next
    forward. So a prompt's first token is speculated on like any other.
    """

    def __init__(
        self,
        lm: LM,
        *,
        slots: int,
        capacity: int,
        captures: frozenset[int] = frozenset(),
        kept: Kept | None = None,
    ) -> None:
        self.lm = lm
        self.cache = kept.cache if kept else lm.new_cache()
        self.cache.clear()
        self.cache.reserve(slots, capacity + lm.columns(1, 1))
        self._captures = sorted(captures)
        self._known = kept.ids[:-1] if kept else []
        self._midway: Midway | None = None

    def stop_midway(self, midway: Midway) -> None:
        """Call a drafter half-way through each `score` from now on."""
        self._midway = midway

    def admit(self, prompt: Sequence[int]) -> dict[int, Tensor]:
        """Take in a prompt as the last row; returns the hidden states asked for, `[1, len(prompt) - 1, H]`.

        What a kept cache holds of the first prompt is not computed again, unless its states are asked for.
        """
        row = self.cache.admit()
        context = prompt[:-1]
        known, self._known = self._known, []
        if not self._captures:
            shared = common_prefix(known, context)
            self.cache.commit(row, shared)
            self.lm.prefill(self.cache, row, context[shared:])
            return {}
        reading = Reading(self.cache, row, context)
        while reading.left:
            self.read(reading)
        return reading.hidden

    def begin(self, prompt: Sequence[int]) -> Reading:
        """Start on a prompt in a cache of its own, to be `read` and then to `join`."""
        aside = self.lm.new_cache()
        aside.reserve(1, len(prompt) + self.lm.columns(1, 1))
        return Reading(aside, aside.admit(), prompt[:-1])

    def read(self, reading: Reading) -> None:
        """The next chunk of it."""
        chunk, reading.left = reading.left[:PREFILL_CHUNK], reading.left[PREFILL_CHUNK:]
        if not self._captures:
            self.lm.prefill(reading.cache, reading.row, chunk)
            return
        only_row = range(reading.row, reading.row + 1)
        scored = self._capturing(reading.cache, only_row, [list(chunk)])
        reading.cache.commit(reading.row, len(chunk))
        for depth, states in scored.hidden.items():
            reading.parts.setdefault(depth, []).append(states)

    def join(self, reading: Reading) -> dict[int, Tensor]:
        """As `admit`, for a prompt some of which has been read already."""
        while reading.left:
            self.read(reading)
        self.cache.adopt(reading.cache)
        return reading.hidden

    def fit(self, rows: Sequence[Row]) -> None:
        """Give room back that none of these rows can need; more is taken when it is needed."""
        longest = max(len(row.request.prompt) + row.request.max_new_tokens for row in rows)
        self.cache.shrink(min(longest, self.lm.context_length) + self.lm.columns(1, 1) + 1)

    def score(self, rows: Sequence[Row], draft: Draft) -> Scored:
        """One forward over each row's last committed token and its draft.

        Logits `[n, k + 1, vocab]`: slot i judges draft token i. Nothing is committed. Raises MachineError when
        the logits are not numbers.
        """
        k = draft.longest
        batch = range(len(rows))
        tokens = [[row.ids[-1], *drafted] for row, drafted in zip(rows, draft.padded(k), strict=True)]
        if draft.hidden is not None:
            logits = self.lm.segment(self.cache, draft.hidden, batch, draft.depth, None)
            scored = Scored(logits, {draft.depth: draft.hidden})
        elif self._midway is not None:
            scored = self._interrupted(rows, tokens, self._midway)
        elif self._captures:
            scored = self._capturing(self.cache, batch, tokens)
        else:
            scored = Scored(self.lm.forward(self.cache, tokens, batch))
        if not bool(torch.isfinite(scored.logits.amax(dim=-1)).all()):
            raise MachineError(
                f"`{self.lm.name}` computed logits that are not numbers in {self.lm.dtype}",
                hint="try `--dtype float32`; if that fails too, pull the model again",
            )
        return scored

    def commit(self, slot: int, n: int) -> None:
        """Keep the forward's first n positions: the last committed token and n - 1 drafted ones."""
        self.cache.commit(slot, n)

    def release(self, slot: int) -> None:
        self.cache.release(slot)

    @property
    def widths(self) -> list[int]:
        """Columns of each row in the caches, padding included."""
        return self.cache.widths

    def swap(self, one: int, other: int) -> None:
        self.cache.swap(one, other)

    def align(self, n: int) -> bool:
        """Give the first n rows one width; whether anything had to move."""
        return self.cache.align(n)

    def _capturing(self, cache: SlotCache, batch: range, tokens: list[list[int]]) -> Scored:
        """The whole model in pieces, keeping the states between them; equal bits, measured and tested."""
        states: list[list[int]] | Tensor = tokens
        hidden: dict[int, Tensor] = {}
        start = 0
        for depth in self._captures:
            states = hidden[depth] = self.lm.segment(cache, states, batch, start, depth)
            start = depth
        return Scored(self.lm.segment(cache, states, batch, start, None), hidden)

    def _interrupted(self, rows: Sequence[Row], tokens: list[list[int]], midway: Midway) -> Scored:
        """The drafter's call between two segments; the time it takes is in neither half."""
        batch = range(len(rows))
        begun = perf_counter()
        states = self.lm.segment(self.cache, tokens, batch, 0, midway.depth)
        _wait_for(states)
        lower = perf_counter() - begun
        midway.call(rows, states)
        begun = perf_counter()
        logits = self.lm.segment(self.cache, states, batch, midway.depth, None)
        _wait_for(logits)
        return Scored(logits, halves=(lower, perf_counter() - begun))


def _wait_for(computed: Tensor) -> None:
    """Accelerators go on by themselves; a clock has to wait for them."""
    if computed.device.type != "cpu":
        torch.accelerator.synchronize()


def common_prefix(a: Sequence[int], b: Sequence[int]) -> int:
    """How many tokens both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
