"""How downloads and conversions show on standard error: a bar on a terminal, a few plain lines elsewhere."""

from __future__ import annotations

import os
import sys
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from specctl.cli import console
from specctl.cli.safe_text import safe_line
from specctl.store.progress import Progress, SilentProgress

if TYPE_CHECKING:
    from rich.progress import Progress as RichBars
    from rich.progress import TaskID


def size(n_bytes: int | None) -> str:
    """Bytes for people, in powers of ten as disks and the hub count."""
    if n_bytes is None:
        return "?"
    amount = float(n_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 999.5:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 99.5 else f"{amount:.3g} {unit}"
        amount /= 1000
    return f"{amount:.3g} TB"


def progress(*, quiet: bool) -> AbstractContextManager[Progress]:
    """The right progress for this standard error, to be used in a `with`."""
    if quiet:
        return nullcontext(SilentProgress())
    if console.is_live(sys.stderr) and not os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS"):
        return BarProgress()
    return nullcontext(LineProgress())


class LineProgress:
    def start(self, what: str, total_bytes: int | None) -> None:
        console.note(what + (f" ({size(total_bytes)})" if total_bytes else ""), "plain")

    def advance(self, n_bytes: int) -> None:
        pass

    def note(self, text: str) -> None:
        console.note(text, "plain")

    def done(self) -> None:
        pass


class BarProgress:
    """Bars leave no trace once done; what stays on the screen is said by notes."""

    def __init__(self) -> None:
        self._bars: RichBars | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> BarProgress:
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn
        from rich.progress import TransferSpeedColumn as Speed

        columns = (TextColumn("{task.description}", markup=False), BarColumn(None), DownloadColumn(), Speed())
        screen = Console(stderr=True, highlight=False)
        self._bars = Progress(*columns, TimeRemainingColumn(compact=True), console=screen, transient=True)
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def start(self, what: str, total_bytes: int | None) -> None:
        if self._bars is not None:
            self._task = self._bars.add_task(safe_line(what), total=total_bytes)

    def advance(self, n_bytes: int) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.advance(self._task, n_bytes)

    def note(self, text: str) -> None:
        if self._bars is not None:
            self._bars.console.print(safe_line(text), markup=False, highlight=False, style="dim")

    def done(self) -> None:
        if self._bars is not None and self._task is not None:
            self._bars.remove_task(self._task)
            self._task = None
