"""Long prompts are read a chunk a round while others decode; nothing but the waiting changes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from fakes import Nothing, draft_model, noisy_lm, prompts, run, scripts, shared_lm
from specctl.decode import newcomers
from specctl.decode import target as target_module
from specctl.decode.draft import Request, Row
from specctl.events import Emitted, Finished, Prefilled, Timed
from specctl.models import lm as lm_module

CHUNK = 8
LONG = prompts(1, seed=5, lengths=[60])[0]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (newcomers, target_module, lm_module):
        monkeypatch.setattr(module, "PREFILL_CHUNK", CHUNK)


def crowd() -> list[Request]:
    """The first row is soon done, the second one goes on while the third one's prompt is read."""
    short = prompts(4, lengths=(5, 7, 3, 4))
    return [
        Request(short[0], 2),
        Request(short[1], 30),
        Request(LONG, 6),
        Request(short[2], 5),
        Request(short[3], 5),
    ]


@pytest.mark.parametrize("schedule", ["ragged", "exspec", "eqspec"])
@pytest.mark.parametrize("name", ["none", "scripted", "draft-model", "draft-model auto"])
def test_a_prompt_in_chunks_gets_the_same_answer(name: str, schedule: str) -> None:
    plain = [run(shared_lm(), None, [one])[0][0] for one in crowd()]
    drafter: Any = {
        "none": lambda: None,
        "scripted": lambda: scripts(plain, 3)["coin"],
        "draft-model": lambda: draft_model(shared_lm(), noisy_lm()),
        "draft-model auto": lambda: draft_model(shared_lm(), noisy_lm(), draft_tokens="auto"),
    }[name]()
    tokens, _, events = run(
        shared_lm(),
        drafter,
        crowd(),
        batch_size=2,
        schedule=schedule,
        window=2 if schedule == "exspec" else 4,
    )
    assert tokens == plain
    assert [event.row for event in events if isinstance(event, Prefilled)] == [0, 1, 2, 3, 4]


def test_the_others_decode_while_it_is_read() -> None:
    _, _, events = run(shared_lm(), None, crowd(), batch_size=2)
    free = next(event.round for event in events if isinstance(event, Finished))
    joined = next(event.round for event in events if isinstance(event, Prefilled) and event.row == 2)
    meanwhile = [event.row for event in events if isinstance(event, Emitted) and free < event.round <= joined]
    assert joined - free == (len(LONG) - 1) // CHUNK
    assert meanwhile == [1] * (joined - free)


def test_with_nobody_to_wait_it_is_read_at_once() -> None:
    _, _, events = run(shared_lm(), None, [Request(LONG, 3), Request(LONG, 4)], batch_size=2)
    assert [event.round for event in events if isinstance(event, Prefilled)] == [0, 0]
    _, _, events = run(shared_lm(), None, [Request((5,), 1), Request(LONG, 3)], batch_size=1)
    assert [event.round for event in events if isinstance(event, Prefilled)] == [0, 1]


def test_those_who_are_read_in_part_are_cancelled_too() -> None:
    rounds = 0

    def cancelled() -> bool:
        return rounds == 5

    def count(event: Any) -> None:
        nonlocal rounds
        rounds += isinstance(event, Timed)

    _, reasons, events = run(shared_lm(), None, crowd(), batch_size=2, on_event=count, cancelled=cancelled)
    assert reasons == ["length", *["cancelled"] * 4]
    assert not any(event.row == 2 for event in events if isinstance(event, Prefilled))


class Capturing(Nothing):
    """Keeps the states it is given of each prompt."""

    needs = frozenset({2})

    def __init__(self) -> None:
        super().__init__()
        self.states: dict[int, Tensor] = {}

    def begin(self, row: Row, hidden: dict[int, Tensor]) -> None:
        self.states[row.index] = hidden[2]


def test_states_of_all_chunks_reach_the_drafter() -> None:
    some, alone = Capturing(), Capturing()
    run(shared_lm(), some, crowd(), batch_size=2)
    run(shared_lm(), alone, [Request(LONG, 1)])
    assert some.states[2].shape[1] == len(LONG) - 1
    torch.testing.assert_close(some.states[2], alone.states[0])
