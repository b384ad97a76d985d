"""The engine of a chat: what is kept from profile to profile, what does not fit, what fails for want of memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import current_thread
from types import SimpleNamespace
from typing import Any

import pytest
from tui_scenes import SKY, profile, stream

from specctl.chat.engine import ContextFull
from specctl.chat.local import LEAST_ROOM, LocalEngine
from specctl.chat.one_thread import OneThread
from specctl.errors import MachineError
from specctl.store.progress import SilentProgress

LIMIT = 200


class Session:
    """As many tokens as characters; answers with a script, or fails."""

    def __init__(self, settings: Any, target: Any = None, failure: Exception | None = None) -> None:
        self.profile = settings
        self.target = target or SimpleNamespace(context_length=LIMIT)
        self.kept: object = None
        self.failure = failure
        self.info = SimpleNamespace(
            target="tiny", draft=None, device="cpu", dtype="float32", numerics="native", exact=True,
            numerics_note="a note", draft_note=None,
        )  # fmt: skip

    def tokens(self, messages: Sequence[dict[str, str]]) -> tuple[int, ...]:
        return (0,) * sum(len(message["content"]) for message in messages)

    def reply(self, request: Any, *, cancelled: Any) -> Iterator[Any]:
        events = stream(SKY)
        yield next(events)
        if self.failure is not None:
            raise self.failure
        self.kept = "a cache"
        yield from events


def opened(**session: Any) -> LocalEngine:
    def opener(settings: Any, progress: Any, target: Any) -> Any:
        return Session(settings, target, **session), ["a warning"]

    engine = LocalEngine(opener, lambda _: False)
    ready = engine.open(profile(), SilentProgress())
    assert ready.notes == ("a warning", "a note")
    assert ready.context_length == LIMIT
    return engine


def talk(*contents: str, system: str = "") -> list[dict[str, str]]:
    roles = ["user", "assistant"] * len(contents)
    said = [{"role": role, "content": content} for role, content in zip(roles, contents, strict=False)]
    return [{"role": "system", "content": system}, *said] if system else said


@pytest.mark.parametrize(
    ("said", "drop"),
    [
        (talk("x" * 40, "y" * 60, "p" * 100), 1),
        (talk("x" * 5, "y" * 5, "x" * 40, "y" * 60, "p" * 100), 2),
        (talk("x" * 40, "y" * 60, "x" * 5, "y" * 5, "p" * 100), 1),
        (talk("x" * 40, "y" * 60, "p" * 60, system="s" * 50), 1),
        (talk("p" * (LIMIT - LEAST_ROOM + 1)), 0),
    ],
)
def test_what_does_not_fit_says_how_much_is_too_much(said: list[dict[str, str]], drop: int) -> None:
    engine = opened()
    with pytest.raises(ContextFull) as full:
        list(engine.reply(said, cancelled=lambda: False))
    assert full.value.drop == drop
    assert ("shorten" in str(full.value.hint)) == (drop == 0)
    if drop:
        system = said[: said[0]["role"] == "system"]
        rest = [*system, *said[len(system) + 2 * drop :]]
        assert len(list(engine.reply(rest, cancelled=lambda: False))) > 10


@pytest.mark.parametrize(
    "failure", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")]
)
def test_want_of_memory_is_said_and_the_chat_goes_on(failure: Exception) -> None:
    engine = opened(failure=failure)
    with pytest.raises(MachineError, match="out of memory") as error:
        list(engine.reply(talk("hello"), cancelled=lambda: False))
    assert "max_new_tokens" in str(error.value.hint)
    engine._opened.failure = None  # type: ignore[attr-defined]
    assert len(list(engine.reply(talk("hello"), cancelled=lambda: False))) > 10


def test_another_error_is_not_taken_for_it() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        list(opened(failure=RuntimeError("a bug")).reply(talk("hello"), cancelled=lambda: False))


def test_the_target_and_its_cache_outlive_a_switch_of_profile() -> None:
    engine = opened()
    list(engine.reply(talk("hello"), cancelled=lambda: False))
    target = engine._opened.target
    engine.open(profile(name="other", max_new_tokens=7), SilentProgress())
    assert engine._opened.target is target
    assert engine._opened.kept == "a cache"
    engine.open(profile(dtype="float64"), SilentProgress())
    assert engine._opened.target is not target
    assert engine._opened.kept is None


class Threads:
    """Remembers which thread each call came in."""

    def __init__(self) -> None:
        self.seen: list[str] = []
        self.closed = False

    def open(self, profile: Any, progress: Any) -> Any:
        self.seen.append(current_thread().name)
        raise MachineError("out of memory", hint="less")

    def reply(self, messages: Any, **options: Any) -> Any:
        try:
            for number in range(3):
                self.seen.append(current_thread().name)
                yield number
        finally:
            self.seen.append(current_thread().name)
            self.closed = True


def test_models_compute_in_one_thread_whoever_asks() -> None:
    engine = Threads()
    one: Any = OneThread(engine)  # type: ignore[arg-type]

    def ask() -> list[Any]:
        return list(one.reply([], cancelled=lambda: False))

    with ThreadPoolExecutor(2) as pool:
        assert [answer.result() for answer in [pool.submit(ask), pool.submit(ask)]] == [[0, 1, 2]] * 2
    with pytest.raises(MachineError, match="out of memory"):
        one.open(None, None)
    assert len(engine.seen) == 9
    assert len(set(engine.seen)) == 1
    assert current_thread().name not in engine.seen


def test_a_reply_that_is_given_up_is_closed() -> None:
    engine = Threads()
    events: Any = OneThread(engine).reply([], cancelled=lambda: False)  # type: ignore[arg-type]
    assert next(events) == 0
    assert not engine.closed
    events.close()
    assert engine.closed
