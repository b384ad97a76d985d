"""Which part of an answer was accepted, which was the target's own, and what was rejected on the way."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NamedTuple

from specctl.chat.fold import ahead
from specctl.cli import console
from specctl.cli.safe_text import SafeText, safe_line
from specctl.events import Branched, Drafted, Emitted, Event, Finished, Verified


class Segment(NamedTuple):
    text: str
    style: console.Style


class Painter:
    """Events in, painted segments out: as they happen, the rejected ones where they were tried."""

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
            case Branched() if event.keys or event.hit is not None:
                yield Segment(f"‹{ahead(event)}›", "dim")
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
        rejected = "".join(self._drafted.pieces[accepted:]) if self._drafted else ""
        if rejected:
            yield Segment(rejected, "rejected")
        if text[cut:]:
            yield Segment(text[cut:], "bonus")


def on_stderr(segment: Segment, safe: SafeText) -> str:
    """The segment as standard error may show it; without colours, brackets mark what was rejected."""
    if segment.style == "dim":
        return segment.text
    if segment.style != "rejected":
        return safe.feed(segment.text)
    text = safe_line(segment.text)
    return text if console.has_colour(sys.stderr) else f"[-{text}-]"
