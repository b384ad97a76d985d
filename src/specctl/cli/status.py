"""One dim line under text that is still being written, without disturbing that text."""

from __future__ import annotations

import os
import sys
import time

from specctl.cli import console

_INTERVAL_S = 0.1

# Down one row in the same column (scrolling if need be) and up again: now there is a row below to draw on.
_MAKE_ROOM = "\x1bD\x1b[A"
_TO_ROW_BELOW = "\x1b7\x1b[B\r\x1b[2K"
_BACK = "\x1b8"
_CLEAR_BELOW = "\x1b[J"
_CLEAR_ROW = "\r\x1b[2K"


class StatusLine:
    """On standard error. `under_text`: text is being written to the same terminal, by `write_text`.

    The text's column is followed only to know when a write will reach the status line, and when the cursor
    waits behind the last column, where moving it would lose that state.
    """

    def __init__(self, *, under_text: bool) -> None:
        self._under_text = under_text
        self._column = 0
        self._shown = False
        self._shown_at = float("-inf")

    @property
    def column(self) -> int:
        return self._column

    def due(self) -> bool:
        """At most ten new figures a second; at once if the line had to make way for text."""
        return not self._shown or time.monotonic() - self._shown_at >= _INTERVAL_S

    def before_text(self, text: str) -> None:
        """To be called with every (safe) text that is about to be written to the same terminal."""
        from rich.cells import cell_len

        width = _width()
        *full, rest = text.split("\n")
        start = 0 if full else self._column
        end = start + cell_len(rest.expandtabs(8))
        if self._shown and (full or end >= width):
            self.hide()
        self._column = (end - 1) % width + 1 if end else 0

    def show(self, text: str) -> None:
        from rich.cells import set_cell_size

        width = _width()
        if self._under_text and self._column == width:
            return
        line = console.paint(set_cell_size(text, width - 1).rstrip(), "dim", sys.stderr)
        if self._under_text:
            console.err(_MAKE_ROOM + _TO_ROW_BELOW + line + _BACK)
        else:
            console.err(_CLEAR_ROW + line)
        self._shown = True
        self._shown_at = time.monotonic()

    def hide(self) -> None:
        if self._shown:
            console.err(_CLEAR_BELOW if self._under_text else _CLEAR_ROW)
            self._shown = False


def _width() -> int:
    try:
        return os.get_terminal_size(sys.stderr.fileno()).columns or 80
    except OSError:
        return 80
