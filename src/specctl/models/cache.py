"""The slot cache: keys and values of a batch whose rows have lengths of their own.

Every layer holds one preallocated `[slots, n_kv, capacity, d]` tensor. A forward writes row b's q new keys at
slots `start[b] … start[b] + q - 1` and the mask lets a query see only slots up to its own position. What is
committed is a number per row, so taking back rejected tokens costs nothing: their slots are overwritten. Rows
need never be realigned. The published batch schedules do realign; for them a row may be left-padded.

Invariant: token i of a row is in slot `pads[row] + i`, for exactly its `lengths[row]` committed tokens; what lies
above is junk that no later forward can see, even if it is not finite (see `Window` and `_clear_stale`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_GROW_BY = 256
_READ_BY = 32
"""Slots are read in steps of so many: a matrix kernel is made for each new shape, which costs some 3 % of a small
model's forward if every forward is one slot wider than the last."""


@dataclass(frozen=True, slots=True)
class Window:
    """Where one forward writes and what it reads: rows [first, last), q new tokens from positions `starts` on.

    Position i of a row is slot `pads[row] + i`, unless this is no `chain` (`models/lm.py:Tree`). Slots are read in
    steps of `step`.
    """

    first: int
    last: int
    starts: tuple[int, ...]
    q: int
    pads: tuple[int, ...]
    chain: bool = True
    step: int = 1

    @property
    def slots(self) -> list[int]:
        """The first slot each row writes."""
        return [start + pad for start, pad in zip(self.starts, self.pads, strict=True)]

    @property
    def width(self) -> int:
        """Slots the forward reads, counted from 0: up to the end of the widest row, in whole steps."""
        return _whole_steps(max(self.slots) + self.q, self.step)

    @property
    def common_start(self) -> int | None:
        slots = self.slots
        return slots[0] if len(set(slots)) == 1 else None

    @property
    def sees_all(self) -> bool:
        """Whether a single token a row sees every slot that is read: nothing is padded, and no row is longer."""
        return self.q == 1 and self.chain and self.common_start is not None and not any(self.pads)


class SlotLayer(CacheLayerMixin):
    """One layer's slots. Allocated at the first write, when heads, size and dtype are known."""

    is_sliding = False

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        slots, capacity = self._cache.slots, self._cache.capacity
        self.keys = _zeros(key_states, slots, capacity)
        self.values = _zeros(value_states, slots, capacity)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Write `[n, n_kv, q, d]` and return what the n rows may read, `[n, n_kv, width, d]` each."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None
        assert self.values is not None
        window = self._cache.window
        rows = slice(window.first, window.last)
        start = window.common_start
        if start is not None:
            self.keys[rows, :, start : start + window.q] = key_states
            self.values[rows, :, start : start + window.q] = value_states
        else:
            row, slot = self._cache.write_index(key_states.device)
            self.keys[row, :, slot] = key_states.transpose(1, 2)
            self.values[row, :, slot] = value_states.transpose(1, 2)
        return self.keys[rows, :, : window.width], self.values[rows, :, : window.width]

    def tensors(self) -> tuple[Tensor, ...]:
        """Keys and values, `[slots, n_kv, capacity, d]` each; nothing before the first write."""
        return () if self.keys is None or self.values is None else (self.keys, self.values)

    def resize(self, slots: int, capacity: int) -> None:
        """Copies what fits. One tensor at a time, so that little memory is held twice."""
        if self.keys is not None:
            self.keys = _resized(self.keys, slots, capacity)
        if self.values is not None:
            self.values = _resized(self.values, slots, capacity)

    def shift(self, old: Sequence[int], new: Sequence[int], width: int) -> None:
        """Move the first rows from padding `old` to `new`, `width` slots in all; the padding becomes zeros."""
        for tensor in self.tensors():
            rows = torch.arange(len(new), device=tensor.device)[:, None]
            slots = torch.arange(width, device=tensor.device)
            start, moved = (torch.tensor(pads, device=tensor.device)[:, None] for pads in (new, old))
            source = (slots - start + moved).clamp(min=0)
            gathered = tensor[rows, :, source]
            gathered.masked_fill_((slots < start)[:, :, None, None], 0)
            tensor[: len(new), :, :width] = gathered.transpose(1, 2)

    # Masks and positions are passed explicitly, so transformers asks for none of these; the base class wants them.
    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.window.width, 0

    def get_seq_length(self) -> int:
        return max(self._cache.lengths, default=0)

    def get_max_length(self) -> int:
        return -1


def _zeros(like: Tensor, slots: int, capacity: int) -> Tensor:
    """Zeros, not empty: a masked slot is multiplied by zero, and 0 * NaN is NaN.

    Forwards are in inference mode, and what is made in it could not be written to outside of it.
    """
    with torch.inference_mode(mode=False):
        return like.new_zeros(slots, like.shape[1], capacity, like.shape[3])


def _resized(old: Tensor, slots: int, capacity: int) -> Tensor:
    new = _zeros(old, slots, capacity)
    slots, capacity = min(slots, old.shape[0]), min(capacity, old.shape[2])
    new[:slots, :, :capacity] = old[:slots, :, :capacity]
    return new


def _whole_steps(capacity: int, step: int) -> int:
    return -(-capacity // step) * step


class SlotCache(Cache):
    """A `transformers.Cache` over slots; one object serves all layers, whole models and sub-network views.

    `lengths[row]` counts the committed tokens of the rows in use, which are always slots `0 … len(lengths) - 1`;
    `pads[row]` slots stand empty before them, none unless `align` was called.
    """

    def __init__(self, n_layers: int) -> None:
        self.lengths: list[int] = []
        self.pads: list[int] = []
        self.slots = 0
        self.capacity = 0
        self.window = Window(0, 0, (0,), 0, (0,))
        self._dirty: list[int] = []  # per slot: end of what was ever written there
        self._index: tuple[Tensor, Tensor] | None = None
        super().__init__(layers=[SlotLayer(self) for _ in range(n_layers)])

    @property
    def slot_layers(self) -> list[SlotLayer]:
        return [layer for layer in self.layers if isinstance(layer, SlotLayer)]

    def reserve(self, slots: int, capacity: int) -> None:
        """Make room for `slots` rows of `capacity` tokens, before the first write rather than by copying."""
        capacity = _whole_steps(capacity, _READ_BY)
        if slots > self.slots or capacity > self.capacity:
            self.slots, self.capacity = max(slots, self.slots), max(capacity, self.capacity)
            self._dirty += [0] * (self.slots - len(self._dirty))
            for layer in self.slot_layers:
                layer.resize(self.slots, self.capacity)

    @property
    def widths(self) -> list[int]:
        """Slots each row takes, its padding included."""
        return [pad + length for pad, length in zip(self.pads, self.lengths, strict=True)]

    def shrink(self, capacity: int) -> None:
        """Give room back when the rows in use, and `capacity`, need less than half of what there is.

        Whole steps only: else the next forward a little wider than planned would take it again.
        """
        needed = _whole_steps(max([capacity, *self.widths]), _GROW_BY)
        if 2 * needed < self.capacity:
            self.capacity = needed
            self._dirty = [min(end, needed) for end in self._dirty]
            for layer in self.slot_layers:
                layer.resize(self.slots, needed)

    def admit(self) -> int:
        """Open one more row, empty; returns its number."""
        self.lengths.append(0)
        self.pads.append(0)
        self.reserve(len(self.lengths), 0)
        return len(self.lengths) - 1

    def adopt(self, other: SlotCache) -> int:
        """Open one more row that holds what the only row of `other` does; returns its number. Both are in use."""
        row, length = self.admit(), other.lengths[0]
        self.reserve(self.slots, length)
        for mine, theirs in zip(self.slot_layers, other.slot_layers, strict=True):
            for tensor, source in zip(mine.tensors(), theirs.tensors(), strict=True):
                tensor[row, :, :length] = source[0, :, :length]
        self.lengths[row] = length
        self._dirty[row] = max(self._dirty[row], length)
        return row

    def release(self, row: int) -> None:
        """Close a row. The last row moves into its place, so that rows in use stay dense."""
        last = len(self.lengths) - 1
        if row != last:
            end = self.widths[last]
            for layer in self.slot_layers:
                for tensor in layer.tensors():
                    tensor[row, :, :end] = tensor[last, :, :end]
            self.lengths[row], self.pads[row] = self.lengths[last], self.pads[last]
            self._dirty[row] = max(self._dirty[row], end)
        self.lengths.pop()
        self.pads.pop()

    def clear(self) -> None:
        """Close all rows. What was written stays, for a row that `commit`s it again."""
        self.lengths.clear()
        self.pads.clear()

    def swap(self, one: int, other: int) -> None:
        """Exchange two rows."""
        end = max(self.widths[one], self.widths[other])
        for layer in self.slot_layers:
            for tensor in layer.tensors():
                kept = tensor[one, :, :end].clone()
                tensor[one, :, :end] = tensor[other, :, :end]
                tensor[other, :, :end] = kept
        for numbers in (self.lengths, self.pads):
            numbers[one], numbers[other] = numbers[other], numbers[one]
        for row in (one, other):
            self._dirty[row] = max(self._dirty[row], end)

    def align(self, n: int) -> bool:
        """Left-pad the first n rows so that all end in one column; whether anything had to move.

        Keys carry the rotation of their true positions, so they can be moved (arXiv:2510.22876).
        """
        width, lengths = max(self.lengths[:n]), self.lengths[:n]
        if len(set(self.widths[:n])) == 1:
            return False
        pads = [width - length for length in lengths]
        for layer in self.slot_layers:
            layer.shift(self.pads[:n], pads, width)
        self.pads[:n] = pads
        self._dirty[:n] = [max(end, width) for end in self._dirty[:n]]
        return True

    def commit(self, row: int, n: int) -> None:
        """Keep the first n slots written above the row's length; the others become junk."""
        self.lengths[row] += n

    def truncate(self, row: int, length: int) -> None:
        """Take committed tokens back, down to `length`."""
        self.lengths[row] = min(self.lengths[row], length)

    def gather(self, row: int, slots: Sequence[int], at: int) -> None:
        """Copy what is in `slots` of a row to the slots from `at` on, and commit all up to there."""
        end = at + len(slots)
        for layer in self.slot_layers:
            for tensor in layer.tensors():
                tensor[row, :, at:end] = tensor[row][:, list(slots)]
        self.lengths[row] = end

    def open_window(self, rows: range, q: int, offset: int = 0, *, chain: bool = True) -> Window:
        """Prepare the next forward: q new slots for each of `rows`, `offset` above what is committed."""
        starts = tuple(self.lengths[row] + offset for row in rows)
        pads = tuple(self.pads[rows.start : rows.stop])
        # A single token sees all it reads, and a tree's caller says what is seen: exactly what there is, for them.
        step = _READ_BY if chain and q > 1 else 1
        self.window = Window(rows.start, rows.stop, starts, q, pads, chain, step)
        self._index = None
        if self.window.width > self.capacity:
            self.reserve(self.slots, _whole_steps(self.window.width, _GROW_BY))
        self._clear_stale(rows, q, offset)
        return self.window

    def write_index(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and slot numbers of this window's writes, `[n, 1]` and `[n, q]` int64; made once a forward."""
        if self._index is None:
            window = self.window
            row = torch.arange(window.first, window.last, device=device)[:, None]
            start = torch.tensor(window.slots, device=device)[:, None]
            self._index = row, start + torch.arange(window.q, device=device)
        return self._index

    def _clear_stale(self, rows: range, q: int, offset: int) -> None:
        """Zero leftovers of longer, rejected drafts that this window would read masked."""
        for row in rows:
            end = self.pads[row] + self.lengths[row] + offset + q
            if end < self._dirty[row] and end < self.window.width:
                self._zero(row, end, self._dirty[row])
                self._dirty[row] = end
            self._dirty[row] = max(self._dirty[row], end)

    def _zero(self, row: int, start: int, end: int) -> None:
        for layer in self.slot_layers:
            for tensor in layer.tensors():
                tensor[row, :, start:end] = 0
