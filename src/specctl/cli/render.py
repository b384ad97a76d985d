"""What `run` shows, as folds over the events of one answer. None of them needs a model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from specctl import events
from specctl.cli import console, figures, paint
from specctl.cli.safe_text import SafeText
from specctl.cli.status import StatusLine
from specctl.decode.stats import Stats
from specctl.events import Emitted, Event, Finished, Prefilled, Started


class Sink(Protocol):
    def take(self, event: Event, stats: Stats) -> None: ...

    def close(self, stats: Stats, *, complete: bool) -> None:
        """Called once, whatever happened; not `complete` if the events broke off with an exception."""


def follow(stream: Iterator[Event], sink: Sink) -> str:
    """Feeds all events to the sink and returns why the answer ended."""
    stats = Stats()
    reason = "cancelled"
    complete = False
    try:
        for event in stream:
            stats.add(event)
            sink.take(event, stats)
            if isinstance(event, Finished):
                reason = event.reason
        complete = True
    finally:
        sink.close(stats, complete=complete)
    return reason


@dataclass(frozen=True, slots=True)
class Look:
    """`live`: figures are redrawn on standard error while the answer is written."""

    show_draft: bool = False
    live: bool = False
    quiet: bool = False
    verbose: bool = False


class PlainText:
    """For pipes: the bytes of the answer and one newline on standard output."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._painter = paint.Painter()
        self._status = StatusLine(under_text=look.show_draft)
        self._safe = SafeText()
        self._exact = True

    def take(self, event: Event, stats: Stats) -> None:
        if isinstance(event, Started):
            self._exact = event.exact
        if isinstance(event, (Emitted, Finished)):
            console.out(event.text)
        for segment in self._painter.take(event) if self._look.show_draft else ():
            text = paint.on_stderr(segment, self._safe)
            self._status.before_text(text)
            console.err(console.paint(text, segment.style, sys.stderr))
        if self._look.live and isinstance(event, Emitted) and self._status.due():
            self._status.show(figures.live_line(stats))

    def close(self, stats: Stats, *, complete: bool) -> None:
        self._status.hide()
        if not complete:
            return
        console.out("\n")
        if self._look.show_draft:
            console.err("\n")
        if not self._look.quiet:
            figures.say(stats, exact=self._exact, verbose=self._look.verbose)


class TerminalText:
    """For a terminal: the answer as it comes, a live line under it, the figures at the end."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._painter = paint.Painter()
        self._status = StatusLine(under_text=True)
        self._safe = SafeText()
        self._exact = True

    def take(self, event: Event, stats: Stats) -> None:
        if isinstance(event, Started):
            self._exact = event.exact
        for segment in self._painter.take(event):
            self._write(segment)
        if self._look.live and isinstance(event, Emitted) and self._status.due():
            self._status.show(figures.live_line(stats))

    def _write(self, segment: paint.Segment) -> None:
        if segment.style in ("rejected", "dim"):
            if self._look.show_draft:
                text = paint.on_stderr(segment, self._safe)
                self._status.before_text(text)
                console.err(console.paint(text, segment.style, sys.stderr))
            return
        text = self._safe.feed(segment.text)
        self._status.before_text(text)
        console.out(console.paint(text, segment.style, sys.stdout) if self._look.show_draft else text)

    def close(self, stats: Stats, *, complete: bool) -> None:
        self._status.hide()
        if self._status.column:
            console.out("\n")
        if complete and not self._look.quiet:
            figures.say(stats, exact=self._exact, verbose=self._look.verbose)


class JsonDocument:
    """Everything about the answer in one document, at the end."""

    def __init__(self, *, pair: str | None) -> None:
        self._started: Started | None = None
        self._answer: dict[str, Any] = {"schema": 1, "text": "", "token_ids": [], "prompt_tokens": 0}
        self._answer |= {"finish_reason": "cancelled", "pair": pair}

    def take(self, event: Event, stats: Stats) -> None:
        match event:
            case Started():
                self._started = event
            case Prefilled():
                self._answer["prompt_tokens"] = len(event.prompt)
            case Emitted():
                self._answer["token_ids"] += event.tokens
                self._answer["text"] += event.text
            case Finished():
                self._answer["text"] += event.text
                self._answer["finish_reason"] = event.reason

    def close(self, stats: Stats, *, complete: bool) -> None:
        if not complete:
            return
        names = (
            "tool",
            "profile",
            "target",
            "draft",
            "dtype",
            "device",
            "numerics",
            "accept",
            "exact",
            "seed",
        )
        run = {name: getattr(self._started, name, None) for name in names}
        console.document({**self._answer, **run, "stats": stats.summary()})


class JsonLines:
    """The events themselves, one a line, as they happen."""

    def take(self, event: Event, stats: Stats) -> None:
        console.json_line(events.to_json(event))

    def close(self, stats: Stats, *, complete: bool) -> None:
        pass
