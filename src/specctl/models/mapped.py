"""Giving back the memory of weights that were read once, to be laid out or rounded, and lie in a mapped file.

Pages of a mapping that were touched count as the process's own until memory is short, so a converted model would
seem to take the memory of two. Linux only; elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import mmap
import re
from contextlib import suppress
from pathlib import Path

from torch import Tensor, nn

_DONTNEED = 4
_AREA = re.compile(rb"^([0-9a-f]+)-([0-9a-f]+) .*?(/.*)?$")


Areas = list[tuple[int, int]]


def release(module: nn.Module, areas: Areas | None = None) -> None:
    """Forget the pages of the module's weights; whoever reads them again has them read from the file."""
    areas = clean_areas() if areas is None else areas
    for weight in module.parameters():
        forget(weight, areas)


def forget(weight: Tensor, areas: Areas) -> None:
    """The same of one weight, if it lies in one of the `clean_areas`."""
    first = weight.data_ptr()
    last = first + weight.numel() * weight.element_size()
    if any(start <= first and last <= end for start, end in areas):
        # Whole pages inside: those at the ends may hold something else.
        page = -(-first // mmap.PAGESIZE) * mmap.PAGESIZE
        size = last // mmap.PAGESIZE * mmap.PAGESIZE - page
        if size > 0:
            ctypes.CDLL(None).madvise(ctypes.c_void_p(page), ctypes.c_size_t(size), _DONTNEED)


def clean_areas() -> Areas:
    """Where safetensors files are mapped in which nothing was written: what was would be lost."""
    areas: Areas = []
    with suppress(OSError):
        area: tuple[int, int] | None = None
        for line in Path("/proc/self/smaps").read_bytes().splitlines():
            if head := _AREA.match(line):
                area = (int(head[1], 16), int(head[2], 16))
                area = area if (head[3] or b"").endswith(b".safetensors") else None
            elif area and line.startswith(b"Private_Dirty:") and int(line.split()[1]) == 0:
                areas.append(area)
    return areas
