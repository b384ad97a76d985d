"""The conversation: prompts as typed, answers as Markdown that streams, notices in between."""

from __future__ import annotations

from textual.containers import VerticalScroll
from textual.content import Content
from textual.widgets import Markdown, Static

from specctl.cli.safe_text import SafeText, safe_text


class Answer(Markdown):
    """An answer that grows; safe at every split of its text."""

    def __init__(self) -> None:
        super().__init__(open_links=False)
        self._safe = SafeText()
        self._text = ""

    async def add(self, text: str) -> None:
        shown = self._safe.feed(text)
        if shown:
            self._text += shown
            await self.append(shown)

    async def close(self) -> None:
        """Draw the whole text once more: only now is it known where its blocks end."""
        await self.update(self._text)

    async def replace(self, text: str) -> None:
        self._text = safe_text(text)
        await self.update(self._text)


class Talk(VerticalScroll):
    """Stays at the end until one scrolls away from it."""

    can_focus = True

    def on_mount(self) -> None:
        self.anchor()

    async def say(self, text: str, kind: str = "notice") -> None:
        """A text as it is. `kind`: `user`, `notice` or `error`."""
        marks = {"user": "❯ ", "error": "error: "}
        content = Content(marks.get(kind, "") + safe_text(text))
        await self.mount(Static(content, classes=f"say {kind}", markup=False))

    async def answer(self) -> Answer:
        widget = Answer()
        await self.mount(widget)
        return widget

    async def wipe(self) -> None:
        await self.remove_children()
