"""A model without weights: its next token is a hash of what it sees, and it checks that it sees the right tokens.

Cache, window, masks and positions are the real ones; keys hold (token, position). On every read it is asserted that
a query sees exactly its row's tokens, each at its place. So a fault of alignment is found where it happens.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from specctl.decode.draft import Draft, Request, Row, Scored
from specctl.decode.target import Target
from specctl.models import lm as lm_module
from specctl.models.cache import SlotCache

VOCAB = 11
CONTEXT = 96


def next_token(prefix: Sequence[int]) -> int:
    return hash(tuple(prefix)) % VOCAB


def oracle(request: Request, eos: frozenset[int]) -> tuple[list[int], str]:
    """What decoding one token at a time says, and why it ends."""
    ids = list(request.prompt)
    while True:
        ids.append(next_token(ids))
        n = len(ids) - len(request.prompt)
        if ids[-1] in eos:
            return ids[-n:], "stop"
        if n == request.max_new_tokens:
            return ids[-n:], "length"
        if len(ids) == CONTEXT:
            return ids[-n:], "context"


class SymbolicLM:
    """Stands in for `models.lm.LM`; `expected` is what each row holds once the forward has written."""

    name = "symbolic"
    dtype = torch.float64
    context_length = CONTEXT

    def __init__(self, row_floor: int = 1) -> None:
        self.row_floor = row_floor
        self.expected: list[list[int]] = []
        self.padded_reads = 0

    def columns(self, n: int, q: int) -> int:
        return max(q, self.row_floor)

    def new_cache(self) -> SlotCache:
        return SlotCache(1)

    def prefill(self, cache: SlotCache, row: int, ids: Sequence[int]) -> None:
        keys = cache.layers[0].keys
        read = [] if keys is None else [int(token) for token in keys[row, 0, : cache.lengths[row], 0]]
        for start in range(0, len(ids), 16):
            chunk = ids[start : start + 16]
            self.expected = [[*read, *ids[: start + len(chunk)]]]
            self.forward(cache, [chunk], range(row, row + 1))
            cache.commit(row, len(chunk))

    def forward(self, cache: SlotCache, tokens: Sequence[Sequence[int]], rows: range) -> Tensor:
        q = len(tokens[0])
        missing = self.columns(len(tokens), q) - q
        window = cache.open_window(rows, q + missing)
        config = SimpleNamespace()
        positions, mask = lm_module.geometry(config, window, self.dtype, torch.device("cpu"))
        assert isinstance(mask, Tensor)
        columns = torch.tensor([[*row, *[0] * missing] for row in tokens], dtype=torch.float64)
        states = torch.stack([columns, positions.double()], dim=-1)[:, None]
        keys, values = cache.layers[0].update(states, states)
        assert torch.equal(keys, values), "keys and values were not moved together"
        self.padded_reads += any(window.pads)
        logits = torch.zeros(len(tokens), q, VOCAB, dtype=torch.float64)
        for b, (held, visible) in enumerate(
            zip(keys[:, 0].tolist(), (mask[:, 0] == 0).tolist(), strict=True)
        ):
            known = self.expected[b]
            for column in range(q):
                seen = [tuple(entry) for entry, shown in zip(held, visible[column], strict=True) if shown]
                end = len(known) - q + column + 1
                # A shorter draft is filled up; what is computed there is never read.
                if end <= len(known):
                    assert [at for _, at in seen] == list(range(end)), "positions are not consecutive"
                    assert [token for token, _ in seen] == known[:end], "not the tokens of this row"
                logits[b, column, next_token([int(token) for token, _ in seen])] = 1
        return logits


class SymbolicTarget(Target):
    """Tells the model what each row must see."""

    lm: Any

    def score(self, rows: Sequence[Row], draft: Draft) -> Scored:
        width = draft.longest
        self.lm.expected = [row.ids + tokens for row, tokens in zip(rows, draft.padded(width), strict=True)]
        return super().score(rows, draft)


class Guesser:
    """Drafts what the model will say, wrong now and then; asserts that each row stands in the slot it believes."""

    needs: frozenset[int] = frozenset()

    def __init__(self, lengths: Sequence[int], right: float) -> None:
        self._lengths, self._right = lengths, right
        self._slots: list[int] = []

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self._slots.append(row.index)

    def draft(self, rows: Sequence[Row], budget: Sequence[int]) -> Draft:
        assert [row.index for row in rows] == self._slots[: len(rows)], "slots and rows have come apart"
        return Draft([self._one(row, room) for row, room in zip(rows, budget, strict=True)])

    def _one(self, row: Row, room: int) -> list[int]:
        most = min(room, self._lengths[(row.index + len(row.ids)) % len(self._lengths)])
        tokens: list[int] = []
        while len(tokens) < most:
            known = [*row.ids, *tokens]
            chance = hash((row.index, len(known))) % 1000 / 1000
            tokens.append((next_token(known) + (chance >= self._right)) % VOCAB)
        return tokens

    def observe(self, rows: Sequence[Row], scored: Scored, accepted: Sequence[int]) -> None:
        assert [row.index for row in rows] == self._slots[: len(rows)]

    def swap(self, one: int, other: int) -> None:
        self._slots[one], self._slots[other] = self._slots[other], self._slots[one]

    def drop(self, slot: int) -> None:
        self._slots[slot] = self._slots[-1]
        self._slots.pop()
