"""How much memory a run took on top of what was held before, and what models weigh."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from torch import nn

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
    return sum(_tensors(lm.module).values())


def step_bytes(lm: LM) -> int:
    """Bytes of weights a forward of one token reads: an embedding table only where it is the head as well."""
    read: dict[int, int] = {}
    for module in lm.module.modules():
        if not isinstance(module, nn.Embedding):
            read |= _tensors(module, recurse=False)
    return sum(read.values())


def _tensors(module: nn.Module, recurse: bool = True) -> dict[int, int]:
    """Where each weight is, and its bytes."""
    found = [*module.parameters(recurse), *module.buffers(recurse)]
    return {tensor.data_ptr(): tensor.numel() * tensor.element_size() for tensor in found}
