"""Rows of the slot cache that are moved, padded, exchanged, taken in and given back, without a model: marks only.

Keys of layer d hold a token's mark plus d thousandths, values the same with the sign turned.
"""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from specctl.models import cache as cache_module
from specctl.models.cache import SlotCache, SlotLayer, Window

LAYERS, HEADS, SIZE = 3, 2, 4


def tensors(cache: SlotCache) -> list[tuple[float, Tensor]]:
    """Each tensor `[slots, n_kv, capacity, d]` with the mark that is added in it; the sign is taken off."""
    return [
        (depth / 1000, sign * tensor)
        for depth, layer in enumerate(cache.slot_layers)
        for sign, tensor in zip((1, -1), layer.tensors(), strict=True)
    ]


def write(cache: SlotCache, rows: range, marks: Sequence[Sequence[int]], *, offset: int = 0) -> Tensor:
    """One forward's writes, nothing committed; what the first layer's keys give to read, `[n, n_kv, width, d]`."""
    cache.open_window(rows, len(marks[0]), offset)
    tokens = torch.tensor(marks, dtype=torch.float64)[:, None, :, None].expand(-1, HEADS, -1, SIZE)
    read = []
    for depth, layer in enumerate(cache.slot_layers):
        keys, values = layer.update(tokens + depth / 1000, -tokens - depth / 1000)
        assert torch.equal(keys, -values)
        read.append(keys)
    return read[0]


def fill(lengths: Sequence[int], capacity: int = 0) -> tuple[SlotCache, list[list[int]]]:
    """Row r holds the marks r01, r02, …, r from 1."""
    cache = SlotCache(LAYERS)
    cache.reserve(len(lengths), capacity)
    held = [[100 * row + i for i in range(1, n + 1)] for row, n in enumerate(lengths, start=1)]
    for marks in held:
        row = cache.admit()
        write(cache, range(row, row + 1), [marks])
        cache.commit(row, len(marks))
    return cache, held


def held_by(cache: SlotCache) -> list[list[int]]:
    """The marks of each row's committed tokens; all heads, layers, keys and values have to agree."""
    rows = []
    for row, (pad, length) in enumerate(zip(cache.pads, cache.lengths, strict=True)):
        seen = {
            tuple((tensor[row, head, pad : pad + length] - mark).round(decimals=6).flatten().tolist())
            for mark, tensor in tensors(cache)
            for head in range(HEADS)
        }
        assert len(seen) == 1
        rows.append([int(mark) for mark in next(iter(seen))[::SIZE]])
    return rows


def between(cache: SlotCache, row: int, start: int, end: int) -> float:
    """The largest thing in these slots of a row, in any layer."""
    return max(float(tensor[row, :, start:end].abs().max()) for _, tensor in tensors(cache))


def nothing_stale(cache: SlotCache, rows: range, q: int) -> bool:
    """Whether a forward of q tokens reads zeros wherever its mask has to hide something behind a row's own."""
    width = cache.open_window(rows, q).width
    ends = [cache.widths[row] + q for row in rows]
    return not any(
        end < width and between(cache, row, end, width) for row, end in zip(rows, ends, strict=True)
    )


# Padding --------------------------------------------------------------------------------------------------------


def test_aligned_rows_end_in_one_column() -> None:
    cache, held = fill([3, 7, 5, 2])
    assert cache.align(3)
    assert (cache.pads, cache.lengths) == ([4, 0, 2, 0], [3, 7, 5, 2])
    assert cache.widths == [7, 7, 7, 2]
    assert held_by(cache) == held
    assert between(cache, 0, 0, 4) == between(cache, 2, 0, 2) == 0, "padding is zeros"
    assert not cache.align(3)
    assert not cache.align(1)
    assert cache.pads == [4, 0, 2, 0]


def test_aligning_again_moves_rows_back_and_leaves_no_junk() -> None:
    """The longest row is gone and another one grew: less padding is needed than there was."""
    cache, held = fill([3, 9, 5], capacity=32)
    cache.align(3)
    cache.release(1)
    assert (cache.pads, held_by(cache)) == ([6, 4], [held[0], held[2]])
    write(cache, range(2), [[31, 32], [33, 34]])
    cache.commit(0, 2)
    assert cache.align(2)
    assert cache.pads == [0, 0]
    assert held_by(cache) == [[*held[0], 31, 32], held[2]]
    assert nothing_stale(cache, range(2), 2)


def test_padded_rows_are_written_and_read_at_their_columns() -> None:
    cache, held = fill([3, 6])
    cache.align(2)
    read = write(cache, range(2), [[31, 32], [33, 34]])
    assert read[0, 0, :8, 0].tolist() == [0, 0, 0, *held[0], 31, 32]
    assert read[1, 0, :8, 0].tolist() == [*held[1], 33, 34]
    cache.commit(0, 2)
    cache.commit(1, 1)
    assert held_by(cache) == [[*held[0], 31, 32], [*held[1], 33]]
    assert cache.widths == [8, 7]


def test_what_padding_moved_away_is_junk_to_be_cleared() -> None:
    """A short row moved right, then left again, has left something up to the old column."""
    cache, held = fill([2, 9], capacity=32)
    cache.align(2)
    cache.truncate(1, 4)
    assert cache.align(2)
    assert (cache.pads, held_by(cache)) == ([2, 0], [held[0], held[1][:4]])
    assert between(cache, 0, 4, 9)
    assert nothing_stale(cache, range(1), 2)


def test_only_the_first_rows_are_padded() -> None:
    cache, held = fill([4, 6, 9])
    assert cache.align(2)
    assert cache.pads == [2, 0, 0]
    assert held_by(cache) == held


def test_equal_rows_need_no_padding() -> None:
    cache, held = fill([4, 4, 9])
    assert not cache.align(2)
    assert held_by(cache) == held
    assert cache.align(3)
    assert cache.pads == [5, 5, 0]


# Exchanging and leaving -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("one", "other"), [(0, 1), (1, 0), (2, 0), (1, 1)])
def test_swapped_rows_take_their_padding_along(one: int, other: int) -> None:
    cache, held = fill([3, 7, 5], capacity=32)
    cache.align(2)
    pads = list(cache.pads)
    cache.swap(one, other)
    held[one], held[other] = held[other], held[one]
    pads[one], pads[other] = pads[other], pads[one]
    assert held_by(cache) == held
    assert cache.pads == pads
    assert nothing_stale(cache, range(3), 2)


def test_a_short_row_swapped_with_a_long_one_leaves_nothing_to_see() -> None:
    cache, held = fill([20, 3], capacity=32)
    cache.swap(0, 1)
    assert held_by(cache) == [held[1], held[0]]
    assert nothing_stale(cache, range(1), 2)
    assert nothing_stale(cache, range(2), 2)


def test_junk_above_a_row_that_was_moved_in_is_cleared() -> None:
    """The last row moves to a place that was written less far; then it is taken back."""
    cache, held = fill([2, 20], capacity=32)
    cache.release(0)
    assert held_by(cache) == [held[1]]
    cache.truncate(0, 4)
    assert nothing_stale(cache, range(1), 2)
    assert held_by(cache) == [held[1][:4]]


def test_a_released_row_takes_its_padding_along() -> None:
    cache, held = fill([3, 7, 5])
    cache.align(3)
    cache.release(0)
    assert (cache.pads, cache.lengths) == ([2, 0], [5, 7])
    assert held_by(cache) == [held[2], held[1]]
    assert cache.admit() == 2
    assert (cache.pads, cache.lengths) == ([2, 0, 0], [5, 7, 0])


def test_a_cleared_cache_still_holds_what_was_written() -> None:
    cache, held = fill([6, 3])
    cache.align(2)
    cache.clear()
    assert (cache.lengths, cache.pads, cache.widths) == ([], [], [])
    assert cache.admit() == 0
    cache.commit(0, 4)
    assert held_by(cache) == [held[0][:4]]


# Room -----------------------------------------------------------------------------------------------------------


def test_room_is_given_back_in_whole_steps() -> None:
    """`step` slots at least, and only when less than half is needed."""
    step = cache_module._GROW_BY
    cache, held = fill([3, 9], capacity=4 * step)
    cache.shrink(2 * step)
    assert cache.capacity == 4 * step, "half of it is needed"
    cache.shrink(step + 1)
    assert cache.capacity == 4 * step, "in whole steps, that is half of it"
    cache.shrink(1)
    assert cache.capacity == step
    assert all(tensor.shape == (2, HEADS, step, SIZE) for _, tensor in tensors(cache))
    assert held_by(cache) == held
    cache.reserve(2, 2 * step)
    cache.shrink(1)
    assert cache.capacity == 2 * step, "half of it is still needed"


def test_room_that_rows_take_is_kept() -> None:
    """Their padding included."""
    step = cache_module._GROW_BY
    cache, held = fill([2, step + 8], capacity=5 * step)
    cache.align(2)
    cache.truncate(1, 5)
    cache.shrink(1)
    assert cache.widths == [step + 8, 5]
    assert cache.capacity == 2 * step
    assert held_by(cache) == [held[0], held[1][:5]]


def test_room_given_back_holds_no_junk_when_taken_again() -> None:
    step = cache_module._GROW_BY
    cache, held = fill([3 * step], capacity=4 * step)
    cache.truncate(0, 2)
    cache.shrink(2)
    assert cache.capacity == step
    assert between(cache, 0, 2, step)
    cache.reserve(1, 4 * step)
    assert between(cache, 0, step, 4 * step) == 0
    assert cache._dirty == [step], "there is nothing to clear above what was kept"
    assert nothing_stale(cache, range(1), 2)
    assert held_by(cache) == [held[0][:2]]


def test_growing_one_way_does_not_shrink_the_other() -> None:
    cache, held = fill([5, 9], capacity=64)
    cache.reserve(5, 0)
    assert (cache.slots, cache.capacity) == (5, 64)
    cache.reserve(0, 65)
    assert (cache.slots, cache.capacity) == (5, 96)
    assert all(tensor.shape == (5, HEADS, 96, SIZE) for _, tensor in tensors(cache))
    assert held_by(cache) == held


def test_a_forward_takes_the_room_it_needs() -> None:
    cache, held = fill([30], capacity=32)
    write(cache, range(1), [[31, 32]])
    assert cache.capacity == 32, "the last two slots are there"
    cache.commit(0, 2)
    write(cache, range(1), [[33]])
    assert cache.capacity == cache_module._GROW_BY
    cache.commit(0, 1)
    assert held_by(cache) == [[*held[0], 31, 32, 33]]


# Taking in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("capacity", [32, 64])
def test_an_adopted_row_holds_what_the_other_cache_held(capacity: int) -> None:
    """The second time there is no room for it yet."""
    cache, held = fill([5, 9], capacity)
    other, theirs = fill([40])
    assert cache.adopt(other) == 2
    assert (cache.lengths, cache.pads, cache.slots) == ([5, 9, 40], [0, 0, 0], 3)
    assert held_by(cache) == [*held, *theirs]
    assert held_by(other) == theirs


def test_an_adopted_row_leaves_no_junk_when_taken_back() -> None:
    cache, held = fill([5], capacity=64)
    other, theirs = fill([40])
    row = cache.adopt(other)
    cache.truncate(row, 4)
    assert nothing_stale(cache, range(row, row + 1), 2)
    assert held_by(cache) == [*held, theirs[0][:4]]


def test_adopting_where_a_longer_row_was_leaves_its_junk_known() -> None:
    cache, held = fill([5, 50], capacity=64)
    cache.release(1)
    other, theirs = fill([20])
    assert cache.adopt(other) == 1
    assert held_by(cache) == [held[0], *theirs]
    assert nothing_stale(cache, range(1, 2), 2)


def test_gathered_slots_are_committed_in_their_order() -> None:
    cache, held = fill([4, 6])
    write(cache, range(1, 2), [[31, 32, 33, 34, 35]])
    cache.gather(1, [7, 10], 6)
    assert cache.lengths == [4, 8]
    assert held_by(cache) == [held[0], [*held[1], 32, 35]]
    cache.gather(1, [], 7)
    assert held_by(cache) == [held[0], [*held[1], 32]]


# Windows --------------------------------------------------------------------------------------------------------


def test_a_window_knows_its_slots() -> None:
    ragged = Window(1, 3, starts=(4, 9), q=2, pads=(3, 0), step=4)
    assert (ragged.slots, ragged.width, ragged.common_start) == ([7, 9], 12, None)
    padded = Window(0, 2, starts=(4, 9), q=1, pads=(5, 0))
    assert (padded.slots, padded.width, padded.common_start) == ([9, 9], 10, 9)
    assert not padded.sees_all, "padding is not to be seen"
    even = Window(0, 2, starts=(4, 4), q=1, pads=(0, 0))
    assert even.sees_all
    assert not Window(0, 2, (4, 4), 2, (0, 0)).sees_all
    assert not Window(0, 2, (4, 5), 1, (0, 0)).sees_all
    assert not Window(0, 2, (4, 4), 1, (0, 0), chain=False).sees_all


def test_a_tree_reads_exactly_what_there_is() -> None:
    cache, _ = fill([5], capacity=64)
    assert cache.open_window(range(1), 3, chain=False).width == 8
    assert cache.open_window(range(1), 3, chain=True).width == 32
    assert cache.open_window(range(1), 3).chain
    assert not cache.open_window(range(1), 3, chain=False).chain


def test_a_window_above_what_is_not_committed() -> None:
    cache, held = fill([5, 3])
    write(cache, range(2), [[31], [41]])
    window = cache.open_window(range(1, 2), 2, 1)
    assert (window.first, window.last, window.starts, window.pads, window.q) == (1, 2, (4,), (0,), 2)
    write(cache, range(2), [[32], [42]], offset=1)
    for row in range(2):
        cache.commit(row, 2)
    assert held_by(cache) == [[*held[0], 31, 32], [*held[1], 41, 42]]


def test_junk_is_cleared_up_to_the_end_of_what_was_written() -> None:
    """Seen from a longer neighbour's window, and from the next longer draft's: cleared once, written again."""
    cache, held = fill([3, 20], capacity=32)
    write(cache, range(1), [[31] * 9])
    read = write(cache, range(2), [[51, 52], [61, 62]])
    assert read[0, 0, 3:, 0].tolist() == [51, 52, *[0] * 27]
    write(cache, range(1), [[71] * 4])
    assert nothing_stale(cache, range(2), 1)
    cache.commit(0, 1)
    assert held_by(cache) == [[*held[0], 71], held[1]]


def test_a_window_with_padding_clears_above_its_own_end() -> None:
    cache, held = fill([3, 12], capacity=32)
    cache.align(2)
    write(cache, range(2), [[31] * 8, [41] * 8])
    assert nothing_stale(cache, range(2), 2)
    assert held_by(cache) == held


def test_write_indices_are_those_of_this_window() -> None:
    cache, _ = fill([5, 9, 3])
    cache.open_window(range(1, 3), 2)
    row, slot = cache.write_index(torch.device("cpu"))
    assert (row.tolist(), slot.tolist()) == ([[1], [2]], [[9, 10], [3, 4]])
    assert cache.write_index(torch.device("cpu")) == (row, slot)
    cache.open_window(range(2), 1, 1)
    row, slot = cache.write_index(torch.device("cpu"))
    assert (row.tolist(), slot.tolist()) == ([[0], [1]], [[6], [10]])


def test_a_layer_holds_nothing_before_it_is_written() -> None:
    cache = SlotCache(LAYERS)
    assert len(cache.slot_layers) == LAYERS
    assert all(isinstance(layer, SlotLayer) and layer.tensors() == () for layer in cache.slot_layers)
    cache.admit()
    cache.reserve(3, 40)
    assert (cache.slots, cache.capacity, cache._dirty) == (3, 64, [0, 0, 0])
    other, _ = fill([])
    assert (other.lengths, other.pads, other.widths) == ([], [], [])


def test_what_is_made_in_inference_mode_is_written_outside_of_it() -> None:
    with torch.inference_mode():
        cache, held = fill([3])
        cache.reserve(1, 100)
    cache.admit()
    cache.swap(0, 1)
    assert held_by(cache) == [[], held[0]]
