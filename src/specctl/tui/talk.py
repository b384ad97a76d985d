"""The conversation: prompts as typed, answers as Markdown that streams, notices in between.

One widget for all of it, which knows its rows and draws those in sight. What is finished of an answer is drawn
once; with each update only the block that still grows is drawn anew.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TypeVar

from rich.segment import Segment
from rich.style import Style as Colours
from textual import events
from textual.cache import LRUCache
from textual.content import Content
from textual.geometry import Region, Size
from textual.scroll_view import ScrollView
from textual.selection import Selection
from textual.strip import Strip
from textual.style import Style
from textual.widget import Widget

from specctl.cli.safe_text import SafeText, safe_text
from specctl.tui import look
from specctl.tui.markdown import BLANK, Row, draw, wrapped
from specctl.tui.pieces import CHARS, Piece, pieces

STRIPS = 256
"""Rows kept as they are drawn; the others are text."""

_STYLES = {"user": "bold $text-accent", "notice": look.QUIET, "error": "bold $text-error"}
_MARKS = {"user": "❯ ", "error": "error: "}


class Part(ABC):
    """Something said. `at` and `height` are its place among the rows of the talk, which keeps them."""

    def __init__(self, talk: Talk) -> None:
        self.talk = talk
        self.at = self.height = 0

    @abstractmethod
    def rows(self, width: int) -> list[Row]:
        """All of it, a blank row at its end."""


_P = TypeVar("_P", bound=Part)


class Saying(Part):
    """A text as it is."""

    def __init__(self, talk: Talk, text: str, kind: str) -> None:
        super().__init__(talk)
        self.kind = kind
        self.text = _MARKS.get(kind, "") + safe_text(text)

    def rows(self, width: int) -> list[Row]:
        return [*wrapped(Content.styled(self.text, _STYLES[self.kind]), width), BLANK]


class Answer(Part):
    """An answer that grows; safe at every split of its text."""

    def __init__(self, talk: Talk) -> None:
        super().__init__(talk)
        self._safe = SafeText()
        self._done: list[Piece] = []
        self._open = Piece("", "gap")
        self._kept = 0  # rows of what is done

    @property
    def text(self) -> str:
        """What was drawn, as Markdown."""
        return "".join(piece.text for piece in (*self._done, self._open))

    def add(self, text: str) -> None:
        shown = self._safe.feed(text)
        if not shown:
            return
        self._open = Piece(self._open.text + shown, self._open.joint)
        done = self._finish() if "\n" in shown or len(self._open.text) > 2 * CHARS else []
        width, kept = self.talk.room, self._kept
        settled = self._drawn(done, width, first=not self._done)
        self._done += done
        self._kept += len(settled)
        self.talk.put(self, kept, [*settled, *self._tail(width)])

    def replace(self, text: str) -> None:
        """Another text instead of all there was."""
        self._safe = SafeText()
        *self._done, self._open = pieces(safe_text(text))
        self.talk.put(self, 0, self.rows(self.talk.room))

    def rows(self, width: int) -> list[Row]:
        settled = self._drawn(self._done, width, first=True)
        self._kept = len(settled)
        return [*settled, *self._tail(width)]

    def _finish(self) -> list[Piece]:
        """Takes out of the open piece what no further text can change: all before its last block, line or cut."""
        whole, line = self._open.text, ""
        if len(whole) <= 2 * CHARS:
            at = whole.rfind("\n") + 1
            whole, line = whole[:at], whole[at:]
        *done, last = pieces(whole, self._open.joint)
        if done and not last.text.strip():  # blank lines alone
            last = Piece(done[-1].text + last.text, done[-1].joint)
            done = done[:-1]
        self._open = Piece(last.text + line, last.joint)
        return done

    def _tail(self, width: int) -> list[Row]:
        return [*self._drawn([self._open], width, first=not self._done), BLANK]

    @staticmethod
    def _drawn(found: Sequence[Piece], width: int, *, first: bool) -> list[Row]:
        rows: list[Row] = []
        for text, joint in found:
            drawn = draw(text, width, indented_code=joint != "cut")
            rows += [BLANK, *drawn] if joint == "gap" and drawn and not first else drawn
            first = first and not drawn
        return rows


class Talk(ScrollView, can_focus=True):
    """Stays at the end until one scrolls away from it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[Part] = []
        self._rows: list[Row] = []
        self._strips: LRUCache[int, Strip] = LRUCache(STRIPS)
        self._colours: dict[Style, Colours] = {}
        self._width = 0
        self._at_end = True
        self._bar = (-1, -1)  # where the scroll bar was drawn, in cells

    def say(self, text: str, kind: str = "notice") -> Saying:
        """A text as it is. `kind`: `user`, `notice` or `error`."""
        return self._append(Saying(self, text, kind))

    def answer(self) -> Answer:
        return self._append(Answer(self))

    def take_out(self, part: Part) -> None:
        """Nothing if it is not there any more."""
        if part in self.parts:
            self.put(part, 0, [])
            self.parts.remove(part)

    def wipe(self) -> None:
        self.parts, self._rows = [], []
        self._moved(0, 0)

    def to_end(self) -> None:
        """And stays there."""
        self._at_end = True
        self.scroll_end(animate=False, immediate=True, force=True)

    @property
    def room(self) -> int:
        """Cells a line of text has."""
        return max(self._width, 20)

    def _append(self, part: _P) -> _P:
        part.at = len(self._rows)
        self.parts.append(part)
        self.put(part, 0, part.rows(self.room))
        return part

    def put(self, part: Part, keep: int, rows: Sequence[Row]) -> None:
        """A part's rows, of which the first `keep` are the ones it had."""
        start, before = part.at + keep, len(self._rows)
        self._rows[start : part.at + part.height] = rows
        part.height = keep + len(rows)
        grown = len(self._rows) - before
        for later in reversed(self.parts):
            if later is part:
                break
            later.at += grown
        self._moved(start, before)

    def _moved(self, start: int, before: int) -> None:
        """The rows from `start` on are others now; there were `before` in all."""
        height = len(self._rows)
        for y in [y for y in self._strips.keys() if y >= start]:  # noqa: SIM118 - not a dict
            self._strips.discard(y)
        room = self.scrollable_size.height
        if (height > room) != (before > room) or not self.show_vertical_scrollbar:
            self.virtual_size = Size(self._width, height)
        else:  # where the scroll bar stays, the screen need not be laid out anew
            self.set_reactive(Widget.virtual_size, Size(self._width, height))
            self._move_bar()
        if self._at_end:
            self.scroll_end(animate=False, immediate=True, force=True)
        self.refresh_lines(start, max(height, before) - start)

    def _move_bar(self) -> None:
        """Drawing it costs as much as all of the text, so only where a cell of it changes."""
        height, room = max(len(self._rows), 1), self.scrollable_size.height
        place = (round(room * self.scroll_y / height), round(room * room / height))
        if place != self._bar:
            self._bar = place
            self.vertical_scrollbar.window_virtual_size = height
            self.vertical_scrollbar.position = self.scroll_y

    # What Textual asks for --------------------------------------------------------------------------------------

    def on_resize(self, event: events.Resize) -> None:
        width = self.outer_size.width - self.styles.gutter.width - self.styles.scrollbar_size_vertical
        if width == self._width:
            if self._at_end:
                self.to_end()
            return
        self._width = width
        self._rows = []
        for part in self.parts:
            rows = part.rows(self.room)
            part.at, part.height = len(self._rows), len(rows)
            self._rows += rows
        self._moved(0, 0)

    def watch_scroll_y(self, old_value: float, new_value: float) -> None:
        self._at_end = new_value >= self.max_scroll_y
        if round(old_value) != round(new_value):
            self.refresh()
        if self.show_vertical_scrollbar:
            self._move_bar()

    def notify_style_update(self) -> None:
        super().notify_style_update()
        self._strips.clear()
        self._colours.clear()

    def render_lines(self, crop: Region) -> list[Strip]:
        """Straight from the rows: a border or a background that shines through would not be drawn."""
        top, (left, right) = self.scroll_offset.y, crop.column_span
        strips = [self._strip(top + y) for y in crop.line_range]
        return strips if right - left == self.outer_size.width else [one.crop(left, right) for one in strips]

    def _strip(self, y: int) -> Strip:
        strip = self._strips.get(y)
        if strip is None:
            strip = self._strips[y] = self._drawn(y)
        return strip

    def _drawn(self, y: int) -> Strip:
        content, _, _, fill = self._rows[y] if y < len(self._rows) else BLANK
        selection = self.text_selection
        if selection is not None and (span := selection.get_span(y)) is not None:
            start, end = span
            chosen = Style.from_styles(self.screen.get_component_styles("screen--selection"))
            content = content.stylize(chosen, start, len(content) if end == -1 else end)
        base, before = self.visual_style, self.styles.padding.left
        room = max(self.outer_size.width - before - content.cell_length, 0)
        filled = base + Style.parse(fill) if fill else base
        segments = [Segment(" " * before, self._coloured(base))]
        x = 0
        for text, style in (*content.render(base, "", look.parsed), (" " * room, filled)):
            place = Colours.from_meta({"offset": (x, y)})  # which the selection goes by
            segments.append(Segment(text, self._coloured(style) + place))
            x += len(text)
        return Strip(segments, before + content.cell_length + room).crop(0, self.outer_size.width)

    def _coloured(self, style: Style) -> Colours:
        """As the terminal shows it: in fewer colours, or none."""
        if style not in self._colours:
            self._colours[style] = look.coloured(self, style)
        return self._colours[style]

    @property
    def allow_select(self) -> bool:
        return True

    def selection_updated(self, selection: Selection | None) -> None:
        self._strips.clear()
        self.refresh()

    def get_selection(self, selection: Selection) -> tuple[str, str]:
        """What was selected, lines that were wrapped in one."""
        found: list[str] = []
        for y, (content, end, margin, _) in enumerate(self._rows):
            if (span := selection.get_span(y)) is not None:
                first, last = max(span[0], margin), span[1]
                found.append(content.plain[first:] + end if last == -1 else content.plain[first:last])
        return "".join(found).rstrip("\n"), "\n"
