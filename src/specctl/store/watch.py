"""Progress of a download done by someone else (pip, the hub client): how fast a folder grows."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from pathlib import Path

from specctl.store.progress import Progress

_INTERVAL_S = 0.2


def folder_bytes(folder: Path) -> int:
    """Bytes of all files below, links not followed; files that vanish meanwhile count as nothing."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            if path.is_file() and not path.is_symlink():
                total += path.stat().st_size
    return total


@contextlib.contextmanager
def growth(folder: Path, progress: Progress, limit: int) -> Iterator[None]:
    """Tell `progress` how many bytes `folder` gains; at a good end exactly `limit`, never more."""
    base = folder_bytes(folder)
    stop = threading.Event()
    told = 0

    def look() -> None:
        nonlocal told
        while not stop.wait(_INTERVAL_S):
            gained = min(folder_bytes(folder) - base, limit)
            if gained > told:
                progress.advance(gained - told)
                told = gained

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
    progress.advance(limit - told)
