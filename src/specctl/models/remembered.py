"""What was measured once for a machine and a model, in files of the cache folder. A lost one is measured again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from specctl import paths
from specctl.errors import MachineError
from specctl.store.files import write_atomic


def load(kind: str) -> dict[str, Any]:
    """All that is remembered of a kind, by fingerprint; nothing where the file is missing or broken."""
    try:
        known = json.loads((paths.cache_dir() / f"{kind}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def add(kind: str, found: Mapping[str, Any]) -> None:
    """Where it cannot be written the next start measures again."""
    path = paths.cache_dir() / f"{kind}.json"
    with suppress(OSError, MachineError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, json.dumps({**load(kind), **found}, indent=1).encode())
