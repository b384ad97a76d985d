"""How much memory a run took on top of what was held before, and what models weigh."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from specctl.models.lm import LM

_PROC = Path("/proc/self")


class PeakMemory:
    """In a `with`: afterwards `growth_bytes` is how far resident memory rose above its level at entry.

    Linux only, where a process may reset its own high-water mark; None elsewhere.
    """

    growth_bytes: int | None = None

    def __enter__(self) -> PeakMemory:
        self._before: int | None = None
        with suppress(OSError):
            (_PROC / "clear_refs").write_text("5")
            self._before = _status_bytes("VmRSS")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        peak = _status_bytes("VmHWM")
        if peak is not None and self._before is not None:
            self.growth_bytes = max(peak - self._before, 0)


def _status_bytes(field: str) -> int | None:
    try:
        text = (_PROC / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def weight_bytes(lm: LM) -> int:
    """Bytes of all weights, shared ones once."""
    tensors = {tensor.data_ptr(): tensor for tensor in (*lm.module.parameters(), *lm.module.buffers())}
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())


def step_bytes(lm: LM) -> int:
    """Bytes of weights one forward of a single token reads: the embedding table only where it is the head too."""
    table = lm.module.get_input_embeddings().weight  # type: ignore[operator]
    head = lm.module.get_output_embeddings()  # type: ignore[operator]
    tied = head is not None and getattr(head, "weight", None) is table
    return weight_bytes(lm) - (0 if tied else table.numel() * table.element_size())
