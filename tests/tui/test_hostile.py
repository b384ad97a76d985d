"""No text of a model, a file or a user commands the terminal, wherever it is shown and wherever it is split."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tui_scenes import ScriptedEngine, chat, send, settle, shown, stream

from hostile import COMMANDS, PAYLOADS
from specctl.chat import history, recording
from specctl.chat.engine import Offer, Ready
from specctl.chat.fold import Round
from specctl.cli.safe_text import SafeText
from specctl.events import Event, Started
from specctl.tui import look
from specctl.tui.app import Workbench
from specctl.tui.race import RaceScreen

EVIL = "\x1b]0;x\x07[bold]\x9b2J[/no]\u202e"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"SPECCTL_{name}_DIR", str(tmp_path / name))


def check(app: Workbench) -> None:
    """Of every cell on the screen, its text and that it is no link."""
    for strip in app.screen._compositor.render_strips():
        for segment in strip:
            assert segment.control is None
            assert not COMMANDS.search(segment.text), ascii(segment.text)
            assert segment.style is None or segment.style.link is None


def test_there_are_enough_of_them_and_the_check_sees_them() -> None:
    assert len(set(PAYLOADS)) >= 200
    assert sum(bool(COMMANDS.search(payload)) for payload in PAYLOADS) > 190


def test_every_split_of_every_payload_is_safe() -> None:
    for payload in PAYLOADS:
        for cut in range(len(payload) + 1):
            answer = SafeText()
            texts = [answer.feed(payload[:cut]) + answer.feed(payload[cut:])]
            one = Round(0, 1, (payload[:cut], payload), 1, payload[cut:], mark=payload)
            texts += ["".join(run for run, _ in line) for line in look.round_lines(one, 60)]
            assert not any(COMMANDS.search(text.replace("\t", "")) for text in texts), (payload, cut)


class Evil(ScriptedEngine):
    """Whatever a model, a profile or a file may name or say is hostile."""

    def open(self, profile: Any, progress: Any) -> Ready:
        super().open(profile, progress)
        return Ready(EVIL, EVIL, EVIL, EVIL, False, 100, (EVIL,))

    def offers(self) -> list[Offer]:
        return [Offer(EVIL, EVIL, None, False)]

    def reply(self, messages: Any, **options: Any) -> Iterator[Event]:
        for event in super().reply(messages, **options):
            yield replace(event, profile=EVIL, target=EVIL) if isinstance(event, Started) else event


def test_the_whole_screen_stays_safe() -> None:
    """All payloads drafted, answered and asked; split at another place each; then names, errors and the race."""
    rounds = [((p[: i % (len(p) + 1)], p), 1, p[i % (len(p) + 1) :]) for i, p in enumerate(PAYLOADS)]
    (recording.sessions_dir()).mkdir(parents=True)
    (recording.sessions_dir() / f"{EVIL}.jsonl".replace("/", "")).write_text("{}")
    history.add(EVIL)

    async def run() -> None:
        engine = Evil()
        app, screen = chat(engine, path=recording.new_path())
        async with app.run_test(size=(120, 36)) as pilot:
            await settle(pilot, screen)
            check(app)
            await pilot.press("up")
            assert "bold" in screen.query_one("#prompt").text  # type: ignore[attr-defined]
            check(app)
            await send(pilot, screen, f"{EVIL} why?")
            check(app)
            for event in stream(rounds):
                screen._inbox.append(event)
                if event.kind == "timed" and event.round % 16 == 0:
                    await screen._drain()
                    await pilot.pause()
                    check(app)
            await screen._drain()
            await pilot.pause()
            check(app)
            for text in (
                "/load",
                "/stats",
                f"/{EVIL}",
                f"/profile {EVIL}",
                f"/load {EVIL}",
                f"/set {EVIL} 1",
            ):
                await send(pilot, screen, text)
                check(app)
            screen.query_one("#prompt").load_text("/load ")  # type: ignore[attr-defined]
            await pilot.pause()
            check(app)
            await pilot.press("escape")
            engine.error = ValueError(EVIL)
            await send(pilot, screen, "once more")
            check(app)
            app.push_screen(RaceScreen(engine, [], [replace(next(stream(rounds)), profile=EVIL)]))  # type: ignore[type-var]
            for _ in range(20):
                await pilot.pause()
            check(app)
            assert "plain decoding failed" in shown(app)

    asyncio.run(run())


def test_the_picker_is_safe() -> None:
    async def run() -> None:
        engine = Evil()
        engine.lacking = True
        app, _ = chat(engine)
        async with app.run_test(size=(80, 24)) as pilot:
            await pilot.pause()
            check(app)

    asyncio.run(run())
