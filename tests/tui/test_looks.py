"""What the screens look like, as pictures: a change shows in the diff, and has to be wanted.

SPECCTL_DRAW_LOOKS=1 draws them anew (`python -m pytest tests/tui/test_looks.py`). They hold for the pinned Textual.
"""

from __future__ import annotations

import asyncio
import os
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
from tui_scenes import ScriptedEngine, chat, send, settle

from specctl.errors import MachineError
from specctl.tui.chat import ChatScreen

LOOKS = Path(__file__).with_name("looks")
PINS = Path(__file__).parents[2] / "constraints.txt"

ANSWER = [
    ((" The", " sky"), 2, " is", (0.97, 0.62), (0.9, 0.81)),
    ((" red", " now"), 0, " **blue**", (0.01, 0.04), (0.55, 0.3)),
    ((" because", " air", " scatters"), 1, " short", (1.0, 0.33, 0.7), (0.98, 0.71, 0.66)),
    ((), 0, " waves:\n\n```python\n"),
    (("for", " wave", " in", " light"), 4, ":\n", (0.4, 0.9, 0.999, 0.8), (0.5, 0.8, 0.99, 0.9)),
    (("   ", " scatter"), 2, "(wave)\n```\n\n1. blue\n2. violet\n", (0.9, 0.91), (0.8, 0.9)),
]


@dataclass(frozen=True)
class Look:
    """A scene, and the conditions it is drawn under."""

    scene: Callable[[Any, ChatScreen, ScriptedEngine], Awaitable[None]]
    size: tuple[int, int] = (120, 36)
    theme: str = "textual-dark"
    environment: dict[str, str] = field(default_factory=dict)
    chances: bool = False


async def answered(pilot: Any, screen: ChatScreen, engine: ScriptedEngine) -> None:
    await send(pilot, screen, "Why is the sky blue? Show it in code.")


async def failed(pilot: Any, screen: ChatScreen, engine: ScriptedEngine) -> None:
    await answered(pilot, screen, engine)
    engine.error = MachineError(
        "out of memory", hint="try /set max_new_tokens 128, /clear, or a smaller pair"
    )
    await send(pilot, screen, "And at night?")


async def helped(pilot: Any, screen: ChatScreen, engine: ScriptedEngine) -> None:
    await send(pilot, screen, "/help")
    await pilot.press("slash", "s")


async def nothing(pilot: Any, screen: ChatScreen, engine: ScriptedEngine) -> None:
    await pilot.pause()


LOOK = {
    "80x24": Look(answered, (80, 24)),
    "120x36": Look(answered),
    "160x45": Look(answered, (160, 45), chances=True),
    "no-colour": Look(answered, environment={"NO_COLOR": "1"}),
    "light": Look(answered, theme="textual-light"),
    "error": Look(failed, (80, 24)),
    "help": Look(helped),
    "picker": Look(nothing, (80, 24)),
}


def draw(name: str, monkeypatch: pytest.MonkeyPatch) -> str:
    look = LOOK[name]
    for variable, value in look.environment.items():
        monkeypatch.setenv(variable, value)
    engine = ScriptedEngine([tuple(one) if look.chances else tuple(one[:3]) for one in ANSWER])  # type: ignore[arg-type, misc]
    engine.lacking = name == "picker"

    async def run() -> str:
        app, screen = chat(engine, theme=look.theme)
        app.animation_level = "none"
        async with app.run_test(size=look.size) as pilot:
            screen.query_one("#prompt").cursor_blink = False  # type: ignore[attr-defined]
            if not engine.lacking:
                await settle(pilot, screen)
            await look.scene(pilot, screen, engine)
            await pilot.pause()
            return app.export_screenshot(title="specctl chat")

    return re.sub(r"terminal-\d+", "specctl", asyncio.run(run())) + "\n"


@pytest.mark.skipif(
    f"textual=={version('textual')}\n" not in PINS.read_text()
    or f"rich=={version('rich')}\n" not in PINS.read_text(),
    reason="pictures hold for the pinned Textual and Rich",
)
@pytest.mark.parametrize("name", LOOK)
def test_the_screen_looks_as_it_did(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("CONFIG", "DATA", "CACHE"):
        monkeypatch.setenv(f"SPECCTL_{folder}_DIR", str(tmp_path / folder))
    for variable in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(variable, raising=False)
    picture, drawn = LOOKS / f"{name}.svg", draw(name, monkeypatch)
    if os.environ.get("SPECCTL_DRAW_LOOKS"):
        LOOKS.mkdir(exist_ok=True)
        picture.write_text(drawn, encoding="utf-8")
    if drawn != picture.read_text(encoding="utf-8"):
        (tmp_path / f"{name}.svg").write_text(drawn, encoding="utf-8")
        pytest.fail(f"`{name}` looks different: compare {picture} with {tmp_path / name}.svg")
