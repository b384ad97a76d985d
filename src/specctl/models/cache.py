"""The slot cache: keys and values of a batch whose rows have lengths of their own.

Every layer holds one preallocated `[slots, n_kv, capacity, d]` tensor. A forward writes row b's q new keys at
slots `start[b] … start[b] + q - 1` and the mask lets a query see only slots up to its own position. What is
committed is a number per row, so taking back rejected tokens costs nothing: their slots are overwritten. Rows
are never realigned.

Invariant: a row's slots below `lengths[row]` hold exactly its committed tokens; what lies above is junk that no
later forward can see, even if it is not finite (see `Window` and `_clear_stale`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

_GROW_BY = 256


@dataclass(frozen=True, slots=True)
class Window:
    """Where one forward writes and what it reads: rows [first, last), q new slots from `starts` on."""

    first: int
    last: int
    starts: tuple[int, ...]
    q: int

    @property
    def width(self) -> int:
        """Slots the forward reads, counted from 0: up to the end of the longest row."""
        return max(self.starts) + self.q

    @property
    def common_start(self) -> int | None:
        return self.starts[0] if len(set(self.starts)) == 1 else None


class SlotLayer(CacheLayerMixin):
    """One layer's slots. Allocated at the first write, when heads, size and dtype are known."""

    is_sliding = False

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        slots, capacity = self._cache.slots, self._cache.capacity
        # Zeros, not empty: a masked slot is multiplied by zero, and 0 * NaN is NaN.
        self.keys = key_states.new_zeros(slots, key_states.shape[1], capacity, key_states.shape[3])
        self.values = value_states.new_zeros(slots, value_states.shape[1], capacity, value_states.shape[3])
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
        grown = []
        for old in self.tensors():
            new = old.new_zeros(slots, old.shape[1], capacity, old.shape[3])
            new[: old.shape[0], :, : old.shape[2]] = old
            grown.append(new)
        if grown:
            self.keys, self.values = grown

    # Masks and positions are passed explicitly, so transformers asks for none of these; the base class wants them.
    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self._cache.window.width, 0

    def get_seq_length(self) -> int:
        return max(self._cache.lengths, default=0)

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """A `transformers.Cache` over slots; one object serves all layers, whole models and sub-network views.

    `lengths[row]` counts the committed tokens of the rows in use, which are always slots `0 … len(lengths) - 1`.
    """

    def __init__(self, n_layers: int) -> None:
        self.lengths: list[int] = []
        self.slots = 0
        self.capacity = 0
        self.window = Window(0, 0, (0,), 0)
        self._dirty: list[int] = []  # per slot: end of what was ever written there
        self._index: tuple[Tensor, Tensor] | None = None
        super().__init__(layers=[SlotLayer(self) for _ in range(n_layers)])

    @property
    def slot_layers(self) -> list[SlotLayer]:
        return [layer for layer in self.layers if isinstance(layer, SlotLayer)]

    def reserve(self, slots: int, capacity: int) -> None:
        """Make room for `slots` rows of `capacity` tokens, before the first write rather than by copying."""
        if slots > self.slots or capacity > self.capacity:
            self.slots, self.capacity = max(slots, self.slots), max(capacity, self.capacity)
            self._dirty += [0] * (self.slots - len(self._dirty))
            for layer in self.slot_layers:
                layer.resize(self.slots, self.capacity)

    def admit(self) -> int:
        """Open one more row, empty; returns its number."""
        self.lengths.append(0)
        self.reserve(len(self.lengths), 0)
        return len(self.lengths) - 1

    def release(self, row: int) -> None:
        """Close a row. The last row moves into its place, so that rows in use stay dense."""
        last = len(self.lengths) - 1
        if row != last:
            end = self.lengths[last]
            for layer in self.slot_layers:
                for tensor in layer.tensors():
                    tensor[row, :, :end] = tensor[last, :, :end]
            self.lengths[row] = end
            self._dirty[row] = max(self._dirty[row], end)
        self.lengths.pop()

    def commit(self, row: int, n: int) -> None:
        """Keep the first n slots written above the row's length; the others become junk."""
        self.lengths[row] += n

    def truncate(self, row: int, length: int) -> None:
        """Take committed tokens back, down to `length`."""
        self.lengths[row] = min(self.lengths[row], length)

    def open_window(self, rows: range, q: int, offset: int = 0) -> Window:
        """Prepare the next forward: q new slots for each of `rows`, `offset` above what is committed."""
        starts = tuple(self.lengths[row] + offset for row in rows)
        self.window = Window(rows.start, rows.stop, starts, q)
        self._index = None
        if self.window.width > self.capacity:
            self.reserve(self.slots, -(-self.window.width // _GROW_BY) * _GROW_BY)
        self._clear_stale(rows, q, offset)
        return self.window

    def write_index(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Row and slot numbers of this window's writes, `[n, 1]` and `[n, q]` int64; made once a forward."""
        if self._index is None:
            window = self.window
            row = torch.arange(window.first, window.last, device=device)[:, None]
            start = torch.tensor(window.starts, device=device)[:, None]
            self._index = row, start + torch.arange(window.q, device=device)
        return self._index

    def _clear_stale(self, rows: range, q: int, offset: int) -> None:
        """Zero leftovers of longer, rejected drafts that a shorter row of this window would read masked."""
        for row in rows:
            end = self.lengths[row] + offset + q
            if end < self._dirty[row] and end < self.window.width:
                self._zero(row, end, self._dirty[row])
                self._dirty[row] = end
            self._dirty[row] = max(self._dirty[row], end)

    def _zero(self, row: int, start: int, end: int) -> None:
        for layer in self.slot_layers:
            for tensor in layer.tensors():
                tensor[row, :, start:end] = 0
