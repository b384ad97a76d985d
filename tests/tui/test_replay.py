"""Replays: every round forwards and backwards shows what a fold of so many events shows; looks; hostile text."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from tui_scenes import SKY, shown, stream

from hostile import COMMANDS, PAYLOADS
from specctl.chat import recording
from specctl.chat.config import ChatConfig
from specctl.chat.conversation import Conversation, Exchange, stats_of
from specctl.chat.fold import Run, rounds, timeline
from specctl.chat.recording import Recording
from specctl.cli.chat import demo_path
from specctl.errors import RequestError
from specctl.events import Emitted, Event, Finished, to_json
from specctl.tui.app import Workbench
from specctl.tui.replay import ReplayScreen


def of(events: list[Event]) -> Recording:
    exchange = Exchange("why?")
    for event in events:
        exchange.add(event)
    return Recording(Path("x"), conversation=Conversation(exchanges=[exchange]))


def play(found: Recording, *keys: str, size: tuple[int, int] = (120, 36), theme: str = "textual-dark") -> str:
    async def run() -> str:
        screen = ReplayScreen(found)
        app = Workbench(lambda: screen, ChatConfig(theme=theme))
        async with app.run_test(size=size) as pilot:
            await pilot.pause()
            for key in keys:
                await pilot.press(key)
            await pilot.pause()
            return shown(app)

    return asyncio.run(run())


def test_rounds_go_by_forwards_and_backwards() -> None:
    found = of(list(stream(SKY)))
    start = play(found, "home")
    assert "round 0" in start
    assert play(found, "home", "right", "right", "right") == play(found, "left", "left")
    assert play(found, "home", "end").replace("■", "") == play(found).replace("■", "")
    first = play(found, "home", "right", "right")
    assert "␣The ␣sky ␣is" in first
    assert "␣red" not in first
    assert play(found, "home", *["right"] * 9, *["left"] * 9) == start


def test_the_keys_are_the_replays_however_long_the_answer() -> None:
    found = of(list(stream([((), 0, f"paragraph {n}.\n\n") for n in range(40)])))
    assert "round 0" in play(found, "home")
    back = play(found, "pageup", "left", "up")
    assert "round 30" in back
    assert "2×" in back
    assert "← Back" in back


def test_true_speed_is_the_runs_own_clock() -> None:
    events = list(stream(SKY))
    times = timeline(events)
    assert times == sorted(times)
    assert times[-1] == pytest.approx(0.5 + 0.3)
    assert len(rounds(events)) == 1 + 3 + 1


@pytest.mark.parametrize("size", [(80, 24), (120, 36), (160, 45), (30, 10)])
@pytest.mark.parametrize("theme", ["textual-dark", "textual-light", "ansi-dark"])
def test_the_demo_is_drawn_at_every_size(size: tuple[int, int], theme: str) -> None:
    text = play(recording.read(demo_path()), "pageup", size=size, theme=theme)
    assert "specctl" in text
    assert max(map(len, text.splitlines())) <= size[0]
    assert size[0] < 80 or all(word in text for word in ("Slower", "esc Leave", "^q Quit")), (
        "no key is cut off"
    )


def test_no_text_commands_the_terminal() -> None:
    rounds = [((p[: i % (len(p) + 1)], p), 1, p[i % (len(p) + 1) :]) for i, p in enumerate(PAYLOADS[::4])]
    found = of(list(stream(rounds)))
    found.conversation.exchanges[0].user = "".join(PAYLOADS[:20])
    text = play(found, "left", size=(100, 20))
    assert not COMMANDS.search(text.replace("\n", ""))
    assert "␛" in text


def traced(keep: Callable[[Event], None]) -> float:
    """Megabytes that 50,000 tokens leave behind in whoever is handed their events."""
    rounds = (
        ((f" a{i}", f" b{i}"), 2, f" c{i}") if i % 2 else ((f" d{i}",), 0, " e\n") for i in range(25_000)
    )
    tracemalloc.start()
    for event in stream(rounds):
        keep(event)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return grown / 1e6


def test_fifty_thousand_tokens_leave_little_behind() -> None:
    run, exchange = Run(), Exchange("x")

    def keep(event: Event) -> None:
        run.add(event)
        exchange.add(event)

    assert traced(keep) < 10
    assert run.stats.new_tokens == stats_of(exchange.events).new_tokens == 50_000
    assert len(exchange.events) == 2 + 4 * 25_000 + 1
    as_they_are: list[Event] = []
    assert traced(as_they_are.append) > 15, "events that are not packed would be seen"


# Files --------------------------------------------------------------------------------------------------------


def lines(found: list[Event]) -> bytes:
    return b"".join(json.dumps(to_json(event)).encode() + b"\n" for event in found)


def test_what_run_writes_is_a_recording(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    path.write_bytes(lines(list(stream(SKY))) * 2)
    found = recording.read(path).conversation.exchanges
    assert [one.answer for one in found] == [" The sky is blue!\n"] * 2
    assert "".join(e.text for e in found[0].events if isinstance(e, Emitted | Finished)) == found[0].answer


@pytest.mark.parametrize(
    "line",
    [
        b"{", b"[]", b"7", b"[" * 100_000, b'{"event":"nonsense"}', b'{"event":"timed"}', b"\xff\xfe",
        b'{"event":"verified","row":0,"round":1,"t_ns":0,"drafted":1,"accepted":2,"bonus":1}',
        b'{"event":"timed","round":1,"t_ns":0,"rows":1,"draft_s":-1,"verify_s":0,"round_s":0}',
        b'{"event":"drafted","row":0,"round":"x","t_ns":0,"tokens":[1]}',
        b'{"event":"drafted","row":0,"round":1,"t_ns":0,"tokens":7}',
    ],
)  # fmt: skip
def test_a_broken_line_is_named(line: bytes, tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    good = lines(list(stream(SKY)))
    path.write_bytes(good + line + b"\n" + good)
    with pytest.raises(RequestError, match=f"line {good.count(10) + 1}: "):
        recording.read(path)


def test_a_torn_last_line_is_left_out_and_nothing_is_no_recording(tmp_path: Path) -> None:
    path = tmp_path / "run.jsonl"
    good = lines(list(stream(SKY)))
    path.write_bytes(good + b'{"event":"tim')
    assert len(recording.read(path).conversation.exchanges[0].events) == good.count(10)
    path.write_bytes(b"")
    with pytest.raises(RequestError, match="no events"):
        recording.read(path)
