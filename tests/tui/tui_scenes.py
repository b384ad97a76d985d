"""A scripted engine and the application around it: a chat without a model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from threading import Event as Flag
from typing import Any

from specctl.chat.config import ChatConfig
from specctl.chat.engine import Offer, Ready
from specctl.events import Drafted, Emitted, Event, Finished, Prefilled, Started, Timed, Verified
from specctl.profile.schema import Profile
from specctl.tui.app import Workbench
from specctl.tui.chat import ChatScreen
from specctl.tui.talk import Saying

Round = tuple[Any, ...]
"""Drafted pieces, how many were accepted, the target's own piece; then perhaps p and q of each drafted one."""
SKY: list[Round] = [((" The", " sky"), 2, " is"), ((" red", " now"), 0, " blue"), (("!",), 1, "\n")]


def profile(**changes: Any) -> Profile:
    fields = {"schema": 1, "about": "a test", "pair": "smollm2-135m", "name": "default"}
    return Profile.model_validate({**fields, "drafter": {"method": "ngram"}, **changes})


def stream(
    rounds: Iterable[Round], cancelled: Callable[[], bool] = lambda: False, reason: str = "stop"
) -> Iterator[Event]:
    """One answer; a round takes 0.1 s on its own clock and no time here."""
    yield Started(
        0, "specctl 0", "default", "tiny", None, "cpu", "bfloat16", "invariant", "greedy", True, 0, 1
    )
    yield Prefilled(0, 0, 0, (1, 2, 3), 0.5)
    number = 0
    for number, (pieces, accepted, bonus, *chances) in enumerate(rounds, 1):
        p, q = chances or ((), ())
        ids = tuple(range(100, 100 + len(pieces)))
        yield Drafted(0, number, 0, ids, tuple(pieces), q)
        yield Verified(0, number, 0, len(pieces), accepted, 7, bonus, p)
        yield Emitted(0, number, 0, (*ids[:accepted], 7), "".join(pieces[:accepted]) + bonus)
        yield Timed(number, 0, 1, 0.02, 0.07, 0.1)
        if cancelled():
            reason = "cancelled"
            break
    yield Finished(0, number, 0, reason)


class ScriptedEngine:
    """Answers every prompt with `rounds`, or raises `error`. With `hold`, rounds wait for `go` or the end."""

    def __init__(self, rounds: Sequence[Round] = SKY, *, error: Exception | None = None, hold: bool = False):
        self.rounds = rounds
        self.error = error
        self.failing: Exception | None = None  # raised after a round
        self.reason = "stop"
        self.ended = ""  # why the last answer did
        self.hold = hold
        self.go = Flag()
        self.asked: list[list[dict[str, str]]] = []
        self.opened: list[Profile] = []
        self.speed: float | None = 10.0
        self.lacking = False

    def offers(self) -> list[Offer]:
        return [Offer("smollm2-135m", "small", 270_000_000, True), Offer("big", "large", None, False)]

    def missing(self, profile: Profile) -> bool:
        return self.lacking

    def open(self, profile: Profile, progress: Any) -> Ready:
        self.opened.append(profile)
        return Ready("tiny", None, "cpu", "bfloat16", True, 100)

    def reply(
        self, messages: Any, *, plain: bool = False, attempt: int = 0, cancelled: Callable[[], bool]
    ) -> Iterator[Event]:
        self.asked.append(list(messages))
        if self.error is not None:
            raise self.error
        rounds = [((), 0, r[2]) for r in self.rounds] if plain else self.rounds
        for event in stream(rounds, cancelled, self.reason):
            if isinstance(event, Finished):
                self.ended = event.reason
            yield event
            if self.hold and isinstance(event, Timed):
                any(self.go.wait(0.01) or cancelled() for _ in range(3000))
            if self.failing is not None and isinstance(event, Timed):
                raise self.failing

    def baseline(self) -> float | None:
        return self.speed

    def probe(self, cancelled: Callable[[], bool]) -> float | None:
        return 10.0


def chat(engine: ScriptedEngine, **options: Any) -> tuple[Workbench, ChatScreen]:
    screen = ChatScreen(engine, profile(), options.pop("path", None), options.pop("resumed", None))
    return Workbench(lambda: screen, ChatConfig(**options)), screen


async def settle(pilot: Any, screen: ChatScreen) -> None:
    """Until nothing is being generated and all of it is drawn."""
    for _ in range(500):
        await pilot.pause()
        if not screen.busy and screen.ready is not None and not screen._inbox:
            return
    raise AssertionError("the chat did not come to rest")


async def send(pilot: Any, screen: ChatScreen, text: str) -> None:
    screen.query_one("#prompt").load_text(text)
    await pilot.press("enter")
    await settle(pilot, screen)


def said_last(screen: ChatScreen) -> str:
    part = screen.talk.parts[-1]
    assert isinstance(part, Saying)
    return part.text


def shown(app: Workbench) -> str:
    """The text of the screen, line by line."""
    strips = app.screen._compositor.render_strips()
    return "\n".join("".join(segment.text for segment in strip).rstrip() for strip in strips)
