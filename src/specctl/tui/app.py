"""The application: one screen to begin with, the user's theme and keys."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from textual.app import App
from textual.binding import Binding, BindingType
from textual.screen import Screen

from specctl.chat.config import ChatConfig


class Workbench(App[None]):
    CSS_PATH = "chat.tcss"
    TITLE = "specctl"
    BINDINGS: ClassVar[list[BindingType]] = [Binding("ctrl+q", "quit", "Quit", id="quit", priority=True)]

    def __init__(self, first: Callable[[], Screen[Any]], config: ChatConfig) -> None:
        super().__init__()
        self._first = first
        self._config = config

    def on_mount(self) -> None:
        if self._config.theme in self.available_themes:
            self.theme = self._config.theme
        self.set_keymap(dict(self._config.keymap))
        self.push_screen(self._first())
