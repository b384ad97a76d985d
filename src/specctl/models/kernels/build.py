"""`layers.c`, compiled once for this machine and kept in the cache folder; None where that cannot be.

Needs Linux, a processor with AVX-512 VNNI and a C compiler (`cc`). Without them drafts in 4 bits run on torch's
operators: the same output, later. `SPECCTL_KERNELS=torch` asks for that.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import suppress
from functools import cache
from importlib.resources import files
from pathlib import Path

from specctl import paths

_NEEDED = {"avx512f", "avx512bw", "avx512vl", "avx512_vnni"}
_COMPILE = ("-O3", "-march=native", "-ffast-math", "-fopenmp", "-fPIC", "-std=gnu11")
# `-ffast-math` not here: it would link code that sets how the whole process treats tiny floats.
_LINK = ("-shared", "-fopenmp", "-lm")
_TIMEOUT = 120


@cache
def built() -> ctypes.CDLL | None:
    """The compiled functions, or None. torch has to be loaded before: its OpenMP threads are shared."""
    if lacking() is not None:
        return None
    source = files(__package__).joinpath("layers.c").read_bytes()
    with suppress(OSError, subprocess.SubprocessError):
        return ctypes.CDLL(str(compiled(source)))
    return None


def lacking() -> str | None:
    """What this machine would need for them; None if nothing, though compiling may still fail."""
    if os.environ.get("SPECCTL_KERNELS") == "torch":
        return "SPECCTL_KERNELS is `torch`"
    if sys.platform != "linux":
        return "only written for Linux"
    if not set(_processor_flags().split()) >= _NEEDED:
        return "the processor has no AVX-512 VNNI"
    return None if _compiler() else "there is no C compiler (`cc`)"


def _compiler() -> str | None:
    return shutil.which("cc") or shutil.which("gcc")


def _processor_flags() -> str:
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("flags"):
                return line
    return ""


def compiled(source: bytes) -> Path:
    """The shared object of this source, made unless it is there. Raises OSError or SubprocessError."""
    compiler = _compiler()
    if compiler is None:
        raise FileNotFoundError("cc")
    facts = [source, _processor_flags().encode(), " ".join(_COMPILE).encode()]
    path = (
        paths.cache_dir() / "kernels" / f"layers-{hashlib.sha256(bytes(1).join(facts)).hexdigest()[:16]}.so"
    )
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            code, made, linked = (Path(folder) / name for name in ("layers.c", "layers.o", "layers.so"))
            code.write_bytes(source)
            _call(compiler, *_COMPILE, "-c", str(code), "-o", str(made))
            _call(compiler, str(made), *_LINK, "-o", str(linked))
            linked.replace(path)  # whole or not at all, also for whoever compiles at the same time
    return path


def _call(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=_TIMEOUT)
