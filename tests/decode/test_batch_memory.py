"""Many answers in small batches: what is held depends on the rows that are live, never on how many have been."""

from __future__ import annotations

import gc
from typing import Any

import pytest
import torch

from fakes import draft_model, ngram, noisy_lm, prompts, run, shared_lm
from specctl.decode.draft import Request, Row
from specctl.decode.length import Kept
from specctl.decode.target import Target
from specctl.drafters.ngram import Lookup, Odds
from specctl.events import Event, Finished

ROWS, BATCH = 160, 8
LONGEST = 17 + 5


def many() -> list[Request]:
    return [Request(prompt, 2 + i % 4) for i, prompt in enumerate(prompts(ROWS))]


def held() -> tuple[int, int]:
    """Bytes of all tensors, and how many objects stand for a row."""
    gc.collect()
    storages: dict[int, int] = {}
    rows = 0
    for thing in gc.get_objects():
        if type(thing) in (torch.Tensor, torch.nn.Parameter):
            storages[thing.untyped_storage().data_ptr()] = thing.untyped_storage().nbytes()
        rows += isinstance(thing, Row | Lookup | Odds | Kept)
    return sum(storages.values()), rows


def watched(drafter: Any, schedule: str = "ragged") -> list[tuple[int, int]]:
    """What is held after each tenth of the answers."""
    target = Target(shared_lm(), slots=BATCH, capacity=LONGEST)
    found: list[tuple[int, int]] = []
    done = 0

    def look(event: Event) -> None:
        nonlocal done
        if isinstance(event, Finished):
            done += 1
            if done % (ROWS // 10) == 0:
                found.append(held())
            assert target.cache.slots <= max(BATCH, 12)
            assert target.cache.capacity <= 256

    run(
        shared_lm(),
        drafter,
        many(),
        batch_size=BATCH,
        schedule=schedule,
        window=12,
        target=target,
        on_event=look,
    )
    return found


@pytest.mark.parametrize("schedule", ["ragged", "exspec"])
@pytest.mark.parametrize("name", ["ngram", "draft-model"])
def test_memory_is_flat(name: str, schedule: str) -> None:
    drafter = ngram() if name == "ngram" else draft_model(shared_lm(), noisy_lm(), draft_tokens="auto")
    found = watched(drafter, schedule)
    settled, later = found[2], found[3:-1]  # the last rows leave slots empty
    assert max(size for size, _ in later) <= settled[0] * 1.05
    assert max(rows for _, rows in later) <= settled[1] + 2 * BATCH


def test_planted_a_drafter_that_forgets_to_forget_is_seen() -> None:
    drafter: Any = ngram()
    kept: list[Any] = []
    drop = drafter.drop

    def forgetful(slot: int) -> None:
        kept.append((drafter._seen[slot], drafter._odds[slot]))
        drop(slot)

    drafter.drop = forgetful
    found = watched(drafter)
    assert found[-2][1] > found[2][1] + 2 * BATCH
