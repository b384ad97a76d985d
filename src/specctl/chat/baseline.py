"""Plain decoding's speed on this machine, remembered: what a speedup in the chat is measured against."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Sequence
from statistics import median

from specctl import paths
from specctl.errors import MachineError
from specctl.events import Event, Timed
from specctl.store.files import write_atomic

PROBE_TOKENS = 24
_WARM_UP = 4


def load(key: str) -> float | None:
    """Tokens per second, or None where nothing (or nonsense) is stored."""
    value = _known().get(key)
    return value if isinstance(value, int | float) and 0 < value < 1e6 else None


def save(key: str, tokens_per_s: float) -> None:
    """Only a cache: where it cannot be written the next chat measures again."""
    path = paths.cache_dir() / "plain-speed.json"
    with contextlib.suppress(OSError, MachineError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({**_known(), key: tokens_per_s}, indent=1).encode())


def of_events(events: Sequence[Event]) -> float | None:
    """Tokens per second of a plain run: the median round, the first few left out."""
    seconds = [event.round_s for event in events if isinstance(event, Timed)][_WARM_UP:]
    return 1 / median(seconds) if seconds and median(seconds) > 0 else None


def _known() -> dict[str, object]:
    try:
        known = json.loads((paths.cache_dir() / "plain-speed.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return known if isinstance(known, dict) else {}
