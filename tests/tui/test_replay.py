"""Replays: every round forwards and backwards shows what a fold of so many events shows; looks; hostile text."""

from __future__ import annotations

import asyncio
import json
import re
import tracemalloc
from pathlib import Path

import pytest
from tui_scenes import SKY, shown, stream

from specctl.chat import recording
from specctl.chat.config import ChatConfig
from specctl.chat.conversation import Conversation, Exchange
from specctl.chat.fold import Run, rounds, timeline
from specctl.chat.recording import Recording
from specctl.cli.chat import demo_path
from specctl.errors import RequestError
from specctl.events import Emitted, Event, Finished, to_json
from specctl.tui.app import Workbench
from specctl.tui.replay import ReplayScreen

HOSTILE = (
    "\x1b]52;c;ZXZpbA==\x07",
    "\x1b[2J\x9b31m",
    "[bold red]x[/] [/nonsense] [unclosed",
    "\x1b]8;;http://e\x1b\\c",
)
OURS = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e]")


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


@pytest.mark.parametrize("payload", HOSTILE)
def test_no_text_commands_the_terminal(payload: str) -> None:
    for at in range(len(payload) + 1):
        found = of(list(stream([((payload[:at],), 1, payload[at:]), ((payload,), 0, "end")])))
        found.conversation.exchanges[0].user = payload
        assert not OURS.search(play(found, size=(100, 20)).replace("\n", "")), at


def test_planted_unsafe_text_would_be_seen() -> None:
    assert OURS.search("a\x1b[2Jb")


def test_fifty_thousand_tokens_leave_little_behind() -> None:
    many = stream([((" a", " b"), 2, " c"), ((" d",), 0, " e\n")] * 12_500)
    run = Run()
    tracemalloc.start()
    for event in many:
        run.add(event)
    grown, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert run.stats.new_tokens == 50_000
    assert grown < 30e6


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
