"""The conversation: prompts as typed, answers as Markdown that streams, notices in between."""

from __future__ import annotations

from textual.app import ComposeResult
from textual.containers import Vertical, VerticalScroll
from textual.content import Content
from textual.widget import Widget
from textual.widgets import Markdown, Static
from textual.widgets.markdown import MarkdownBlock

from specctl.cli.safe_text import SafeText, safe_text

BLOCKS = 80
"""Paragraphs, lists and code blocks of an answer that stay on the screen at least; twice as many at most."""

_EARLIER = "… what came before is no longer drawn; /export writes all of it"


class Answer(Markdown):
    """An answer that grows; safe at every split of its text. Of a very long one the end is drawn."""

    def __init__(self) -> None:
        super().__init__(open_links=False)
        self._safe = SafeText()
        self._text = ""
        self._cut = False

    async def add(self, text: str) -> None:
        shown = self._safe.feed(text)
        if not shown:
            return
        self._text += shown
        await self.append(shown)
        if len(self.children) > 2 * BLOCKS:
            await self.remove_children(list(self.children)[:-BLOCKS])
            self._cut = True

    async def close(self) -> None:
        """Draw the text once more: only now is it known where its blocks end."""
        text = self._text
        if self._cut:
            start = self.query_children(MarkdownBlock).first().source_range[0]
            text = f"*{_EARLIER}*\n\n" + "".join(text.splitlines(keepends=True)[start:])
        await self.update(text)

    async def replace(self, text: str) -> None:
        self._text = safe_text(text)
        await self.update(self._text)


class Talk(VerticalScroll):
    """Stays at the end until one scrolls away from it."""

    can_focus = True

    def compose(self) -> ComposeResult:
        yield Vertical(id="said")

    def on_mount(self) -> None:
        self.anchor()

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
        blocks = 0
        shown = [child for child in self._said.children if not child.has_class("earlier")]
        for at in range(len(shown) - 1, -1, -1):
            blocks += 1 + len(shown[at].children)
            if blocks > 4 * BLOCKS and at < len(shown) - 1:
                await self._said.remove_children([*self._said.query(".earlier"), *shown[: at + 1]])
                await self._said.mount(Static(_EARLIER, classes="say notice earlier", markup=False), before=0)
                return
