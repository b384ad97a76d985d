"""An engine whose models compute in one thread, whoever asks.

A screen asks from whichever thread of its pool is free. Torch's kernels share their work with threads that belong
to the one that calls. Once a second one has called, there are more of them than cores, they wait for each other
asleep, and on a CPU every token takes up to 1.7 times as long (measured on two cores).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor

from specctl.chat.engine import Engine, Offer, Ready
from specctl.decode.prompt import Message
from specctl.events import Event
from specctl.profile.schema import Profile
from specctl.store.progress import Progress


class OneThread:
    """Raises what the engine raises, in the thread that asked."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="engine")

    def missing(self, profile: Profile) -> bool:
        return self._engine.missing(profile)

    def offers(self) -> list[Offer]:
        return self._engine.offers()

    def baseline(self) -> float | None:
        return self._engine.baseline()

    def open(self, profile: Profile, progress: Progress) -> Ready:
        return self._thread.submit(self._engine.open, profile, progress).result()

    def probe(self, cancelled: Callable[[], bool]) -> float | None:
        return self._thread.submit(self._engine.probe, cancelled).result()

    def reply(
        self,
        messages: Sequence[Message],
        *,
        plain: bool = False,
        attempt: int = 0,
        cancelled: Callable[[], bool],
    ) -> Generator[Event, None, None]:
        events = self._engine.reply(messages, plain=plain, attempt=attempt, cancelled=cancelled)
        try:
            while (event := self._thread.submit(next, events, None).result()) is not None:
                yield event
        finally:
            self._thread.submit(events.close).result()
