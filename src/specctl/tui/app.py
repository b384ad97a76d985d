"""The application: one screen to begin with, the user's theme and keys, and a terminal left as it was found."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import partial
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
        self._stopped = False

    def on_mount(self) -> None:
        if self._config.theme in self.available_themes:
            self.theme = self._config.theme
        self.set_keymap(dict(self._config.keymap))
        if not self.is_headless:
            self._heed_signals()
        self.push_screen(self._first())

    @property
    def crash(self) -> Exception | None:
        """The exception that ended the application, if one did."""
        return self._exception

    def _fatal_error(self) -> None:
        """Textual would print a traceback with all its variables; ours goes where those of other commands go."""
        self._close_messages_no_wait()

    def _heed_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for name in ("SIGTERM", "SIGHUP", "SIGINT"):
            with suppress(NotImplementedError, AttributeError):  # not every system has them
                number = getattr(signal, name)
                loop.add_signal_handler(number, partial(self.exit, return_code=128 + number))
        if hasattr(signal, "SIGHUP"):
            signal.signal(signal.SIGHUP, hung_up)  # the loop hears of it all the same
        driver = self._driver
        if driver is None or not driver.can_suspend or not hasattr(signal, "SIGCONT"):
            return
        stop, go_on = signal.getsignal(signal.SIGTSTP), signal.getsignal(signal.SIGCONT)

        def stopping(*args: Any) -> None:
            self._stopped = True
            stop(*args)  # type: ignore[operator, misc]

        def going_on(*args: Any) -> None:
            # After a SIGSTOP, which nobody is told of, Textual would start a second reader beside the first.
            if not self._stopped and driver._auto_restart:
                driver.suspend_application_mode()
            self._stopped = False
            go_on(*args)  # type: ignore[operator, misc]

        signal.signal(signal.SIGTSTP, stopping)
        signal.signal(signal.SIGCONT, going_on)


def hung_up(*args: Any) -> None:
    """Where the terminal is gone, writing to it waits for ever, and so would leaving in order."""
    if sys.__stderr__ is None or not sys.__stderr__.isatty():
        os._exit(128 + signal.SIGHUP)
