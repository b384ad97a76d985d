"""A batch as it runs: rows done, speed, acceptance and time left, redrawn in place on a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from specctl.cli import console
from specctl.decode.stats import Stats
from specctl.events import Event, Finished, Timed

if TYPE_CHECKING:
    from rich.progress import Progress


class BatchProgress:
    """In a `with`; `watch` passes the events on. Shows nothing where standard error is no terminal."""

    def __init__(self, total: int, done: int, *, quiet: bool) -> None:
        self.cancelled = 0
        self._total = total
        self._before = self._done = done
        self._stats = Stats()
        self._begun = time.monotonic()
        self._live = console.is_live(sys.stderr) and not quiet
        self._bars: Progress | None = None

    def __enter__(self) -> BatchProgress:
        if self._live:
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn

            screen = Console(stderr=True, highlight=False)
            text = TextColumn("{task.description}", markup=False)
            self._bars = Progress(BarColumn(20), text, console=screen, transient=True)
            self._bars.add_task(self._figures(), total=self._total, completed=self._done)
            self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bars is not None:
            self._bars.stop()

    def watch(self, events: Iterable[Event]) -> Iterator[Event]:
        for event in events:
            self._stats.add(event)
            if isinstance(event, Finished):
                self.cancelled += event.reason == "cancelled"
                self._done += event.reason != "cancelled"
            if self._bars is not None and isinstance(event, Timed):
                task = self._bars.task_ids[0]
                self._bars.update(task, completed=self._done, description=self._figures())
            yield event

    def summary(self, schedule: str) -> str:
        """One line for the end of the run."""
        stats = self._stats
        parts = [f"{self._done} of {self._total} answers", f"{stats.new_tokens} tokens", self._speed()]
        if stats.acceptance_rate is not None:
            parts.append(f"{stats.acceptance_rate:.0%} of drafts accepted")
        if schedule != "ragged" and stats.decode_s:
            parts.append(f"realigning {stats.align_s / stats.decode_s:.1%} of decoding")
        if schedule == "exspec" and stats.grouping_rate is not None:
            parts.append(f"{stats.grouping_rate:.0%} of rounds in groups of one width")
        if self.cancelled:
            parts.append("interrupted; with -o, the same command goes on from here")
        return " · ".join(parts)

    def _figures(self) -> str:
        rate = self._stats.acceptance_rate
        accepted = "" if rate is None else f" · {rate:.0%} accepted"
        return f"{self._done}/{self._total} rows · {self._speed()}{accepted} · {self._time_left()}"

    def _speed(self) -> str:
        """Over everything, prefill included: what the whole run will take is to be seen from it."""
        return f"{self._stats.new_tokens / max(self._elapsed(), 1e-9):.1f} tokens/s"

    def _time_left(self) -> str:
        finished = self._done - self._before
        if not finished:
            return "ETA –"
        seconds = round(self._elapsed() / finished * (self._total - self._done))
        return f"ETA {seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"

    def _elapsed(self) -> float:
        return time.monotonic() - self._begun
