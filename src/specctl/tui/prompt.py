"""Where one types: several lines, a history, and completion of slash commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from textual import events
from textual.binding import Binding, BindingType
from textual.message import Message
from textual.widgets import TextArea

from specctl.cli.safe_text import safe_text
from specctl.tui.hints import Hints

_OURS = ("send", "newline", "complete")


class Prompt(TextArea):
    """Enter sends; Ctrl+J (and Shift+Enter, where the terminal can tell) begins a new line."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("enter", "send", "Send", id="send", show=False),
        Binding("ctrl+j,shift+enter", "newline", "New line", id="newline", show=False),
        Binding("up", "earlier", "Earlier", id="history.earlier", show=False),
        Binding("down", "later", "Later", id="history.later", show=False),
        Binding("tab", "complete", "Complete", id="complete", show=False),
        Binding("ctrl+d", "delete_or_quit", "Quit when empty", id="quit.empty", show=False),
    ]

    class Sent(Message):
        def __init__(self, text: str) -> None:
            super().__init__()
            self.text = text

    def __init__(self, sent: Sequence[str] = ()) -> None:
        """`sent`: what was sent before, oldest first."""
        super().__init__(id="prompt", soft_wrap=True, placeholder="Ask something; / for commands")
        self.sent = list(sent)
        self._at = len(self.sent)

    async def _on_key(self, event: events.Key) -> None:
        """Keys of ours before the editor's. Not as priority bindings: those overtake what was typed before them."""
        found = None if event.is_printable else self.screen.active_bindings.get(event.key)
        if found is not None and found.node is self and found.binding.action in _OURS:
            event.stop()
            event.prevent_default()
            await self.run_action(found.binding.action)
        else:
            await super()._on_key(event)

    def fill(self, text: str) -> None:
        self.load_text(safe_text(text))
        self.move_cursor(self.document.end)

    def remember(self, text: str) -> None:
        """For Up and Down."""
        if self.sent[-1:] != [text]:
            self.sent.append(text)
        self._at = len(self.sent)

    @property
    def _hints(self) -> Hints:
        return self.screen.query_one(Hints)

    def action_send(self) -> None:
        text = self.text.strip()
        if not text:
            return
        if (chosen := self._hints.chosen()) is not None and chosen != text:
            self.fill(f"{chosen} ")
            return
        self.remember(text)
        self.load_text("")
        self.post_message(self.Sent(text))

    def action_newline(self) -> None:
        self.insert("\n")

    def action_complete(self) -> None:
        if (chosen := self._hints.chosen(otherwise=0)) is not None:
            self.fill(f"{chosen} ")

    def action_delete_or_quit(self) -> None:
        if self.text:
            self.action_delete_right()
        else:
            self.app.exit()

    def action_earlier(self) -> None:
        if self._hints.is_open:
            self._hints.move(-1)
        elif self.cursor_location[0] > 0:
            self.action_cursor_up()
        elif self._at > 0:
            self._at -= 1
            self.fill(self.sent[self._at])

    def action_later(self) -> None:
        if self._hints.is_open:
            self._hints.move(1)
        elif self.cursor_location[0] < self.document.line_count - 1:
            self.action_cursor_down()
        elif self._at < len(self.sent):
            self._at += 1
            self.fill(self.sent[self._at] if self._at < len(self.sent) else "")

    async def _on_paste(self, event: events.Paste) -> None:
        """Pasted control characters are shown instead of kept."""
        event.stop()
        event.prevent_default()
        if result := self._replace_via_keyboard(safe_text(event.text.replace("\r", "\n")), *self.selection):
            self.move_cursor(result.end_location)
