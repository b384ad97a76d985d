"""Answers without a model: event streams written down by hand.

As a program it is `specctl` with a scripted model: `python cli_scenes.py SCENE ARGUMENT...`.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from specctl.cli import answer
from specctl.cli.choice import Choice
from specctl.cli.interrupt import Interrupt
from specctl.events import Drafted, Emitted, Event, Finished, Prefilled, Started, Timed, Verified
from specctl.profile.schema import Profile

Round = tuple[Sequence[str], int, str]  # drafted pieces, how many were accepted, the target's own piece


def stream(
    rounds: Sequence[Round],
    *,
    reason: str = "stop",
    tail: str = "",
    profile: str = "default",
    after_round: Callable[[int], None] = lambda number: None,
) -> Iterator[Event]:
    """The events of one answer. Token ids count up from 100; a round takes 0.1 s."""
    yield Started(
        0, "specctl 0", profile, "smollm2-135m", None, "cpu", "bfloat16", "invariant", "greedy", True, 0, 1
    )
    yield Prefilled(0, 0, 0, (1, 2, 3), 0.5)
    token = 100
    with Interrupt() as interrupt:
        for number, (pieces, accepted, bonus) in enumerate(rounds, 1):
            ids = tuple(range(token, token + len(pieces)))
            own = token + len(pieces)
            token = own + 1
            yield Drafted(0, number, 0, ids, tuple(pieces))
            yield Verified(0, number, 0, len(pieces), accepted, own, bonus)
            yield Emitted(0, number, 0, (*ids[:accepted], own), "".join(pieces[:accepted]) + bonus)
            yield Timed(number, 0, 1, 0.02, 0.07, 0.1)
            after_round(number)
            if interrupt.asked():
                reason = "cancelled"
                break
    yield Finished(0, number, 0, reason, tail)


SKY: list[Round] = [((" The", " sky"), 2, " is"), ((" red", " now"), 0, " blue"), (("!",), 1, "\n")]


def interrupt_once(number: int) -> None:
    if number == 2:
        os.kill(os.getpid(), signal.SIGINT)


def interrupt_twice(number: int) -> None:
    if number == 2:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)


SCENES: dict[str, Callable[[], Iterator[Event]]] = {
    "sky": lambda: stream(SKY),
    "long": lambda: stream([((), 0, "word " * 40)] * 400),
    "hostile": lambda: stream([((), 0, "a\x1b]52;c;AAAA\x07b"), ((), 0, "\x1b[2J\x9b31mc\u202e")]),
    "interrupted": lambda: stream(SKY, after_round=interrupt_once),
    "killed": lambda: stream(SKY, after_round=interrupt_twice),
}


def install(monkeypatch: pytest.MonkeyPatch, events: Callable[[], Iterator[Event]]) -> None:
    def scripted(profile: Profile, choice: Choice, prompt: str, wish: Any) -> Iterator[Event]:
        return events()

    monkeypatch.setattr(answer, "events", scripted)


if __name__ == "__main__":
    from specctl.cli.main import main

    scene = SCENES[sys.argv[1]]
    answer.events = lambda *_: scene()
    sys.exit(main(sys.argv[2:]))
