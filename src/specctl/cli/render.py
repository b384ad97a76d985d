"""What `run` shows, as folds over the events of one answer. None of them needs a model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol

from specctl import events
from specctl.cli import console
from specctl.cli.safe_text import SafeText, safe_line
from specctl.cli.status import StatusLine
from specctl.decode.stats import Stats
from specctl.events import Drafted, Emitted, Event, Finished, Prefilled, Started, Verified

MANY_ROUNDS = 50  # below that a percentage says more than is known


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


class Segment(NamedTuple):
    text: str
    style: console.Style


class Painter:
    """Says which part of the answer was accepted, which was the target's own, and what was rejected."""

    def __init__(self) -> None:
        self._drafted: Drafted | None = None
        self._verified: Verified | None = None

    def take(self, event: Event) -> Iterator[Segment]:
        match event:
            case Drafted():
                self._drafted = event
            case Verified():
                self._verified = event
            case Emitted():
                yield from self._emitted(event)
            case Finished() if event.text:
                yield Segment(event.text, "plain")

    def _emitted(self, event: Emitted) -> Iterator[Segment]:
        accepted = self._verified.accepted if self._verified else 0
        bonus = self._verified.bonus_piece if self._verified else ""
        text = event.text
        # A stop string may cut the bonus off, and bytes held back may keep it open: then all is one segment.
        cut = len(text) - len(bonus) if bonus and text.endswith(bonus) else len(text) if accepted else 0
        if text[:cut]:
            yield Segment(text[:cut], "accepted")
        for piece in self._drafted.pieces[accepted:] if self._drafted else ():
            yield Segment(piece, "rejected")
        if text[cut:]:
            yield Segment(text[cut:], "bonus")


class PlainText:
    """For pipes: the bytes of the answer and one newline on standard output."""

    def __init__(self, *, show_draft: bool, live: bool, quiet: bool) -> None:
        self._painter = Painter() if show_draft else None
        self._status = StatusLine(under_text=show_draft) if live and not quiet else None
        self._marks = SafeText()
        self._quiet = quiet
        self._exact = True

    def take(self, event: Event, stats: Stats) -> None:
        if isinstance(event, Started):
            self._exact = event.exact
        if isinstance(event, (Emitted, Finished)):
            console.out(event.text)
        for segment in self._painter.take(event) if self._painter else ():
            _mark(segment, self._marks, self._status)
        if self._status and isinstance(event, Emitted) and self._status.due():
            self._status.show(live_line(stats))

    def close(self, stats: Stats, *, complete: bool) -> None:
        if self._status:
            self._status.hide()
        if complete:
            console.out("\n")
            if self._painter:
                console.err("\n")
            if not self._quiet:
                console.note(stats_line(stats, exact=self._exact))


class TerminalText:
    """For a terminal: the answer as it comes, a live line under it, the figures at the end."""

    def __init__(self, *, show_draft: bool, live: bool, quiet: bool) -> None:
        self._painter = Painter()
        self._show_draft = show_draft
        self._status = StatusLine(under_text=True)
        self._live = live and not quiet
        self._quiet = quiet
        self._safe = SafeText()
        self._exact = True

    def take(self, event: Event, stats: Stats) -> None:
        if isinstance(event, Started):
            self._exact = event.exact
        for segment in self._painter.take(event):
            if segment.style == "rejected":
                if self._show_draft:
                    _mark(segment, self._safe, self._status)
                continue
            text = self._safe.feed(segment.text)
            self._status.before_text(text)
            console.out(console.paint(text, segment.style, sys.stdout) if self._show_draft else text)
        if self._live and isinstance(event, Emitted) and self._status.due():
            self._status.show(live_line(stats))

    def close(self, stats: Stats, *, complete: bool) -> None:
        self._status.hide()
        if self._status.column:
            console.out("\n")
        if complete and not self._quiet:
            console.note(stats_line(stats, exact=self._exact))


class JsonDocument:
    """Everything about the answer in one document, at the end."""

    def __init__(self, *, pair: str | None) -> None:
        self._started: Started | None = None
        self._head: dict[str, Any] = {"schema": 1, "text": "", "token_ids": [], "prompt_tokens": 0}
        self._head |= {"finish_reason": "cancelled", "pair": pair}

    def take(self, event: Event, stats: Stats) -> None:
        match event:
            case Started():
                self._started = event
            case Prefilled():
                self._head["prompt_tokens"] = len(event.prompt)
            case Emitted():
                self._head["token_ids"] += event.tokens
                self._head["text"] += event.text
            case Finished():
                self._head["text"] += event.text
                self._head["finish_reason"] = event.reason

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
        console.document({**self._head, **run, "stats": stats.summary()})


class JsonLines:
    """The events themselves, one a line, as they happen."""

    def take(self, event: Event, stats: Stats) -> None:
        console.json_line(events.to_json(event))

    def close(self, stats: Stats, *, complete: bool) -> None:
        pass


def _mark(segment: Segment, safe: SafeText, status: StatusLine | None) -> None:
    """Writes a painted segment to standard error."""
    if segment.style == "rejected":
        text = safe_line(segment.text)
        if not console.has_colour(sys.stderr):
            text = f"[-{text}-]"
    else:
        text = safe.feed(segment.text)
    if status:
        status.before_text(text)
    console.err(console.paint(text, segment.style, sys.stderr))


def live_line(stats: Stats) -> str:
    return " · ".join(
        part for part in (_speed(stats), _acceptance(stats), f"{stats.new_tokens} tokens") if part
    )


def stats_line(stats: Stats, *, exact: bool) -> str:
    rounds = f"{stats.rounds} target forwards"
    parts = [f"{stats.new_tokens} tokens", _speed(stats), rounds, _acceptance(stats)]
    if not exact:
        parts.append("lossy: not the target's own distribution")
    return " · ".join(part for part in parts if part)


def _speed(stats: Stats) -> str:
    return f"{stats.tokens_per_s:.1f} tokens/s" if stats.tokens_per_s else ""


def _acceptance(stats: Stats) -> str:
    if not stats.drafted or stats.mean_acceptance_length is None:
        return "nothing drafted" if stats.rounds else ""
    counts = f"accepted {stats.accepted} of {stats.drafted}"
    if stats.rounds >= MANY_ROUNDS and stats.acceptance_rate is not None:
        counts += f" ({stats.acceptance_rate:.0%})"
    return f"{counts} · mean acceptance length {stats.mean_acceptance_length:.2f}"
