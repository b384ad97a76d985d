"""The slot cache holds committed tokens and nothing else: after each round it equals a fresh prefill."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from fakes import Spy, ask, plain_tokens, prompts, run, scripts, shared_lm
from specctl.decode.target import Target
from specctl.errors import MachineError
from specctl.events import Event, Prefilled, Timed
from specctl.models import cache as cache_module
from specctl.models import lm as lm_module
from specctl.models.cache import SlotCache
from specctl.models.lm import LM, geometry

CLOSE = 1e-9


def contents(cache: SlotCache, row: int) -> list[torch.Tensor]:
    """Keys and values of a row's committed tokens, layer by layer."""
    end = cache.lengths[row]
    return [tensor[row, :, :end] for layer in cache.slot_layers for tensor in layer.tensors()]


def distance_from_prefill(lm: LM, cache: SlotCache, row: int, ids: list[int]) -> float:
    """Largest difference between a row of the cache and a prefill of what it should hold; inf for lengths."""
    if cache.lengths[row] != len(ids):
        return float("inf")
    if not ids:
        return 0.0
    fresh = lm.new_cache()
    lm.prefill(fresh, fresh.admit(), ids)
    pairs = zip(contents(cache, row), contents(fresh, 0), strict=True)
    return max(float((held - wanted).abs().max()) for held, wanted in pairs)


def worst_distance(kind: str, script: str, batch_size: int, *, new: int = 12, row_floor: int = 1) -> float:
    """Over all rows, after all rounds of a run."""
    lm = LM(shared_lm(kind).module, kind, row_floor=row_floor)
    target = Target(lm, slots=batch_size, capacity=16)
    spy = Spy(scripts(plain_tokens(kind), 4)[script])
    worst = 0.0

    def check(event: Event) -> None:
        nonlocal worst
        if isinstance(event, Timed):
            for slot, row in enumerate(spy.rows):
                worst = max(worst, distance_from_prefill(lm, target.cache, slot, row.ids[:-1]))

    run(lm, spy, ask(4, new), batch_size=batch_size, target=target, on_event=check)
    return worst


@pytest.mark.parametrize("batch_size", [1, 3])
@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("script", ["coin", "always-right", "never-right", "uneven"])
def test_after_each_round_the_cache_is_a_fresh_prefill(script: str, kind: str, batch_size: int) -> None:
    """A capacity of 16 is too small on purpose: the cache grows on the way."""
    assert worst_distance(kind, script, batch_size) < CLOSE


@pytest.mark.parametrize("row_floor", [2, 4])
def test_dummy_rows_leave_nothing_behind(row_floor: int) -> None:
    assert worst_distance("llama", "coin", 3, row_floor=row_floor) < CLOSE


def commits(surplus: int) -> Any:
    def commit(target: Target, slot: int, n: int) -> None:
        target.cache.commit(slot, n + surplus)

    return commit


def restarting(*arguments: Any) -> Any:
    positions, mask = geometry(*arguments)
    return positions - positions[:, :1], mask


def shifted(*arguments: Any) -> Any:
    positions, mask = geometry(*arguments)
    return positions + (positions[:, :1] > 3).long(), mask


def from_the_first_row(*arguments: Any) -> Any:
    positions, mask = geometry(*arguments)
    return positions[:1].expand_as(positions).contiguous(), mask


def blind_to_the_draft(*arguments: Any) -> Any:
    """A query sees what is committed only, not the drafted tokens before it."""
    positions, mask = geometry(*arguments)
    q = positions.shape[1]
    mask = {key: part.clone() for key, part in mask.items()} if isinstance(mask, dict) else mask.clone()
    for part in mask.values() if isinstance(mask, dict) else [mask]:
        if q > 2:
            part[:, :, 2:] = part[:, :, 1:2]
    return positions, mask


@pytest.mark.parametrize(
    ("place", "broken"),
    [
        pytest.param((Target, "commit"), commits(1), id="planted-commit-one-too-many"),
        pytest.param((Target, "commit"), commits(-1), id="planted-commit-one-too-few"),
        pytest.param((lm_module, "geometry"), restarting, id="planted-positions-restart"),
        pytest.param((lm_module, "geometry"), shifted, id="planted-positions-one-on"),
        pytest.param((lm_module, "geometry"), from_the_first_row, id="planted-positions-of-the-first-row"),
        pytest.param((lm_module, "geometry"), blind_to_the_draft, id="planted-mask-without-the-draft"),
    ],
)
def test_a_broken_cache_is_seen(place: tuple[Any, str], broken: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = plain_tokens()  # before the bug is planted
    assert plain
    monkeypatch.setattr(*place, broken)
    assert worst_distance("llama", "coin", 3) > 1e-3


# Poison ---------------------------------------------------------------------------------------------------------


def poison(cache: SlotCache) -> int:
    """Turn everything ever written above a row's committed tokens into NaN; returns how many slots."""
    poisoned = 0
    for slot in range(cache.slots):
        end = cache.lengths[slot] if slot < len(cache.lengths) else 0
        for layer in cache.slot_layers:
            for tensor in layer.tensors():
                written = (tensor[slot, :, end:] != 0).any(dim=-1, keepdim=True)
                tensor[slot, :, end:] = torch.where(written, torch.nan, tensor[slot, :, end:])
                poisoned += int(written.any(dim=0).sum())
    return poisoned


def poisoned_run(batch_size: int, kind: str = "llama") -> tuple[list[tuple[int, ...]], int]:
    """Rejected slots are NaN after each round and each admission; drafts get shorter and longer."""
    target = Target(shared_lm(kind), slots=batch_size, capacity=64)
    plain = plain_tokens(kind)
    count = 0

    def strike(event: Event) -> None:
        nonlocal count
        if isinstance(event, Timed | Prefilled):
            count += poison(target.cache)

    drafter = Shrinking(plain)
    tokens, _, _ = run(
        shared_lm(kind), drafter, ask(5), batch_size=batch_size, target=target, on_event=strike
    )
    return [tuple(row) for row in tokens], count


class Shrinking(Spy):
    """Mostly wrong drafts of 7, 1, 4, 0, … tokens, so that a short round follows a long rejected one."""

    def __init__(self, answers: tuple[tuple[int, ...], ...]) -> None:
        super().__init__(scripts(answers, 7)["coin"])

    def draft(self, rows: Any, budget: Any) -> Any:
        most = (7, 1, 4, 0, 2)[len(self.log) % 5]
        return super().draft(rows, [min(room, most) for room in budget])


@pytest.mark.parametrize("kind", ["llama", "gemma3_text"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_poisoned_slots_change_nothing(kind: str, batch_size: int) -> None:
    tokens, poisoned = poisoned_run(batch_size, kind)
    assert poisoned > 100
    assert tokens == list(plain_tokens(kind))


def test_planted_stale_slots_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without clearing, a short row of a ragged batch multiplies a masked NaN by zero: NaN."""
    plain_tokens()
    monkeypatch.setattr(SlotCache, "_zero", lambda *_: None)
    with pytest.raises(MachineError, match="not numbers"):
        poisoned_run(3)


# The cache by itself --------------------------------------------------------------------------------------------


def filled(lengths: list[int], n_layers: int = 4) -> tuple[SlotCache, list[list[int]]]:
    cache = SlotCache(n_layers)
    held = [list(prompts(1, seed=i, lengths=[n])[0]) for i, n in enumerate(lengths)]
    for ids in held:
        shared_lm().prefill(cache, cache.admit(), ids)
    return cache, held


def worst(cache: SlotCache, held: list[list[int]]) -> float:
    assert len(cache.lengths) == len(held)
    return max(distance_from_prefill(shared_lm(), cache, slot, ids) for slot, ids in enumerate(held))


def test_reserving_more_keeps_what_is_there() -> None:
    cache, held = filled([5, 9])
    cache.reserve(6, 300)
    assert (cache.slots, cache.capacity) == (6, 320)
    assert worst(cache, held) < CLOSE
    before = [tensor.data_ptr() for layer in cache.slot_layers for tensor in layer.tensors()]
    for slots, capacity in ((2, 10), (6, 300), (6, 0), (0, 300)):
        cache.reserve(slots, capacity)
    assert (cache.slots, cache.capacity) == (6, 320), "a cache never shrinks"
    assert before == [tensor.data_ptr() for layer in cache.slot_layers for tensor in layer.tensors()]


def test_a_reserved_cache_is_not_copied_again() -> None:
    cache = SlotCache(4)
    cache.reserve(2, 40)
    shared_lm().prefill(cache, cache.admit(), list(prompts(1, lengths=[30])[0]))
    shared_lm().prefill(cache, cache.admit(), list(prompts(1, lengths=[40])[0]))
    assert (cache.slots, cache.capacity) == (2, 64)


def test_slots_are_read_in_steps_that_the_cache_has_room_for() -> None:
    """A single token sees all it reads, so it reads no more than there is."""
    cache, _ = filled([5, 40])
    cache.reserve(2, 45)
    for q, width in ((1, 41), (2, 64), (24, 64), (25, 96)):
        window = cache.open_window(range(2), q)
        assert window.width == width <= cache.capacity
    assert cache.open_window(range(1, 2), 1).sees_all
    assert not cache.open_window(range(1, 2), 2).sees_all


def test_what_a_longer_draft_left_in_a_step_is_not_seen() -> None:
    cache, held = filled([5])
    shared_lm().forward(cache, [[1, 2, 3, 4, 5, 6]], range(1))
    for layer in cache.slot_layers:
        for tensor in layer.tensors():
            tensor[0, :, 5:11] = float("nan")
    assert shared_lm().forward(cache, [[7, 8]], range(1)).isfinite().all()
    cache.commit(0, 2)
    assert worst(cache, [held[0] + [7, 8]]) < CLOSE


def test_capacity_grows_in_steps() -> None:
    """Growing copies everything, so it must be seldom."""
    cache, held = filled([3])
    assert cache.capacity == cache_module._GROW_BY
    more = list(prompts(1, lengths=[cache_module._GROW_BY])[0])
    for start in range(0, len(more), 16):
        shared_lm().prefill(cache, 0, more[start : start + 16])
    assert cache.capacity == 2 * cache_module._GROW_BY
    assert worst(cache, [held[0] + more]) < CLOSE


@pytest.mark.parametrize("gone", [0, 1, 2])
def test_releasing_a_row_moves_the_last_one_into_its_place(gone: int) -> None:
    cache, held = filled([6, 2, 11])
    cache.release(gone)
    held[gone] = held[-1]
    held.pop()
    assert worst(cache, held) < CLOSE


def test_a_newcomer_in_a_used_slot_starts_empty() -> None:
    cache, held = filled([6, 14, 3])
    cache.release(1)
    held = [held[0], held[2]]
    ids = list(prompts(1, seed=9, lengths=[8])[0])
    shared_lm().prefill(cache, cache.admit(), ids)
    assert worst(cache, [*held, ids]) < CLOSE


def test_taking_tokens_back() -> None:
    cache, held = filled([9, 4])
    cache.truncate(0, 5)
    cache.truncate(1, 7)
    assert cache.lengths == [5, 4]
    assert worst(cache, [held[0][:5], held[1]]) < CLOSE
    shared_lm().prefill(cache, 0, [7, 8])
    assert worst(cache, [[*held[0][:5], 7, 8], held[1]]) < CLOSE


def test_what_is_not_committed_is_overwritten() -> None:
    cache, held = filled([5, 9])
    shared_lm().forward(cache, [[40, 41, 42], [43, 44, 45]], range(2))
    assert cache.lengths == [5, 9]
    shared_lm().forward(cache, [[7, 8, 9], [10, 11, 12]], range(2))
    cache.commit(0, 2)
    cache.commit(1, 3)
    assert worst(cache, [[*held[0], 7, 8], [*held[1], 10, 11, 12]]) < CLOSE


def test_offsets_stand_above_the_committed_tokens() -> None:
    """Drafting one token at a time without committing is the same as committing each."""
    cache, held = filled([5, 9])
    for offset, column in enumerate([[[7], [10]], [[8], [11]]]):
        logits = shared_lm().forward(cache, column, range(2), offset=offset)
    again, _ = filled([5, 9])
    at_once = shared_lm().forward(again, [[7, 8], [10, 11]], range(2))
    assert float((logits[:, 0] - at_once[:, 1]).abs().max()) < CLOSE
    for slot in range(2):
        cache.commit(slot, 2)
    assert worst(cache, [[*held[0], 7, 8], [*held[1], 10, 11]]) < CLOSE


def test_prefill_in_chunks_is_prefill(monkeypatch: pytest.MonkeyPatch) -> None:
    ids = list(prompts(1, lengths=[23])[0])
    cache = SlotCache(4)
    monkeypatch.setattr(lm_module, "PREFILL_CHUNK", 5)
    shared_lm().prefill(cache, cache.admit(), ids)
    monkeypatch.undo()
    assert worst(cache, [ids]) < CLOSE


def test_dummy_columns_are_cut_off() -> None:
    cache, held = filled([5])
    wanted = shared_lm().forward(cache, [[7]], range(1))
    probe = LM(shared_lm().module, "probe", row_floor=4)
    logits = probe.forward(cache, [[7]], range(1))
    assert logits.shape == wanted.shape
    assert float((logits - wanted).abs().max()) < CLOSE
    cache.commit(0, 1)
    assert worst(cache, [[*held[0], 7]]) < CLOSE


def test_ragged_rows_that_do_not_begin_at_the_first() -> None:
    """A window over some rows in the middle writes those rows, each at its own length."""
    cache, held = filled([5, 9, 3, 4])
    shared_lm().forward(cache, [[7, 8], [10, 11]], range(1, 3))
    cache.commit(1, 2)
    cache.commit(2, 1)
    assert worst(cache, [held[0], [*held[1], 7, 8], [*held[2], 10], held[3]]) < CLOSE
