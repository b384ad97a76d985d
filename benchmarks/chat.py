"""What the chat costs, and how quickly it answers keys. On an idle machine:

python benchmarks/chat.py             # all of it, SmolLM2
python benchmarks/chat.py speed       # tokens/s in the chat against the bare session, taking turns
python benchmarks/chat.py keys        # key press to echo while an answer comes, and key press to stop
python benchmarks/chat.py updates     # 50,000 scripted tokens, one answer and many; no model
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from statistics import median, quantiles
from tempfile import TemporaryDirectory
from time import perf_counter, thread_time
from typing import Any

from textual.events import Key

from specctl.chat.config import ChatConfig
from specctl.chat.conversation import stats_of
from specctl.chat.engine import Ready
from specctl.chat.local import LocalEngine
from specctl.chat.one_thread import OneThread
from specctl.cli import ready
from specctl.events import Drafted, Emitted, Event, Started, Timed, Verified
from specctl.profile import read
from specctl.store.progress import SilentProgress
from specctl.tui.app import Workbench
from specctl.tui.chat import UPDATES_PER_S, ChatScreen
from specctl.tui.prompt import Prompt

PROMPT = "Explain how rain forms, in two paragraphs."
SIZE = (120, 36)
TOKENS = int(os.environ.get("SPECCTL_BENCH_TOKENS", "50000"))
ROUNDS = (1, 16)  # an update, of 3 tokens each: at 15 updates/s 45 tokens/s, as on a small machine, and 720
TURNS = int(os.environ.get("SPECCTL_BENCH_TURNS", "5"))


def loaded() -> OneThread:
    engine = OneThread(LocalEngine(ready.open_for_chat, ready.missing_for_chat))
    engine.open(read.load("default"), SilentProgress())
    if engine.baseline() is None:
        engine.probe(lambda: False)
    return engine


async def rest(screen: ChatScreen) -> None:
    while screen.busy or screen.ready is None:
        await asyncio.sleep(0.02)


async def in_turns() -> list[float]:
    """Tokens/s in the chat over those of the bare session, whole answers, the panes drawn."""
    engine = OneThread(LocalEngine(ready.open_for_chat, ready.missing_for_chat))
    screen = ChatScreen(engine, read.load("default"), None)
    pool = partial(asyncio.get_running_loop().run_in_executor, None)
    ratios = []
    async with Workbench(lambda: screen, ChatConfig()).run_test(size=SIZE):
        await rest(screen)
        if engine.baseline() is None:
            await pool(engine.probe, lambda: False)
        for _ in range(TURNS + 1):
            alone = await pool(bare, engine)
            screen.talked.exchanges.clear()
            begun = perf_counter()
            await screen.ask(PROMPT)
            await rest(screen)
            spent = perf_counter() - begun
            assert screen.talked.last is not None
            ratios.append(alone * stats_of(screen.talked.last.events).new_tokens / spent)
    return ratios[1:]


def bare(engine: OneThread) -> float:
    """Seconds per token without a screen, as `run` decodes."""
    begun = perf_counter()
    events = list(engine.reply([{"role": "user", "content": PROMPT}], cancelled=lambda: False))
    return (perf_counter() - begun) / stats_of(events).new_tokens


def speed() -> None:
    ratios = asyncio.run(in_turns())
    shown = ", ".join(f"{ratio:.3f}" for ratio in ratios)
    print(
        f"tokens/s in the chat, {UPDATES_PER_S} updates/s, over the bare session's: {median(ratios):.3f} ({shown})"
    )


async def pressed(engine: OneThread) -> tuple[list[float], float]:
    """Milliseconds from each key to its echo while an answer comes; rounds that ended after the key that stops."""
    screen = ChatScreen(engine, read.load("default"), None)
    echoes: list[float] = []
    async with Workbench(lambda: screen, ChatConfig()).run_test(size=SIZE):
        await rest(screen)
        await screen.ask(PROMPT)
        prompt = screen.query_one(Prompt)
        while screen.busy and len(echoes) < 100:
            begun = perf_counter()
            before = len(prompt.text)
            screen.app.post_message(Key("x", "x"))  # the pilot's own press waits until nothing computes
            while len(prompt.text) == before:
                await asyncio.sleep(0.001)
            drawn = asyncio.Event()
            screen.call_after_refresh(drawn.set)
            await drawn.wait()
            echoes.append(1000 * (perf_counter() - begun))
            await asyncio.sleep(0.05)
        rounds = screen.run_shown.stats.rounds + sum(isinstance(event, Verified) for event in screen._inbox)
        screen.app.post_message(Key("escape", None))
        await rest(screen)
        return echoes, screen.run_shown.stats.rounds - rounds


def keys() -> None:
    engine = loaded()
    echoes: list[float] = []
    late: list[float] = []
    for _ in range(TURNS):
        found, rounds = asyncio.run(pressed(engine))
        echoes += found
        late.append(rounds)
    print(
        f"key to echo while an answer comes: median {median(echoes):.1f} ms, 95th percentile "
        f"{quantiles(echoes, n=20)[-1]:.1f} ms ({len(echoes)} keys); "
        f"rounds ended after the stop key: {max(late):.0f}"
    )


class Nobody:
    """An engine that is never asked: the answer is put in by hand."""

    def missing(self, profile: Any) -> bool:
        return False

    def open(self, profile: Any, progress: Any) -> Ready:
        return Ready("scripted", None, "cpu", "bfloat16", True, 8192)

    def baseline(self) -> float:
        return 10.0

    def reply(self, messages: Any, **options: Any) -> Iterator[Event]:
        return iter(())


def scripted(rounds: int) -> Iterator[list[Event]]:
    """A round at a time: paragraphs, lists and code; every token and text an object of its own."""
    for n in range(1, rounds + 1):
        word = [f" w{n * 7 % 9973}", f" w{n * 11 % 9967}", f" w{n * 13 % 9949}", f" w{n}"]
        end = {0: ".\n\n", 10: ".\n\n- point", 15: "\n- point"}.get(n % 20, "")
        end = {0: "\n```\n\n", 180: ".\n\n```python\n", 190: "\n"}.get(n % 200, end)
        ids = tuple(range(n, n + 4))
        yield [
            Drafted(0, n, n, ids[:3], tuple(word[:3])),
            Verified(0, n, n, 3, 2, ids[3], word[3]),
            Emitted(0, n, n, (*ids[:2], ids[3]), word[0] + word[1] + word[3] + end),
            Timed(n, n, 1, 0.001, 0.03, 0.031),
        ]


async def drawn(tokens: int, answers: int, rounds: int, path: Path) -> tuple[list[float], list[float], float]:
    """Milliseconds of each update (events taken in, screen drawn) of so many rounds, the loop's CPU share,
    megabytes gained. The chat is kept at `path`.
    """
    engine: Any = Nobody()
    gc.collect()
    gc.freeze()  # as the chat does once models are loaded
    screen = ChatScreen(engine, read.load("default"), path)
    taken: list[float] = []
    computed: list[float] = []
    async with Workbench(lambda: screen, ChatConfig()).run_test(size=SIZE):
        await rest(screen)
        screen._generate = lambda *_: None  # type: ignore[assignment, misc, return-value]
        before = 0.0
        for _ in range(answers):
            await screen.ask(PROMPT)
            screen._inbox.append(Started(0, "", "", "", None, "", "", "", "greedy", True, 0, 1))
            for at, batch in enumerate(scripted(tokens // answers // 3)):
                screen._inbox.extend(batch)
                if at % rounds:
                    continue
                if len(taken) == 20:  # what every chat of some length has
                    before = resident()
                begun, used = perf_counter(), thread_time()
                await screen._drain()
                done = asyncio.Event()
                screen.call_after_refresh(done.set)
                await done.wait()
                taken.append(1000 * (perf_counter() - begun))
                computed.append(1000 * (thread_time() - used))
            await screen._finished()
        return taken, computed, resident() - before


def resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


def part(values: Sequence[float], tenth: int) -> float:
    """The median of a tenth of them."""
    size = max(len(values) // 10, 1)
    return median(values[tenth * size :][:size])


def updates() -> None:
    few, many = ROUNDS
    for tokens, answers, rounds in (
        (TOKENS // 10, 1, few),
        (TOKENS, 1, many),
        (TOKENS, max(TOKENS // 250, 2), many),
    ):
        with TemporaryDirectory() as folder:
            path = Path(folder) / "chat.jsonl"
            taken, computed, grown = asyncio.run(drawn(tokens, answers, rounds, path))
        print(
            f"{tokens:,} tokens in {answers} answers, {len(taken):,} updates of {3 * rounds} tokens: median "
            f"{median(computed):.1f} ms of CPU an update (first tenth {part(computed, 0):.1f}, last "
            f"{part(computed, 9):.1f}), 95th percentile {quantiles(computed, n=20)[-1]:.1f} ms, "
            f"{1000 * sum(computed) / tokens:.0f} µs a token; median {median(taken):.1f} ms until the screen "
            f"has it, which waits for its next 60th of a second; resident memory {grown:+.1f} MB"
        )


def main(wanted: Sequence[str]) -> None:
    parts = {"speed": speed, "keys": keys, "updates": updates}
    for name in wanted or parts:
        parts[name]()


if __name__ == "__main__":
    main(sys.argv[1:])
