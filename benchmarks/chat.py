"""What the chat costs: tokens/s in it against the bare session, and milliseconds a screen update.

python benchmarks/chat.py            # SmolLM2, taking turns; then 50,000 scripted tokens
"""

from __future__ import annotations

import asyncio
import tracemalloc
from collections.abc import Iterator
from statistics import median
from time import perf_counter
from typing import Any

from specctl.chat.config import ChatConfig
from specctl.chat.conversation import stats_of
from specctl.chat.local import LocalEngine
from specctl.cli import ready
from specctl.events import Drafted, Emitted, Event, Timed, Verified
from specctl.profile import read
from specctl.store.progress import SilentProgress
from specctl.tui.app import Workbench
from specctl.tui.chat import UPDATES_PER_S, ChatScreen

PROMPT = "Explain how rain forms, in two paragraphs."


async def in_chat(engine: LocalEngine, times: int) -> list[float]:
    """Seconds per token of whole answers, the panes drawn at 120x36."""
    screen = ChatScreen(engine, read.load("default"), None)
    spent: list[float] = []
    async with Workbench(lambda: screen, ChatConfig()).run_test(size=(120, 36)):
        for _ in range(times):
            while screen.busy or screen.ready is None:
                await asyncio.sleep(0.02)
            screen.talked.exchanges.clear()
            begun = perf_counter()
            await screen.ask(PROMPT)
            while screen.busy:
                await asyncio.sleep(0.02)
            assert screen.talked.last is not None
            spent.append((perf_counter() - begun) / stats_of(screen.talked.last.events).new_tokens)
    return spent


def bare(engine: LocalEngine) -> float:
    begun = perf_counter()
    events = list(engine.reply([{"role": "user", "content": PROMPT}], cancelled=lambda: False))
    return (perf_counter() - begun) / stats_of(events).new_tokens


def scripted(rounds: int) -> Iterator[list[Event]]:
    """Two rounds an update, as fast as they come."""
    for number in range(1, rounds + 1):
        row = (0, number, 0)
        end = ".\n\n" if number % 20 == 0 else ""
        yield [
            Drafted(*row, (1, 2, 3), (" one", " two", " three")),
            Verified(*row, 3, 2, 7, " four" + end),
            Emitted(*row, (1, 2, 7), " one two four" + end),
            Timed(number, 0, 1, 0.001, 0.03, 0.031),
        ]


async def updates(tokens: int) -> tuple[float, float]:
    """Median milliseconds a screen update, and megabytes gained by the figures' fold and the drawn text."""
    engine: Any = LocalEngine(ready.open_for_chat, ready.missing_for_chat)
    screen = ChatScreen(engine, read.load("default"), None)
    spent: list[float] = []
    async with Workbench(lambda: screen, ChatConfig()).run_test(size=(120, 36)) as pilot:
        while screen.busy or screen.ready is None:
            await pilot.pause(0.05)
        screen._generate = lambda *_: None  # type: ignore[method-assign]
        await screen.ask(PROMPT)
        tracemalloc.start()
        for batch in scripted(tokens // 3):
            screen._inbox.extend(batch)
            begun = perf_counter()
            await screen._drain()
            spent.append(perf_counter() - begun)
        grown = tracemalloc.get_traced_memory()[0]
    return 1000 * median(spent), grown / 1e6


def main() -> None:
    engine = LocalEngine(ready.open_for_chat, ready.missing_for_chat)
    engine.open(read.load("default"), SilentProgress())
    ratios = []
    for _ in range(3):
        alone = bare(engine)
        ratios.append(alone / asyncio.run(in_chat(engine, 2))[-1])
    print(f"tokens/s in chat against none, {UPDATES_PER_S} updates/s: {median(ratios):.3f} of 1 ({ratios})")
    ms, grown = asyncio.run(updates(50_000))
    print(f"50,000 tokens: {ms:.2f} ms an update (median), {grown:.1f} MB")


if __name__ == "__main__":
    main()
