"""The conversation: prompts as typed, answers as Markdown that streams, notices in between."""

from __future__ import annotations

from math import ceil

from textual import on
from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.message import Message
from textual.visual import VisualType
from textual.widget import Widget
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownBlock

from specctl.cli.safe_text import SafeText, safe_text
from specctl.tui.pieces import BLOCKS, CHARS, pieces

LIVE = 2
"""Pieces that keep their widgets where no more are in sight; the others keep their text and height."""
MERGED = 8000
"""Characters that folded neighbours are put together to: each costs the screen's layout a little."""
PARTS = 150
"""Prompts, notices and pieces of answers that can be scrolled to."""

_EARLIER = "… what came before is no longer drawn; /export writes all of it"


class Piece(Markdown):
    """Some blocks of an answer. Folded, it has no widgets: its plain text, until it comes into sight."""

    class Seen(Message):
        """It is new, or came into sight."""

        def __init__(self, piece: Piece) -> None:
            super().__init__()
            self.piece = piece

    def __init__(self, text: str = "", *, folded: bool = False) -> None:
        super().__init__(open_links=False)
        self.text = text
        self.folded = folded
        self._asked = False
        self._width = self._rows = 0

    async def on_mount(self) -> None:
        if self.folded:
            self._guess()
        else:
            self.post_message(self.Seen(self))
            await self.update(self.text)

    async def add(self, text: str) -> None:
        self.text += text
        await self.append(text)

    async def shorten(self, text: str, blocks: int) -> None:
        """To its first blocks, which are `text`."""
        self.text = text
        await self.remove_children(list(self.children)[blocks:])

    async def fold(self) -> None:
        self.folded, self._asked, self._width = True, False, self.size.width
        self._rows = self.outer_size.height
        self.styles.height = self._rows
        await self.remove_children()
        before = (
            self.parent.children[at - 1] if self.parent and (at := self.parent.children.index(self)) else None
        )
        if isinstance(before, Piece) and before.folded and len(before.text) + len(self.text) <= MERGED:
            before.text += self.text
            before._rows += self._rows
            before.styles.height = before._rows
            await self.remove()

    async def unfold(self) -> None:
        self.folded = False
        self.styles.height = "auto"
        await self.update(self.text)

    def on_resize(self) -> None:
        if self.folded and self.size.width != self._width:
            self._guess()

    def _guess(self) -> None:
        """A height from the lengths of its lines; the true one is known when it comes into sight."""
        self._width = self.size.width
        room = max(self._width, 20)
        self._rows = sum(max(ceil(len(line) / room), 1) for line in self.text.split("\n"))
        self.styles.height = self._rows

    def render(self) -> VisualType:
        if not self.folded:
            return super().render()
        if not self._asked:
            self._asked = True
            self.post_message(self.Seen(self))
        return Content(self.text)


class Answer(Vertical):
    """An answer that grows; safe at every split of its text. Only its last blocks are ever drawn anew."""

    def __init__(self) -> None:
        super().__init__()
        self._safe = SafeText()
        self._tail = Piece()

    def compose(self) -> ComposeResult:
        yield self._tail

    async def add(self, text: str) -> None:
        shown = self._safe.feed(text)
        if not shown:
            return
        if self._tail.folded:
            await self._tail.unfold()
        await self._tail.add(shown)
        await self._settle()

    async def _settle(self) -> None:
        """What is finished leaves the piece that grows."""
        tail, blocks = self._tail, self._tail.query_children(MarkdownBlock)
        if len(tail.text) <= CHARS and len(blocks) <= BLOCKS:
            return
        if len(tail.text) > 2 * CHARS or len(blocks) > 2 * BLOCKS:  # much at once, or one large block
            tail.text, *between, rest = pieces(tail.text)
            await tail.update(tail.text)
            await self.mount_all(Piece(piece, folded=True) for piece in between)
            await self._begin(Piece(rest))
            return
        # A block with a margin above it would begin a piece lower than it would follow a block.
        fit = [at for at in range(1, len(blocks)) if not blocks[at].styles.margin.top]
        if fit:
            lines = tail.text.splitlines(keepends=True)
            start = blocks[fit[-1]].source_range[0]
            await tail.shorten("".join(lines[:start]), fit[-1])
            await self._begin(Piece("".join(lines[start:])))

    async def _begin(self, piece: Piece) -> None:
        self._tail = piece
        await self.mount(piece)

    async def close(self) -> None:
        """Draw its last blocks once more: only now is it known where they end."""
        if not self._tail.folded:
            await self._tail.update(self._tail.text)

    async def replace(self, text: str) -> None:
        self._safe = SafeText()
        await self.remove_children()
        *before, last = pieces(safe_text(text))
        await self.mount_all(Piece(piece, folded=True) for piece in before)
        await self._begin(Piece(last))


class Talk(VerticalScroll):
    """Stays at the end until one scrolls away from it."""

    can_focus = True

    def __init__(self) -> None:
        super().__init__()
        self._live: list[Piece] = []

    def compose(self) -> ComposeResult:
        yield Vertical(id="said")

    def on_mount(self) -> None:
        self.anchor()

    @on(Piece.Seen)
    async def _seen(self, message: Piece.Seen) -> None:
        """Widgets for what is in sight; those of what has long been out of it go."""
        piece = message.piece
        if piece.folded and piece.is_attached:
            await piece.unfold()
        self._live = [one for one in self._live if one is not piece and one.is_attached and not one.folded]
        self._live.append(piece)
        if len(self._live) > LIVE and not self.screen.selections:
            in_sight = self.screen._compositor.visible_widgets
            for one in self._live[: len(self._live) - LIVE]:
                if one not in in_sight and one.size:
                    await one.fold()

    async def say(self, text: str, kind: str = "notice") -> None:
        """A text as it is. `kind`: `user`, `notice` or `error`."""
        marks = {"user": "❯ ", "error": "error: "}
        content = Content(marks.get(kind, "") + safe_text(text))
        await self._mount(Static(content, classes=f"say {kind}", markup=False))

    async def answer(self) -> Answer:
        widget = Answer()
        await self._mount(widget)
        return widget

    async def wipe(self) -> None:
        await self._said.remove_children()

    @property
    def room(self) -> int:
        """Cells a line of text has."""
        return max(self.content_size.width - 1, 20)

    @property
    def _said(self) -> Vertical:
        return self.query_one("#said", Vertical)

    async def _mount(self, widget: Widget) -> None:
        await self._said.mount(widget)
        parts = 0
        shown = [child for child in self._said.children if not child.has_class("earlier")]
        for at in range(len(shown) - 1, -1, -1):
            parts += 1 + len(shown[at].children)
            if parts > PARTS and at < len(shown) - 1:
                await self._said.remove_children([*self._said.query(".earlier"), *shown[: at + 1]])
                await self._said.mount(Static(_EARLIER, classes="say notice earlier", markup=False), before=0)
                return
