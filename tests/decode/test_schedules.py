"""Schedules on tiny models in float64: every answer is the one its row gets alone; caches are a fresh prefill."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from stream_check import finished_rows

from fakes import (
    VOCAB,
    Spy,
    ask,
    draft_model,
    ngram,
    noisy_lm,
    plain_tokens,
    prompts,
    run,
    scripts,
    shared_lm,
)
from specctl.decode.draft import Drafter, Request, Row
from specctl.decode.sampling import Law
from specctl.decode.schedules.eqspec import Eqspec
from specctl.decode.schedules.exspec import Exspec
from specctl.decode.schedules.ragged import Ragged
from specctl.decode.target import Target
from specctl.events import Event, Prefilled, Timed
from specctl.models import cache
from specctl.models import lm as lm_module
from specctl.models.cache import SlotCache, SlotLayer

SCHEDULES = ["ragged", "eqspec", "exspec"]
WARM = Law(temperature=0.8, top_k=20)

Make = Callable[[Law | None, str], Drafter | None]
DRAFTERS: dict[str, Make] = {
    "none": lambda law, accept: None,
    "draft-model": lambda law, accept: draft_model(shared_lm(), noisy_lm(), law=law, accept=accept),
    "ngram": lambda law, accept: ngram(),
    "draft-model auto": lambda law, accept: draft_model(
        shared_lm(), noisy_lm(), law=law, accept=accept, draft_tokens="auto"
    ),
    "ngram auto": lambda law, accept: ngram(law=law, accept=accept, draft_tokens="auto"),
}


# The same tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", list(DRAFTERS))
def test_greedy_output_is_plain_decodings(name: str, schedule: str) -> None:
    for batch_size, window in ((2, 4), (4, 5), (8, 3)):
        tokens, _, _ = run(
            shared_lm(),
            DRAFTERS[name](None, "greedy"),
            ask(5),
            batch_size=batch_size,
            schedule=schedule,
            window=window,
        )
        assert [tuple(row) for row in tokens] == list(plain_tokens())


@pytest.mark.parametrize("accept", ["rejection", "coupled"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("name", list(DRAFTERS))
def test_sampled_output_is_the_one_of_the_row_alone(name: str, schedule: str, accept: str) -> None:
    """`coupled` gives plain sampling's tokens besides, whatever is drafted."""
    how: dict[str, Any] = {"law": WARM, "accept": accept}
    alone, _, _ = run(shared_lm(), DRAFTERS[name](WARM, accept), ask(5), **how)
    tokens, _, _ = run(
        shared_lm(), DRAFTERS[name](WARM, accept), ask(5), batch_size=3, schedule=schedule, window=4, **how
    )
    assert tokens == alone
    if accept == "coupled":
        assert [tuple(row) for row in tokens] == list(plain_tokens(law=WARM, accept="coupled"))


@pytest.mark.parametrize("kind", ["gemma2", "gemma3_text", "phi3", "glm4", "smollm3", "mistral", "qwen3"])
def test_padding_reaches_every_kind_of_model(kind: str) -> None:
    plain = plain_tokens(kind, n=4, new=16)
    for schedule in ("eqspec", "exspec"):
        drafter = scripts(plain, 4)["coin"]
        tokens, _, events = run(shared_lm(kind), drafter, ask(4, 16), batch_size=3, schedule=schedule)
        assert [tuple(row) for row in tokens] == list(plain)
        assert any(event.realigned for event in events if isinstance(event, Timed))


EOS = 0  # also the token that short drafts are filled up with
TRAPS: dict[str, list[Request]] = {
    "end of sequence inside the prompts": [
        Request((5, EOS, 7), 12),
        Request((EOS, EOS, 9, 11), 12),
        Request((EOS,), 9),
    ],
    "prompts of one token": [Request((token,), 10) for token in (5, 44, 7, 9)],
    "prompts of equal length": [Request(prompt, 12) for prompt in prompts(4, lengths=[6])],
    "one row done in round 1": [Request(prompts(1)[0], 1), *ask(3, 14)[1:]],
    "limits inside a block": [replace(one, max_new_tokens=5 + i) for i, one in enumerate(ask(5))],
    "one request": ask(1, 15),
    "no room but for one token": [Request(tuple(range(3, 20)) * 15, 24), *ask(2, 8)],
}


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("trap", list(TRAPS))
def test_traps(trap: str, schedule: str) -> None:
    asked = TRAPS[trap]
    eos = frozenset({EOS, 17})
    plain, reasons, _ = run(shared_lm(), None, asked, eos=eos)
    for batch_size, window in ((2, 3), (4, 2)):
        for script in ("coin", "always-right", "uneven"):
            tokens, why, events = run(
                shared_lm(),
                scripts(plain, 4, EOS)[script],
                asked,
                batch_size=batch_size,
                schedule=schedule,
                window=window,
                eos=eos,
            )
            assert (tokens, why) == (plain, reasons)
            assert sorted(finished_rows(events)) == list(range(len(asked)))


# The caches -----------------------------------------------------------------------------------------------------


def farthest(schedule: str, script: str = "coin") -> float:
    """Largest difference between any row of the cache and a fresh prefill of it, after each round."""
    lm, worst = shared_lm(), 0.0
    rows: dict[int, Row] = {}
    target = Target(lm, slots=2, capacity=16)

    class Watching(Spy):
        def begin(self, row: Row, hidden: Any) -> None:
            rows[row.index] = row
            slots.append(row.index)

        def swap(self, one: int, other: int) -> None:
            slots[one], slots[other] = slots[other], slots[one]

        def drop(self, slot: int) -> None:
            slots[slot] = slots[-1]
            slots.pop()

    slots: list[int] = []

    def look(event: Event) -> None:
        nonlocal worst
        if isinstance(event, Timed):
            for slot, index in enumerate(slots):
                worst = max(worst, distance(lm, target.cache, slot, rows[index].ids[:-1]))

    drafter = Watching(scripts(plain_tokens(), 4)[script])
    run(lm, drafter, ask(5, 14), batch_size=2, schedule=schedule, window=4, target=target, on_event=look)
    return worst


def distance(lm: Any, cache: SlotCache, slot: int, ids: Sequence[int]) -> float:
    if cache.lengths[slot] != len(ids):
        return float("inf")
    fresh = lm.new_cache()
    lm.prefill(fresh, fresh.admit(), ids)
    start = cache.pads[slot]
    pairs = (
        (tensor[slot, :, start : start + len(ids)], wanted[0, :, : len(ids)])
        for layer, right in zip(cache.slot_layers, fresh.slot_layers, strict=True)
        for tensor, wanted in zip(layer.tensors(), right.tensors(), strict=False)
    )
    return max((float((held - wanted).abs().max()) for held, wanted in pairs if len(ids)), default=0.0)


@pytest.mark.parametrize("script", ["coin", "never-right", "uneven"])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_after_each_round_every_row_is_a_fresh_prefill(schedule: str, script: str) -> None:
    assert farthest(schedule, script) < 1e-9


def keys_alone(layer: SlotLayer, old: Sequence[int], new: Sequence[int], width: int) -> None:
    values = None if layer.values is None else layer.values.clone()
    shift(layer, old, new, width)
    layer.values = values


def without_positions(*arguments: Any) -> Any:
    positions, mask = geometry(*arguments)
    return positions + torch.tensor(arguments[1].pads)[:, None], mask


def mask_of_ones(*arguments: Any) -> Any:
    positions, mask = geometry(*arguments)
    pads = torch.tensor(arguments[1].pads)[:, None, None, None]
    return positions, mask.masked_fill(torch.arange(mask.shape[-1]) < pads, 0)


geometry, shift = lm_module.geometry, SlotLayer.shift


@pytest.mark.parametrize("schedule", ["eqspec", "exspec"])
@pytest.mark.parametrize(
    ("place", "broken"),
    [
        ((lm_module, "geometry"), without_positions),
        ((SlotLayer, "shift"), lambda *_: None),
        ((SlotLayer, "shift"), keys_alone),
        ((SlotLayer, "shift"), lambda layer, old, new, width: shift(layer, new, new, width)),
    ],
    ids=["planted-no-positions", "planted-not-shifted", "planted-keys-alone", "planted-nothing-moved"],
)
def test_a_broken_realignment_is_seen(
    place: tuple[Any, str], broken: Any, schedule: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain_tokens()
    monkeypatch.setattr(*place, broken)
    assert farthest(schedule) > 1e-3


def test_a_mask_of_ones_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Transformers' own attention would read the padding; ours does not even get it."""
    monkeypatch.setattr(lm_module, "geometry", mask_of_ones)
    monkeypatch.setattr(lm_module.LM, "_run", reading_the_padding(lm_module.LM._run))
    assert farthest("eqspec") > 1e-3


def reading_the_padding(run_model: Any) -> Any:
    def run_padded(self: Any, module: Any, *arguments: Any, **inputs: Any) -> Any:
        return run_model(self, lambda **given: module(**{**given, "pads": None}), *arguments, **inputs)

    return run_padded


# The schedules by themselves ------------------------------------------------------------------------------------


def rows_of(indexes: Sequence[int]) -> list[Row]:
    return [Row(index, Request((3,), 9), [3]) for index in indexes]


def test_ragged_fills_slots_at_once_and_eqspec_waits_for_all() -> None:
    assert [Ragged(4).room(live) for live in (0, 3, 4)] == [4, 1, 0]
    assert [Eqspec(4).room(live) for live in (0, 1, 4)] == [4, 0, 0]
    assert [Exspec(2, 6).room(live) for live in (0, 5)] == [6, 1]
    assert Exspec(4, 2).slots == 4, "a window smaller than the batch is the batch"


def test_exspec_serves_full_groups_by_age() -> None:
    schedule, rows = Exspec(2, 5), rows_of([0, 1, 2, 3, 4])
    assert list(schedule.pick(rows, [7, 8, 7, 8, 9])) == [0, 2]
    assert list(schedule.pick(rows, [9, 8, 9, 8, 9])) == [1, 3], "these have waited longer"
    # No two are equal: the longest waiting, which is row 4, and then row 0.
    assert list(schedule.pick(rows, [1, 2, 3, 4, 5])) == [4, 0]


def test_exspec_does_not_let_a_row_starve() -> None:
    """A row that never has company is served all the same; without patience it would wait for ever."""
    schedule, rows = Exspec(2, 3), rows_of([0, 1, 2])
    picks = [list(schedule.pick(rows, [5, 5, 9])) for _ in range(100)]
    assert [2 in pick for pick in picks].count(True) >= 4
    assert picks[0] == [0, 1]


def test_exspec_reports_how_often_rows_had_one_width() -> None:
    """Equal prompts and no drafts: rows stay equal, nothing is ever realigned. Mixed ones are."""
    from specctl.decode.stats import Stats

    def rate(asked: list[Request], script: str, schedule: str) -> float | None:
        stats = Stats()
        drafter = scripts([[5] * 99] * len(asked), 3)[script]
        run(shared_lm(), drafter, asked, batch_size=2, schedule=schedule, window=4, on_event=stats.add)
        return stats.grouping_rate

    equal = [Request(prompt, 12) for prompt in prompts(4, lengths=[6])]
    assert rate(equal, "empty", "exspec") == 1.0
    mixed = rate(ask(6, 20), "coin", "exspec")
    assert mixed is not None
    assert 0 < mixed < 1
    assert rate(ask(6, 20), "coin", "ragged") == 1.0


# Newcomers and memory -------------------------------------------------------------------------------------------


def test_those_who_decode_wait_for_one_long_prompt_at_most() -> None:
    """Two slots fall free in one round: two short prompts join together, of long ones only one a round."""
    long = tuple(range(3, VOCAB)) * 4
    for newcomers, together in (((5, 6), (7, 8)), 2), ((long, long), 1):
        asked = [*(Request((3, 4, 5), 3) for _ in range(2)), Request((9, 9), 12)]
        asked += [Request(prompt, 6) for prompt in newcomers]
        _, _, events = run(shared_lm(), None, asked, batch_size=3)
        joined = [event.round for event in events if isinstance(event, Prefilled)]
        assert joined[:3] == [0, 0, 0]
        assert (joined[3] == joined[4]) == (together == 2)


def test_slots_follow_the_rows_that_are_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """1,000 requests in 8 slots, one of them long: its room is given back, and no row leaves anything behind."""
    monkeypatch.setattr(cache, "_GROW_BY", 16)
    long = Request(tuple(range(3, 43)) * 5, 20)
    asked = [Request((3 + i % 40, 5), 2 + i % 5, seed=i) for i in range(1000)]
    asked[100] = long
    target = Target(shared_lm(), slots=8, capacity=8)
    room: list[int] = []

    def look(event: Event) -> None:
        if isinstance(event, Timed):
            room.append(target.cache.capacity)

    run(shared_lm(), None, asked, batch_size=8, target=target, on_event=look)
    assert max(room) > 200
    assert room[-1] < 40
    assert target.cache.slots == 8
